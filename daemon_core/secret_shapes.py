"""Which texts look like a secret, and where they stand in a text.

Decides by what stands before a secret (a header, a variable's name) or by the prefix that its issuer gives it, so
ordinary numbers such as ``tokens_out=12`` stay. A word in lower case behind such a name is the next word of a sentence,
unless ``=`` or ``:`` stands between them. A pattern is tried only near a *mark*, which none of its matches can do
without: to try it at every character of a long prompt would hold everybody up. The work is done in steps, none of which
takes longer than a few milliseconds whatever the text is. Values in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from daemon_core.steps import Steps, finished

MASK = "***"
REACH = 512
"""Whether something that looks like a secret begins at a character, so many behind it decide."""
CONTEXT = 8
"""So many before it."""
CLOSE = 32
"""Marks that are nearer to each other than this are not worth looking at one by one."""
CROWD = 16
"""So many of them in a row make a crowd: there the pattern is tried at every character."""
WINDOW = 1024
"""Of so many characters at once."""
STEP = 1024
"""The work of one step, in marks that are looked at."""
WINDOW_WORK = 32
"""What a window counts for."""
LOOKED_THROUGH = 2048
"""So many characters without a mark count for one."""

_NAMES = r"api[_-]?key|access[_-]?key|secret(?:[_-]?access)?[_-]?key|client[_-]?secret|password|passwd|private[_-]?key"
_WORD = r"(?-i:[a-z]{1,14})(?:[\s\"',;&)}\]]|[.:!?](?:\s|$)|$)"
# Where a word begins, also behind a line break and the like that was escaped: there a letter stands before it.
_START = r"(?:\b|(?<=\\[abfnrtv])|(?<=\\x[0-9a-fA-F]{2})|(?<=\\u[0-9a-fA-F]{4}))"


class Shape(NamedTuple):
    """One way in which a secret shows itself. Its pattern's first group stays, the rest of a match is the secret."""

    marks: tuple[str, ...]
    """Each match holds one of them."""
    before: int
    """So far behind the beginning of the match at the most."""
    whole: re.Pattern[str]
    near: re.Pattern[str]
    """The same, from ``before`` characters before its beginning on."""
    cased: bool
    """Whether the marks stand there just so, and not in lower case or upper case."""
    reach: int = REACH


def _shape(marks: tuple[str, ...], before: int, pattern: str, *, cased: bool = False) -> Shape:
    # ASCII: what is a letter in another alphabet does not hide a prefix that stands behind it.
    flags = re.IGNORECASE | re.ASCII
    return Shape(
        marks,
        before,
        re.compile(pattern, flags),
        re.compile(rf"(?s:.{{0,{before}}}?){pattern}", flags),
        cased,
    )


