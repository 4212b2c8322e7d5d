"""Takes secrets out of text before anybody reads it.

Decides what is a secret: every value that was registered, in the spellings that texts give it, and what looks like one.
Never prints and never logs. A shape is redacted by what stands before it (a header, a variable's name) or by the prefix
that its issuer gives it, so ordinary numbers such as ``tokens_out=12`` stay. A word in lower case behind such a name is
the next word of a sentence, unless ``=`` or ``:`` stands between them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote

MASK = "***"

_NAMES = r"api[_-]?key|access[_-]?key|secret(?:[_-]?access)?[_-]?key|client[_-]?secret|password|passwd|private[_-]?key"
_WORD = r"(?-i:[a-z]{1,14})(?:[\s\"',;&)}\]]|[.:!?](?:\s|$)|$)"
# Where a word begins, also behind a line break and the like that was escaped: there a letter stands before it.
_START = r"(?:\b|(?<=\\[abfnrtv])|(?<=\\x[0-9a-fA-F]{2})|(?<=\\u[0-9a-fA-F]{4}))"
_PATTERNS = (
    # Authorization: Bearer abc, Proxy-Authorization: Basic abc, and not what our own hints say: Bearer <token>
    (
        r"(authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:bearer|basic|token|digest)\s{1,4})(?!<token>)[^\s\"',;]+",
        r"\1***",
    ),
    # The bare scheme, as error texts of HTTP libraries show it.
    (rf"{_START}(bearer\s{{1,4}})[A-Za-z0-9._~+/=-]{{6,}}", r"\1***"),
    # api_key=abc, "x-api-key": "abc", password: abc
    (rf"((?:{_NAMES})[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"']?)(?!None\b|null\b)[^\s\"',;&)}}\]]+", r"\1***"),
    # --api-key abc1, and not: --api-key is refused
    (rf"((?:{_NAMES})[\"']?\s[\"']?)(?!None\b|null\b|{_WORD})[^\s\"',;&)}}\]]+", r"\1***"),
    # Environment variables: LLAMA_API_KEY=abc, HF_TOKEN=abc, 'LLORCH_API_TOKEN': 'abc'
    (
        (
            rf"(?-i:({_START}[A-Z][A-Z0-9_]{{0,60}}_(?:TOKEN|KEY|SECRET|PASSWORD)))"
            r"([\"']?\s{0,4}[:=]\s{0,4}[\"']?)[^\s\"',;&)}\]]+"
        ),
        r"\1\2***",
    ),
    # ?token=abc&X-Amz-Signature=abc
    (
        r"([?&](?:token|access_token|auth|sig|signature|x-amz-signature|x-amz-credential|x-amz-security-token)=)[^\s&\"'#]+",
        r"\1***",
    ),
    # https://user:password@host
    (r"\b([a-z][a-z0-9+.-]{0,20}://)[^\s/@\"']{1,256}@", r"\1***@"),
    # Tokens that their issuer marks: Hugging Face, GitHub, GitLab, OpenAI, AWS.
    (rf"(?-i:{_START}(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{{16,}})", MASK),
    (rf"(?-i:{_START}AKIA[0-9A-Z]{{16}}(?![0-9A-Z]))", MASK),
)
# What at least one of the shapes cannot do without, in lower case, behind a character that most texts lack: nearly all
# are looked for only where that is there. Looking for these costs a twentieth of the patterns.
_TRACES = {
    "": ("authorization", "bearer", "key", "secret", "passw", "akia", "://"),
    "_": ("_token", "hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    "=": ("token=", "auth=", "sig=", "signature="),
    "-": ("x-amz-", "glpat-"),
}
_SK = re.compile(rf"{_START}sk-", re.ASCII)
# ASCII: what is a letter in another alphabet does not hide a prefix that stands behind it.
SHAPES = tuple((re.compile(pattern, re.IGNORECASE | re.ASCII), replacement) for pattern, replacement in _PATTERNS)


MOST_USUAL = 256
"""How many texts a Redactor remembers to hold no secret."""
LEAST_LENGTH = 8
"""Characters of a variable's value below which it is no secret: a mask in place of every ``1`` hides the text."""


