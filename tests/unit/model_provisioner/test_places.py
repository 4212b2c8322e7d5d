"""Where a fetched model lies: a place of its own for each reference, and never outside the cache."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_provisioner.places import folder_of, lock_of, note_of, segment
from model_provisioner.reference import HfRef, HttpsRef, OciRef, RemoteRef, S3Ref, parse, render

names = st.from_regex(r"[A-Za-z0-9][\w.-]{0,95}", fullmatch=True).filter(str.isascii)
keys = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=300)
refs: st.SearchStrategy[RemoteRef] = st.one_of(
    st.builds(HfRef, org=names, repo=names, path=st.none() | keys, revision=st.none() | names),
    st.builds(HttpsRef, url=keys.map(lambda path: f"https://host/{path}"), host=names),
    st.builds(S3Ref, bucket=names, key=keys),
    st.builds(OciRef, registry=names, repository=keys),
)


@pytest.mark.req("MP-04")
@given(refs, keys)
def test_a_place_is_short_plain_and_below_the_cache(ref: RemoteRef, revision: str) -> None:
    place = folder_of(ref, revision)
    assert len(place.parts) == 4
    assert not place.is_absolute()
    for part in place.parts:
        assert 0 < len(part.encode()) <= 100
        assert part not in {".", ".."}
        assert part[0] not in ".-"
        assert part.isascii()
        assert part.isprintable()


@given(keys, keys)
def test_two_texts_never_have_one_name(one: str, other: str) -> None:
    assert (segment(one) == segment(other)) == (one == other)


@given(refs, refs)
def test_two_references_share_a_note_only_when_they_are_one(one: RemoteRef, other: RemoteRef) -> None:
    assert (note_of(one) == note_of(other)) == (render(one) == render(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://host/a/m.gguf", "https://host/b/m.gguf"),
        ("https://host/m.gguf?v=1", "https://host/m.gguf?v=2"),
        ("s3://bucket/a/m.gguf", "s3://bucket/b/m.gguf"),
        ("s3://bucket/a-b", "s3://bucket/a/b"),
        ("oci://host.example/a/m", "oci://host.example/b/m"),
        ("hf:org/repo", "hf:org/repo2"),
    ],
)
def test_two_models_never_share_a_folder(one: str, other: str) -> None:
    first, second = (parse(text, PurePosixPath("/")) for text in (one, other))
    assert folder_of(first, "r") != folder_of(second, "r")  # type: ignore[arg-type]


def test_places_are_readable() -> None:
    assert folder_of(HfRef(org="org", repo="Repo-1.5B"), "abc") == PurePosixPath("hf/org/Repo-1.5B/abc")
    place = folder_of(HttpsRef(url="https://host/x/haiku.gguf?token=sesame", host="host"), "abc")
    assert str(place).startswith("https/host/haiku.gguf~")
    assert "sesame" not in str(place)
    assert lock_of("a") != lock_of("b")
