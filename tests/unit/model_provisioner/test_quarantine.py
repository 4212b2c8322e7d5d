"""Files that were not what they should be: kept for a look, bounded, and given back when they were right after all."""

from __future__ import annotations

import hashlib
from itertools import count
from pathlib import Path

import pytest

from model_provisioner.folder import Folder
from model_provisioner.quarantine import KEPT, Quarantine, Suspect


def put(root: Path, quarantine: Quarantine, data: bytes, *, came: bool = True) -> Path:
    suspect = Suspect(
        ref="hf:org/repo",
        source="there",
        file="q4/m.gguf",
        expected="e" * 64,
        found=hashlib.sha256(data).hexdigest(),
        came=came,
        size_bytes=len(data),
    )
    with Folder.open(root / "m", below=root, create=True) as folder:
        (root / "m/m.gguf.part").write_bytes(data)
        return quarantine.take(folder, "m.gguf.part", suspect)


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    clock = count(1000)
    return Quarantine(tmp_path, lambda: next(clock))


@pytest.mark.req("MP-03")
def test_the_oldest_go_first(tmp_path: Path, quarantine: Quarantine) -> None:
    kept = [put(tmp_path, quarantine, bytes([number])) for number in range(KEPT + 3)]
    assert [path.exists() for path in kept] == [False] * 3 + [True] * KEPT
    assert len(list((tmp_path / "quarantine").iterdir())) == 2 * KEPT


@pytest.mark.req("MP-03")
def test_what_came_is_known_and_what_was_spoiled_here_says_nothing_of_it(
    tmp_path: Path, quarantine: Quarantine
) -> None:
    assert quarantine.known("there", "q4/m.gguf") is None
    put(tmp_path, quarantine, b"spoiled", came=False)
    assert quarantine.known("there", "q4/m.gguf") is None
    put(tmp_path, quarantine, b"came")
    known = quarantine.known("there", "q4/m.gguf")
    assert known is not None
    assert known.found == hashlib.sha256(b"came").hexdigest()
    assert quarantine.known("elsewhere", "q4/m.gguf") is None


@pytest.mark.req("MP-03")
def test_what_is_right_after_all_is_given_back(tmp_path: Path, quarantine: Quarantine) -> None:
    put(tmp_path, quarantine, b"one")
    with Folder.open(tmp_path / "m", below=tmp_path) as folder:
        assert not quarantine.give_back("0" * 64, folder, "m.gguf.part")
        assert quarantine.give_back(hashlib.sha256(b"one").hexdigest(), folder, "m.gguf.part")
    assert (tmp_path / "m/m.gguf.part").read_bytes() == b"one"
    assert list((tmp_path / "quarantine").iterdir()) == []


def test_a_note_that_cannot_be_read_is_nobodys(tmp_path: Path, quarantine: Quarantine) -> None:
    put(tmp_path, quarantine, b"one")
    (tmp_path / "quarantine/x.json").write_bytes(b"\xff{")
    assert quarantine.known("there", "q4/m.gguf") is not None
