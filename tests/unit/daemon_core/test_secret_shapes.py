"""What looks like a secret is found as if its pattern were tried at every character, and in steps that stay small."""

import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon_core import secret_shapes
from daemon_core.redaction import MASK, Redactor
from daemon_core.secret_shapes import CROWD, REACH, SHORT, STEP, WINDOW, exactly, in_steps, without_shapes
from daemon_core.steps import finished

NAMES = r"api[_-]?key|access[_-]?key|secret(?:[_-]?access)?[_-]?key|client[_-]?secret|password|passwd|private[_-]?key"
WORD = r"(?-i:[a-z]{1,14})(?:[\s\"',;&)}\]]|[.:!?](?:\s|$)|$)"
START = r"(?:\b|(?<=\\[abfnrtv])|(?<=\\x[0-9a-fA-F]{2})|(?<=\\u[0-9a-fA-F]{4}))"
PLAIN = (
    (
        r"(authorization[\"']?\s{0,4}[:=]\s{0,4}[\"']?(?:bearer|basic|token|digest)\s{1,4})(?!<token>)[^\s\"',;]+",
        r"\1***",
    ),
    (rf"{START}(bearer\s{{1,4}})[A-Za-z0-9._~+/=-]{{6,}}", r"\1***"),
    (rf"((?:{NAMES})[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"']?)(?!None\b|null\b)[^\s\"',;&)}}\]]+", r"\1***"),
    (rf"((?:{NAMES})[\"']?\s[\"']?)(?!None\b|null\b|{WORD})[^\s\"',;&)}}\]]+", r"\1***"),
    (
        (
            rf"(?-i:({START}[A-Z][A-Z0-9_]{{0,60}}_(?:TOKEN|KEY|SECRET|PASSWORD)))"
            r"([\"']?\s{0,4}[:=]\s{0,4}[\"']?)[^\s\"',;&)}\]]+"
        ),
        r"\1\2***",
    ),
    (
        r"([?&](?:token|access_token|auth|sig|signature|x-amz-signature|x-amz-credential|x-amz-security-token)=)[^\s&\"'#]+",
        r"\1***",
    ),
    (r"\b([a-z][a-z0-9+.-]{0,20}://)[^\s/@\"']{1,256}@", r"\1***@"),
    (rf"(?-i:{START}(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{{16,}})", MASK),
    (rf"(?-i:{START}AKIA[0-9A-Z]{{16}}(?![0-9A-Z]))", MASK),
)
"""The shapes as they are meant: whoever changes one changes it here too."""
FRAGMENTS = (
    *("Authorization: Bearer ", "authorization=", "basic ", "bearer ", "Bearer\n", "api_key=", "x-api-key: "),
    *("apikey ", "PASSWORD: ", "passwd", "privatekey ", "secret_access_key=", "client-secret ", "secret"),
    *("HF_TOKEN=", "MY_SECRET=", "\u0130", "\u212a", "\u017f"),
    *("A_", "_TOKEN", "_KEY", "?sig=", "?token=", "&X-Amz-Credential=", "&x-amz-security-token=", "https://", "a+b://"),
    *("user:pass@", "@", "hf_", "ghp_", "github_pat_", "glpat-", "sk-", "task-", "AKIA", "ABCDEFGHIJKLMNOP", "None"),
    *("abcdefghijklmnop0123", " ", "=", ": ", '"', "\\n", "\\u00e9", "é", "word", "<token>"),
    *("x" * 60, "x" * 300, "Q" * 70, "Q" * 40),
)


def plainly(text: str) -> str:
    for pattern, replacement in PLAIN:
        text = re.sub(pattern, replacement, text, flags=re.IGNORECASE | re.ASCII)
    return text


TEXTS = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=12).map("".join)


@pytest.mark.req("ORCH-3811")
@given(TEXTS)
@example("password=sesame" + "q" * 1000 + " api_key=")
def test_a_text_has_the_secrets_that_the_patterns_find_in_it(text: str) -> None:
    assert finished(in_steps(text)) == without_shapes(text) == plainly(text)


