"""The grammar of model references."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.pools import Cause
from model_provisioner.errors import ReferenceInvalidError
from model_provisioner.reference import (
    HfRef,
    HttpsRef,
    LocalFile,
    OciRef,
    Reference,
    S3Ref,
    model_id,
    parse,
    render,
    shown,
)

BASE = PurePosixPath("/etc/llama-orch")
HEX = "0123456789abcdef" * 4

VALID: list[tuple[str, Reference]] = [
    ("haiku.gguf", LocalFile(path="/etc/llama-orch/haiku.gguf")),
    ("./haiku.gguf", LocalFile(path="/etc/llama-orch/haiku.gguf")),
    ("../haiku.gguf", LocalFile(path="/etc/llama-orch/../haiku.gguf")),
    ("/models/a b.gguf", LocalFile(path="/models/a b.gguf")),
    ("~/models/haiku.gguf", LocalFile(path="~/models/haiku.gguf")),
    ("~somebody/haiku.gguf", LocalFile(path="~somebody/haiku.gguf")),
    ("./odd:name.gguf", LocalFile(path="/etc/llama-orch/odd:name.gguf")),
    ("/models/100%20.gguf", LocalFile(path="/models/100%20.gguf")),
    ("file:haiku.gguf", LocalFile(path="/etc/llama-orch/haiku.gguf")),
    ("file:/models/haiku.gguf", LocalFile(path="/models/haiku.gguf")),
    ("file:~/haiku.gguf", LocalFile(path="~/haiku.gguf")),
    ("file:///models/a%20b.gguf", LocalFile(path="/models/a b.gguf")),
    ("file://localhost/models/haiku.gguf", LocalFile(path="/models/haiku.gguf")),
    ("FILE:///models/haiku.gguf", LocalFile(path="/models/haiku.gguf")),
    ("hf:org/repo", HfRef(org="org", repo="repo")),
    ("hf://org/repo", HfRef(org="org", repo="repo")),
    ("hf:org/repo@main", HfRef(org="org", repo="repo", revision="main")),
    ("hf:org/repo@refs/pr/1", HfRef(org="org", repo="repo", revision="refs/pr/1")),
    ("hf:Qwen/Qwen3-8B-GGUF/a/b.gguf", HfRef(org="Qwen", repo="Qwen3-8B-GGUF", path="a/b.gguf")),
    ("hf:o/r/b.gguf@v1.0", HfRef(org="o", repo="r", path="b.gguf", revision="v1.0")),
    ("https://h.example/a.gguf?x=1", HttpsRef(url="https://h.example/a.gguf?x=1", host="h.example")),
    ("https://[::1]:8443/a.gguf", HttpsRef(url="https://[::1]:8443/a.gguf", host="::1")),
    ("HTTPS://H.example/a.gguf", HttpsRef(url="https://H.example/a.gguf", host="h.example")),
    ("s3://models/llama/a.gguf", S3Ref(bucket="models", key="llama/a.gguf")),
    ("oci://ghcr.io/org/model:v1", OciRef(registry="ghcr.io", repository="org/model", tag_name="v1")),
    ("oci:localhost:5000/model", OciRef(registry="localhost:5000", repository="model")),
    (
        f"oci://host:5000/a/b:1@sha256:{HEX}",
        OciRef(registry="host:5000", repository="a/b", tag_name="1", digest=f"sha256:{HEX}"),
    ),
]


@pytest.mark.parametrize(("text", "expected"), VALID)
def test_a_reference_means_one_thing(text: str, expected: Reference) -> None:
    assert parse(text, BASE) == expected
    assert parse(render(expected), PurePosixPath("/elsewhere")) == expected


@pytest.mark.req("MP-02")
@pytest.mark.parametrize(
    ("text", "scheme", "hint"),
    [
        ("http://host/a.gguf", "http:", "use https://, or download the file and give its path"),
        ("ftp://host/a.gguf", "ftp:", "valid: a path, or file:///models/name.gguf, hf:org/repo/name.gguf"),
        ("ftp:x", "ftp:", "a file whose name has a colon is written ./ftp:x"),
        ("C:\\models\\a.gguf", "c:", "a file whose name has a colon is written ./C:\\models\\a.gguf"),
        ("odd:name.gguf", "odd:", "a file whose name has a colon is written ./odd:name.gguf"),
    ],
)
def test_an_unknown_scheme_is_told_the_valid_ones(text: str, scheme: str, hint: str) -> None:
    with pytest.raises(ReferenceInvalidError) as caught:
        parse(text, BASE)
    expected = f"{scheme!r} in the model reference {text!r} is not one of: file, hf, https, s3, oci"
    assert caught.value.message == expected
    assert caught.value.hint.startswith(hint)
    assert caught.value.cause is Cause.MODEL_INVALID


MALFORMED = [
    ("", "the model reference is empty"),
    ("  ", "the model reference is empty"),
    ("a\0b.gguf", "holds '\\x00'"),
    ("a\nb.gguf", "holds '\\n'"),
    ("file:", "has no path"),
    ("file://", "has no path"),
    ("file://models/haiku.gguf", "names the host 'models'"),
    ("file:///a%00b.gguf", "is no UTF-8 text"),
    ("file:///a%ff.gguf", "is no UTF-8 text"),
    ("hf:", "does not have the form hf:org/repo"),
    ("hf:repo", "does not have the form hf:org/repo"),
    ("hf:org/repo/", "does not have the form hf:org/repo"),
    ("hf:org/repo:Q4_K_M", "does not have the form hf:org/repo"),
    ("hf:org/repo/../x.gguf", "does not have the form hf:org/repo"),
    ("hf:org/repo@", "does not have the form hf:org/repo"),
    ("hf:org/repo@a/../b", "does not have the form hf:org/repo"),
    ("hf:../repo", "does not have the form hf:org/repo"),
    ("https:", "does not have the form https://host/path"),
    ("https://host", "does not have the form https://host/path"),
    ("https://host:port/a", "does not have the form https://host/path"),
    ("https://[::1/a", "does not have the form https://host/path"),
    ("https://host/a b.gguf", "does not have the form https://host/path"),
    ("https://me:secret@host/a.gguf", "holds a user name or a password"),
    ("s3://bucket", "does not have the form s3://bucket/key"),
    ("s3://bucket/../a", "does not have the form s3://bucket/key"),
    ("oci://model", "does not have the form oci://registry"),
    ("oci://ghcr.io/model@sha256:12", "does not have the form oci://registry"),
]


@pytest.mark.req("MP-02")
@pytest.mark.parametrize(("text", "message"), MALFORMED)
def test_a_malformed_reference_is_told_the_form(text: str, message: str) -> None:
    with pytest.raises(ReferenceInvalidError) as caught:
        parse(text, BASE)
    assert message in caught.value.message
    assert caught.value.hint
    assert "secret" not in caught.value.render()


def test_what_may_be_a_secret_is_not_shown() -> None:
    reference = parse("https://host/a.gguf?X-Signature=secret", BASE)
    assert shown(reference) == "https://host/a.gguf"
    assert shown(LocalFile(path="/a.gguf")) == "/a.gguf"
    for text in ("https://host/?token=secret", "hf:a b?secret", "s3://me:secret@x"):
        with pytest.raises(ReferenceInvalidError) as caught:
            parse(text, BASE)
        assert "secret" not in caught.value.render()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("haiku.gguf", "haiku"),
        ("Qwen3-8B.Q4_K_M.gguf", "Qwen3-8B.Q4_K_M"),
        ("my model (1).gguf", "my-model-1"),
        ("日本.gguf", "model"),
        ("noext", "noext"),
        (".gguf", "gguf"),
    ],
)
def test_the_id_is_the_stem_as_a_url_can_hold_it(name: str, expected: str) -> None:
    assert model_id(PurePosixPath("/models") / name) == expected


segment = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True)
paths = st.lists(segment, min_size=1, max_size=4).map("/".join)
file_names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1)
references: st.SearchStrategy[Reference] = st.one_of(
    file_names.map(lambda name: LocalFile(path=str(PurePosixPath("/") / name.lstrip("/")))),
    st.builds(HfRef, org=segment, repo=segment, path=st.none() | paths, revision=st.none() | paths),
    st.builds(S3Ref, bucket=st.from_regex(r"[a-z0-9][a-z0-9.-]{1,30}[a-z0-9]", fullmatch=True), key=paths),
    st.builds(
        OciRef,
        registry=st.sampled_from(["localhost", "ghcr.io", "host:5000", "a.b.example:1"]),
        repository=st.lists(st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True), min_size=1, max_size=3).map("/".join),
        tag_name=st.none() | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
        digest=st.none() | st.just(f"sha256:{HEX}"),
    ),
    paths.map(lambda path: HttpsRef(url=f"https://host.example/{path}?q", host="host.example")),
)


@given(references)
def test_what_is_rendered_parses_to_the_same(reference: Reference) -> None:
    assert parse(render(reference), BASE) == reference


schemes = st.sampled_from(["", "file:", "file://", "hf:", "https:", "https://", "s3://", "oci://", "~", "x:"])
anything = st.text() | st.text("/.:@?#%[]~ aA0\\-_\x00", max_size=20)


@given(schemes, anything)
def test_any_text_is_a_reference_or_a_clear_error(scheme: str, text: str) -> None:
    result: Reference | ReferenceInvalidError
    try:
        result = parse(scheme + text, BASE)
    except ReferenceInvalidError as error:
        result = error
    match result:
        case ReferenceInvalidError():
            assert result.message
            assert result.hint
            return
        case LocalFile(path=path):
            assert path.startswith(("/", "~"))
            assert "\0" not in path
        case _:
            pass
    assert parse(render(result), BASE) == result


@given(anything)
def test_any_file_name_gives_an_id_that_fits_into_a_url(name: str) -> None:
    identifier = model_id(PurePosixPath("/" + name.replace("\0", "")))
    assert identifier
    assert set(identifier) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert identifier not in {".", ".."}