def secrets_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The values of the variables whose name says that they hold a secret (``HF_TOKEN``), for a Redactor."""
    return tuple(value for name, value in environ.items() if len(value) >= LEAST_LENGTH and names_a_secret(name))


def fingerprint(token: str) -> str:
    """Six hexadecimal digits that tell tokens apart in a log without telling the token."""
    return hashlib.sha256(token.encode()).hexdigest()[:6]


class Redactor:
    """Knows the secrets of one program. More can be registered while it runs."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        self._spellings: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self._usual: dict[str, bool] = {}
        for secret in secrets:
            self.register(secret)

    def register(self, secret: str) -> None:
        """From now on this value appears in no text; an empty one is no secret."""
        secret = secret.strip()
        if not secret:
            return
        self._spellings |= _spellings(secret)
        self._usual.clear()
        # The longest first: a secret that begins with another one must not leave its rest behind.
        longest_first = sorted(self._spellings, key=lambda spelling: (-len(spelling), spelling))
        self._known = re.compile("|".join(re.escape(spelling) for spelling in longest_first))

    def text(self, text: str) -> str:
        """The text with ``***`` in place of every secret."""
        return _without_shapes(self.prose(text))

    def harmless(self, text: str) -> bool:
        """Whether there is nothing to take out of a text, nor of any piece of it: one look for a whole log line."""
        return not any(spelling in text for spelling in self._spellings) and _shapeless(text)

    def usual(self, text: str) -> bool:
        """Whether ``text`` would come back as it is, remembered: for one that is looked at again and again."""
        known = self._usual.get(text)
        if known is None:
            if len(self._usual) >= MOST_USUAL:
                self._usual.clear()
            known = self._usual[text] = self.text(text) == text
        return known

    def prose(self, text: str) -> str:
        """The text with ``***`` in place of every registered secret: for what we wrote ourselves.

        What only looks like a secret stays. What another program said, and what somebody configured, wants ``text``.
        """
        if self._known is None or not any(spelling in text for spelling in self._spellings):
            return text
        return self._known.sub(MASK, text)

    def value(self, value: object) -> object:
        """A log field with its secrets taken out; what is not JSON comes back as its redacted text."""
        match value:
            case None | bool() | int() | float():
                return value
            case str():
                return self.text(value)
            case dict():
                return {self.text(str(key)): self.member(key, item) for key, item in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.value(item) for item in value]
            case _:
                return self.text(str(value))

    def member(self, key: object, value: object) -> object:
        """A named field with its secrets taken out: the name alone (``api_key``) can make its value one."""
        if isinstance(value, str) and value and names_a_secret(str(key)):
            return MASK
        return self.value(value)


def _shapeless(text: str) -> bool:
    lowered = text.lower()
    traced = any(trace in lowered for mark, traces in _TRACES.items() if mark in lowered for trace in traces)
    return not traced and not _has_sk(text)


def _without_shapes(text: str) -> str:
    """The text without what looks like a secret. Nearly every log line has none, so one look decides that first."""
    if _shapeless(text):
        return text
    for pattern, replacement in SHAPES:
        text = pattern.sub(replacement, text)
    return text


def _has_sk(text: str) -> bool:
    """Whether there is ``sk-...``, and not only ``task-...``, which most of our texts have."""
    return "sk-" in text and "sk-" in text.replace("task-", "") and _SK.search(text) is not None


@lru_cache(maxsize=1024)
def names_a_secret(key: str) -> bool:
    """Whether a field of this name holds a secret whatever its value looks like."""
    return _without_shapes(f"{key}=x").endswith(f"={MASK}")


def _spellings(secret: str) -> set[str]:
    """How a secret looks in plain text, in a URL, in JSON and in a Python repr."""
    return {
        secret,
        quote(secret, safe=""),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
    }