SHAPES = (
    # Authorization: Bearer abc, Proxy-Authorization: Basic abc, and not what our own hints say: Bearer <token>
    _shape(
        ("authorization",),
        0,
        r"(authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:bearer|basic|token|digest)\s{1,4})(?!<token>)[^\s\"',;]+",
    ),
    # The bare scheme, as error texts of HTTP libraries show it.
    _shape(("bearer",), 0, rf"{_START}(bearer\s{{1,4}})[A-Za-z0-9._~+/=-]{{6,}}"),
    # api_key=abc, "x-api-key": "abc", password: abc
    _shape(
        ("key", "secret", "passw"),
        len("secret_access_"),
        rf"((?:{_NAMES})[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"']?)(?!None\b|null\b)[^\s\"',;&)}}\]]+",
    ),
    # --api-key abc1, and not: --api-key is refused
    _shape(
        ("key", "secret", "passw"),
        len("secret_access_"),
        rf"((?:{_NAMES})[\"']?\s[\"']?)(?!None\b|null\b|{_WORD})[^\s\"',;&)}}\]]+",
    ),
    # Environment variables: LLAMA_API_KEY=abc, HF_TOKEN=abc, 'LLORCH_API_TOKEN': 'abc'
    _shape(
        ("_TOKEN", "_KEY", "_SECRET", "_PASSWORD"),
        61,
        rf"((?-i:{_START}[A-Z][A-Z0-9_]{{0,60}}_(?:TOKEN|KEY|SECRET|PASSWORD))"
        r"[\"']?\s{0,4}[:=]\s{0,4}[\"']?)[^\s\"',;&)}\]]+",
        cased=True,
    ),
    # ?token=abc&X-Amz-Signature=abc
    _shape(
        ("token=", "auth=", "sig=", "signature=", "credential="),
        len("?x-amz-security-"),
        r"([?&](?:token|access_token|auth|sig|signature|x-amz-signature|x-amz-credential|x-amz-security-token)=)"
        r"[^\s&\"'#]+",
    ),
    # https://user:password@host
    _shape(("://",), 21, r"\b([a-z][a-z0-9+.-]{0,20}://)[^\s/@\"']{1,256}(?=@)"),
    # Tokens that their issuer marks: Hugging Face, GitHub, GitLab, OpenAI, AWS.
    _shape(
        ("hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "sk-"),
        0,
        rf"(?-i:{_START}()(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{{16,}})",
        cased=True,
    ),
    _shape(("AKIA",), 0, rf"(?-i:{_START}()AKIA[0-9A-Z]{{16}}(?![0-9A-Z]))", cased=True),
)
# What at least one of the shapes cannot do without, in lower case, behind a character that most texts lack: a short
# text is looked through for these alone.
_TRACES = {
    "": ("authorization", "bearer", "key", "secret", "passw", "akia", "://"),
    "_": ("_token", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    "=": ("token=", "auth=", "sig=", "signature="),
    "-": ("x-amz-", "glpat-"),
}
_SK = re.compile(rf"{_START}sk-", re.ASCII)
SHORT = 4096
"""The longest text for which one look at all traces is worth it; one of this length takes no time to speak of."""
_SHORT = 4096
"""The longest text for which one look at all traces is worth it."""


def shapeless(text: str) -> bool:
    """Whether nothing in a text, nor in any piece of it, looks like a secret; False also where that is not certain."""
    lowered = text.lower()
    traced = any(trace in lowered for mark, traces in _TRACES.items() if mark in lowered for trace in traces)
    return not traced and not _has_sk(text)


def without_shapes(text: str) -> str:
    """The text with a mask in place of what looks like a secret."""
    return text if len(text) <= SHORT and shapeless(text) else finished(in_steps(text))


def exactly(texts: Sequence[str]) -> Shape:
    """The shape of what is one of these texts; of two that begin at the same character the first counts."""
    pattern = re.compile(f"()(?:{'|'.join(map(re.escape, texts))})")
    return Shape(tuple(texts), 0, pattern, pattern, cased=True, reach=max(REACH, *map(len, texts)))


def in_steps(text: str, shapes: Iterable[Shape] = SHAPES) -> Steps[str]:
    """The text with a mask in place of what has one of these shapes, in steps."""
    lowered, work = None, 0
    for shape in shapes:
        if lowered is None and not shape.cased:
            lowered = _lowered(text)
        marked = text if shape.cased or lowered is None else lowered
        without, work = yield from _without(shape, text, marked, work)
        if without is not text:
            text, lowered = without, None
    return text


def _lowered(text: str) -> str:
    """In lower case, every character at its place: there is one that would become two."""
    return text.replace("\u0130", "\u0131").lower()


def _without(shape: Shape, text: str, marked: str, work: int) -> Steps[tuple[str, int]]:
    """What it would be had the pattern been tried at every character from left to right.

    ``marked``: the text as its marks stand in it; ``work``: what has been done since the last step, then and now.
    """
    pieces: list[str] = []
    nowhere = len(text)
    heads = dict.fromkeys(shape.marks, -1)
    """Where each mark stands next."""
    start = kept = crowd = 0
    last = -CLOSE
    while True:
        for mark in shape.marks:
            if heads[mark] < start:
                at = marked.find(mark, start)
                heads[mark] = nowhere if at < 0 else at
                work += (heads[mark] - start) // LOOKED_THROUGH
                if work >= STEP:
                    yield
                    work = 0
        at = min(heads.values())
        if at == nowhere:
            return ("".join((*pieces, text[kept:])) if pieces else text), work
        crowd = crowd + 1 if at - last < CLOSE else 0
        last = at
        first = max(start, at - shape.before)
        if crowd < CROWD:
            match = shape.near.match(text, first)
            start = at + 1
            work += 1
        else:
            match, start = _in_window(shape, text, first)
            last = start
            work += WINDOW_WORK if match is None else 1
        if match is not None:
            pieces += text[kept : match.end(1)], MASK
            start = last = kept = match.end()
        if work >= STEP:
            yield
            work = 0


def _in_window(shape: Shape, text: str, first: int) -> tuple[re.Match[str] | None, int]:
    """The first match that begins in the window that begins here, and where the next window does."""
    following = first + WINDOW
    end = following + shape.reach
    match = shape.whole.search(text, first, end)
    if match is None or match.start() >= following:
        return None, following
    # One that reaches to the end of what was looked at may go on behind it.
    return (shape.whole.match(text, match.start()) if match.end() == end else match), following


def _has_sk(text: str) -> bool:
    """Whether there is ``sk-...``, and not only ``task-...``, which most of our texts have."""
    return "sk-" in text and "sk-" in text.replace("task-", "") and _SK.search(text) is not None
