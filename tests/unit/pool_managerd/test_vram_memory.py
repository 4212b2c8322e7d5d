"""What is remembered of measured starts, in a real file."""

import logging
from pathlib import Path

import pytest

from pool_managerd import vram_memory
from pool_managerd.vram_memory import FILE, VramMemory


@pytest.mark.req("PM-02")
def test_what_was_seen_is_recalled_by_the_next_daemon(tmp_path: Path) -> None:
    memory = VramMemory(tmp_path / "state")
    assert memory.recall("a") is None
    memory.remember("a", 5)
    memory.remember("b", 6)
    memory.remember("a", 7)
    again = VramMemory(tmp_path / "state")
    assert (again.recall("a"), again.recall("b"), again.recall("c")) == (7, 6, None)


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    memory = VramMemory(tmp_path)
    memory.remember("a", 5)
    before = (tmp_path / FILE).stat()
    memory.remember("a", 5)
    memory.remember("a", 0)
    memory.remember("b", -1)
    after = (tmp_path / FILE).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_the_memory_is_bounded_and_forgets_what_was_not_seen_for_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vram_memory, "MAX_ENTRIES", 3)
    memory = VramMemory(tmp_path)
    for key in ("a", "b", "c", "a", "d"):
        memory.remember(key, 5)
    assert [memory.recall(key) for key in "abcd"] == [5, None, 5, 5]


@pytest.mark.req("PM-02")
@pytest.mark.parametrize("content", [b"", b"\0" * 99, b'{"schema": 1, "entries": {"a": {"id": "a", "bytes": "much"}}}'])
def test_a_damaged_memory_is_moved_aside_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / FILE).write_bytes(content)
    memory = VramMemory(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert memory.recall("a") is None
    assert [record.getMessage() for record in caplog.records if "vram.json.corrupt-1" in record.getMessage()]
    assert (tmp_path / f"{FILE}.corrupt-1").read_bytes() == content
    caplog.clear()
    assert memory.recall("a") is None
    assert not caplog.records
    memory.remember("a", 5)
    assert memory.recall("a") == 5


def test_a_damaged_memory_is_mended_by_what_is_remembered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(b"{")
    VramMemory(tmp_path).remember("a", 5)
    assert "kept as vram.json.corrupt-1" in caplog.text
    assert VramMemory(tmp_path).recall("a") == 5


def test_a_disk_that_refuses_keeps_no_engine_from_starting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("in the way")
    memory = VramMemory(tmp_path / "state")
    memory.remember("a", 5)
    assert memory.recall("a") is None
    assert "what engines need of VRAM cannot be kept" in caplog.text
    assert "what engines need of VRAM is not remembered" in caplog.text
    (tmp_path / FILE).write_text('{"schema": 2, "entries": {}}')
    assert VramMemory(tmp_path).recall("a") is None
    assert "has schema 2" in caplog.text