@pytest.mark.req("ORCH-3811")
@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from([CROWD, 40, 200]), TEXTS)
@example(["key "], 400, "\napi_key=" + "s" * (REACH + WINDOW))
@example(["A_KEY "], 300, "\n" + "A" * 62 + "_KEY=x")
def test_so_it_has_where_marks_are_crowded(repeated: list[str], times: int, text: str) -> None:
    crowded = text + "".join(each * times for each in repeated) + text
    assert finished(in_steps(crowded)) == plainly(crowded)


@pytest.mark.req("ORCH-3811")
@pytest.mark.parametrize(
    ("mark", "secret"),
    [
        ("key ", "api_key=sesame"),
        ("key ", "secret_access_key sesame1"),
        ("a:// ", f"https://{'u' * 255}@"),
        ("A_KEY ", f"{'A' * 61}_KEY=x"),
        ("AKIA ", "AKIAABCDEFGHIJKLMNOP"),
        ("AKIA ", "AKIAABCDEFGHIJKLMNOPQ"),
        ("bearer ", "Bearer abcdefgh"),
    ],
)
def test_a_secret_where_a_window_ends_is_found(mark: str, secret: str) -> None:
    before = CROWD * len(mark)
    for edge in (before + WINDOW, before + WINDOW + REACH):
        for place in range(edge - 70, edge + 10):
            full, rest = divmod(place, len(mark))
            text = f"{mark * full}{'.' * rest}{secret} {mark * 9}"
            assert finished(in_steps(text)) == plainly(text)


@pytest.mark.req("ORCH-3811")
@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=4, unique=True), st.text("abc"))
def test_exact_texts_are_found_as_well_the_first_one_first(secrets: list[str], text: str) -> None:
    for given_text in (text, text * 40):
        wanted = re.sub("|".join(map(re.escape, secrets)), MASK, given_text)
        assert finished(in_steps(given_text, (exactly(secrets),))) == wanted


LONG = {
    "words": "The moon shines on the snow. " * 20_000,
    "names": "api_key " * 60_000,
    "headers": "bearer " * 70_000,
    "schemes": "a://" * 120_000,
    "variables": "A_KEY" * 100_000,
    "tokens": "sk- " * 120_000,
    "nothing": "a" * 500_000,
    "one known": "sesame-open-sesame " * 25_000,
}


@pytest.mark.req("ORCH-3811")
@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_no_step_looks_at_more_than_its_share(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    class Counted:
        """A pattern that counts how often it is tried."""

        def __init__(self, pattern: re.Pattern[str]) -> None:
            self._pattern = pattern

        def match(self, *place: object) -> object:
            nonlocal looked
            looked += 1
            return self._pattern.match(*place)  # type: ignore[call-overload]

        def search(self, *place: object) -> object:
            nonlocal looked
            looked += 1
            _, first, end = place
            assert end - first <= WINDOW + REACH  # type: ignore[operator]
            return self._pattern.search(*place)  # type: ignore[call-overload]

    counted = [
        shape._replace(whole=Counted(shape.whole), near=Counted(shape.near))  # type: ignore[arg-type]
        for shape in secret_shapes.SHAPES
    ]
    steps = in_steps(text, counted)
    most = before = 0
    for _ in steps:
        most, before = max(most, looked - before), looked
    assert most <= STEP


@pytest.mark.req("ORCH-3811")
@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
def test_what_is_looked_at_in_steps_comes_out_the_same(text: str) -> None:
    redactor = Redactor(("sesame-open-sesame",))
    value = {"prompt": text, "api_key": "x", "more": [text[:SHORT], 1, None, {"a": text}], text[:9000]: "y"}
    outcome: list[object] = []

    def looking() -> Iterator[None]:
        outcome.append((yield from redactor.in_steps(value)))

    assert len(list(looking())) > len(text) // 80_000
    assert outcome == [redactor.value(value)]
    assert redactor.text(text) == plainly(text.replace("sesame-open-sesame", MASK))
