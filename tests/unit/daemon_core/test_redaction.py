import hashlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon_core.redaction import MASK, MOST_USUAL, Redactor, fingerprint, secrets_of
from tests.unit.daemon_core.test_secret_shapes import FRAGMENTS


@pytest.mark.req("ORCH-3811")
@given(st.text(min_size=6, max_size=40).filter(lambda text: text.strip() and MASK not in text), st.text(), st.text())
@example('quo"te\\back', "before ", " after")
@example("a/b+c=d&e", "https://host/?x=", "")
def test_a_registered_secret_is_in_no_text(secret: str, before: str, after: str) -> None:
    secret = secret.strip()
    redactor = Redactor((secret,))
    for text in (before + secret + after, json.dumps({"x": before + secret}), repr([secret])):
        redacted = redactor.text(text)
        assert secret not in redacted
        assert MASK in redacted


def test_a_secret_that_begins_with_another_one_leaves_nothing_behind() -> None:
    redactor = Redactor(("abcdef",))
    redactor.register("abcdef-and-more")
    assert redactor.text("<abcdef-and-more> <abcdef>") == "<***> <***>"


def test_an_empty_secret_is_none() -> None:
    assert Redactor(("", "  ")).text("as it was") == "as it was"


@pytest.mark.req("ORCH-3811")
@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("Authorization: Bearer abc.def-123", "Authorization: Bearer ***"),
        ("{'Authorization': 'Bearer abc'}", "{'Authorization': 'Bearer ***'}"),
        ("proxy-authorization=Basic dXNlcjpwdw==", "proxy-authorization=Basic ***"),
        ("sent Bearer abcdefgh to it", "sent Bearer *** to it"),
        ("--api-key s3cret --port 1", "--api-key *** --port 1"),
        ("api_key=s3cret, x", "api_key=***, x"),
        ('{"x-api-key": "s3cret"}', '{"x-api-key": "***"}'),
        ("LLAMA_API_KEY=s3cret ./llama-server", "LLAMA_API_KEY=*** ./llama-server"),
        ("env HF_TOKEN: s3cret", "env HF_TOKEN: ***"),
        ("{'LLORCH_API_TOKEN': 's3cret'}", "{'LLORCH_API_TOKEN': '***'}"),
        ("AWS_SECRET_ACCESS_KEY=a/b+c", "AWS_SECRET_ACCESS_KEY=***"),
        ("GET /x?a=1&token=s3cret&b=2", "GET /x?a=1&token=***&b=2"),
        ("https://user:pw@host/x", "https://***@host/x"),
        ("got hf_ABCDEFGHIJKLMNOPQRSTUV", "got ***"),
        ("password: hunter2", "password: ***"),
        ("--api-key hunter2, then", "--api-key ***, then"),
        ("password 'Sesame'", "password '***'"),
        ("--api-key abcdefghijklmnopqrst", "--api-key ***"),
        ("--api-key=sesame", "--api-key=***"),
        ("password: sesame", "password: ***"),
    ],
)
def test_what_looks_like_a_secret_is_redacted(text: str, redacted: str) -> None:
    assert Redactor().text(text) == redacted


@pytest.mark.parametrize(
    "text",
    [
        "tokens_out=12 token: 5 first_token_ms=31",
        "the API key is missing",
        "Endpoint(url='http://127.0.0.1:1', api_key=None)",
        "a bearer of news",
        "send 'Authorization: Bearer <token>'; llama-orch token says where the token is",
        "MISSING_TOKEN 401",
        "http://127.0.0.1:8080/v1/tasks?limit=5&after=3",
        "--api-key would put a secret on the command line",
        "file:///etc/passwd has not the sha256 that is configured",
        "take out --api-key. The password is never shown; a password",
        "https://github.com/ggml-org/llama.cpp",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    assert Redactor().text(text) == text


@given(st.text())
def test_redacting_twice_changes_nothing_more(text: str) -> None:
    once = Redactor().text(text)
    assert Redactor().text(once) == once


@pytest.mark.req("ORCH-3811")
def test_prose_keeps_all_words_but_registered_secrets() -> None:
    redactor = Redactor(("s3cret-value",))
    assert redactor.prose("--alias 'passwd Is nice', with s3cret-value") == "--alias 'passwd Is nice', with ***"
    assert Redactor().prose("api_key=abc") == "api_key=abc"


@pytest.mark.req("ORCH-3811")
def test_the_secrets_of_an_environment_are_the_long_values_of_telling_names() -> None:
    environ = {"HF_TOKEN": "sesame-open", "PATH": "/usr/bin:/bin", "USE_KEY": "1", "GIT_PASSWORD": "correct horse"}
    assert secrets_of(environ) == ("sesame-open", "correct horse")


def test_fields_are_redacted_to_their_depth() -> None:
    redactor = Redactor(("topsecret",))
    value = {
        "a": ["x topsecret", {"b": "topsecret"}],
        "api_key": "xyz",
        "n": 3,
        "none": None,
        "e": ValueError("topsecret"),
    }
    assert redactor.value(value) == {"a": ["x ***", {"b": MASK}], "api_key": MASK, "n": 3, "none": None, "e": MASK}


@pytest.mark.parametrize(
    "text", ["A_" * 50_000, "?" * 100_000, "bearer " * 20_000, "a://" * 20_000, "api_key " * 10_000]
)
@pytest.mark.timeout(30)
def test_hostile_text_takes_no_longer(text: str) -> None:
    Redactor().text(text)


@pytest.mark.req("ORCH-3811")
def test_a_fingerprint_is_six_digits_of_the_sha256() -> None:
    assert fingerprint("abc") == hashlib.sha256(b"abc").hexdigest()[:6] == "ba7816"


def test_what_is_usual_is_asked_again_when_there_is_a_new_secret() -> None:
    redactor = Redactor(("sesame",))
    assert (redactor.usual("open"), redactor.usual("open sesame")) == (True, False)
    redactor.register("open")
    assert not redactor.usual("open")


@given(st.lists(st.text(max_size=3), max_size=5))
def test_what_is_usual_stays_as_it_is_however_often_it_comes(texts: list[str]) -> None:
    redactor = Redactor(("a",))
    for text in [*texts, *texts, *(f"{number}" for number in range(MOST_USUAL)), *texts]:
        assert redactor.usual(text) == (redactor.text(text) == text)


@given(st.lists(st.lists(st.sampled_from((*FRAGMENTS, "sesame")) | st.text(max_size=5), max_size=4).map("".join)))
def test_of_texts_that_are_harmless_together_each_one_stays(texts: list[str]) -> None:
    redactor = Redactor(("sesame",))
    if redactor.harmless("\n".join(texts)):
        assert [redactor.text(text) for text in texts] == texts
