"""The bytes of a file that has no name yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_provisioner.folder import Folder
from model_provisioner.part import Part

DATA = bytes(range(256)) * 20


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    with Folder.open(tmp_path, below=tmp_path) as opened:
        yield opened


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_each_byte_is_hashed_once_as_it_is_written(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part(folder, "m", known=False)
    part.begin('"one"', len(DATA))
    with part.appender() as file:
        file.write(DATA[:1000])
        file.write(DATA[1000:])
    monkeypatch.setattr(Folder, "reader", None)  # nothing is read again
    assert part.digest() == sha256(DATA)


@pytest.mark.req("MP-04")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=50), st.booleans()), max_size=8))
def test_the_digest_is_that_of_the_bytes_whoever_wrote_them(folder: Folder, pieces: list[tuple[bytes, bool]]) -> None:
    """Each piece is written by the same process, or by a new one that finds the others."""
    part = Part(folder, "m", known=True)
    part.begin('"one"', None)
    whole = b""
    for piece, another in pieces:
        if another:
            part = Part(folder, "m", known=True)
            part.digest()
        with part.appender() as file:
            file.write(piece)
        whole += piece
    assert part.digest() == sha256(whole)
    assert part.size == len(whole)


def test_bytes_that_nobody_hashed_yet_are_hashed_before_those_that_come(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "m.part").write_bytes(DATA[:100])
    part = Part(folder, "m", known=True)
    with part.appender() as file:
        file.write(DATA[100:])  # nobody asked for the digest of the first hundred
    assert part.digest() == sha256(DATA)


def test_a_part_that_was_cut_is_hashed_anew(folder: Folder, tmp_path: Path) -> None:
    part = Part(folder, "m", known=True)
    part.begin(None, None)
    with part.appender() as file:
        file.write(DATA)
    (tmp_path / "m.part").write_bytes(b"x")
    assert part.digest() == sha256(b"x")


@pytest.mark.parametrize("note", [b"", b"{", b"\xff", b'{"if_range": 1}', b"[" * 70_000])
def test_bytes_without_a_note_that_can_be_read_are_of_no_use(folder: Folder, tmp_path: Path, note: bytes) -> None:
    (tmp_path / "m.part").write_bytes(DATA)
    (tmp_path / "m.part.json").write_bytes(note)
    assert Part(folder, "m", known=True).resumable() is None


def test_a_file_has_its_name_only_when_it_is_finished(folder: Folder, tmp_path: Path) -> None:
    part = Part(folder, "m", known=True)
    part.begin('"one"', 3)
    (tmp_path / ".m.part.json.1-1.tmp").touch()  # of one that was killed
    with part.appender() as file:
        file.write(b"abc")
    assert not (tmp_path / "m").exists()
    part.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o644
