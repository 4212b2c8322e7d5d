import logging
from pathlib import Path
from typing import Any, cast

import pytest

from orchestratord.crash_loop import CAREFUL_FROM, ENDS
from orchestratord.database import Row
from orchestratord.keeper import Keeper
from orchestratord.restart import Restart
from orchestratord.vigil import Vigil


def restarted(path: Path, times: int) -> Vigil:
    """The vigil of the last of so many starts, each of which found that the one before had not been closed."""
    return [Vigil.opened(path) for _ in range(times)][-1]


def test_the_first_starts_note_nothing(tmp_path: Path) -> None:
    file = tmp_path / "tasks.starts"
    vigil = restarted(file, CAREFUL_FROM - 1)
    written = file.read_text()
    vigil.begins("task")
    assert file.read_text() == written
    assert not Vigil.opened(file).starts.suspects


def test_a_task_that_runs_at_each_end_is_condemned(tmp_path: Path) -> None:
    file = tmp_path / "tasks.starts"
    vigil = restarted(file, CAREFUL_FROM)
    for _ in range(ENDS):
        assert not vigil.condemns("poison")
        for task_id in ("done", "poison"):
            vigil.begins(task_id)
        vigil.ends("done")
        vigil = Vigil.opened(file)
    assert vigil.starts.condemned == {"poison"}


def test_a_task_that_raises_while_it_is_taken_up_is_a_suspect(tmp_path: Path) -> None:
    file = tmp_path / "tasks.starts"
    vigil = restarted(file, CAREFUL_FROM)
    with vigil.watching("well"):
        pass
    with pytest.raises(ZeroDivisionError), vigil.watching("ill"):
        raise ZeroDivisionError
    assert Vigil.opened(file).starts.suspects == {"ill": 1}


class Rows:
    """A task store with one task, and what was forgotten of it."""

    def __init__(self) -> None:
        self.forgotten: list[str] = []

    def unended(self) -> list[Row]:
        return [Row(number=1, id="ill", state="queued", followed=0, entered=b"", past=None, stream=None)]

    def forget(self, task_id: str) -> None:
        self.forgotten.append(task_id)


def test_a_task_that_cannot_be_taken_up_ends_the_daemon_for_a_while_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def defect(_self: Restart, _row: Row) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Restart, "_take_up", defect)
    rows = Rows()
    nothing: Any = []

    def start() -> None:
        vigil = Vigil.opened(tmp_path / "tasks.starts")
        parts = {"clock": nothing, "vigil": vigil, "enter": nothing, "end": nothing}
        Restart(cast("Keeper", rows), *[nothing] * 4, **parts).take_up()

    for _ in range(CAREFUL_FROM - 1 + ENDS):
        with pytest.raises(ZeroDivisionError):
            start()
    assert rows.forgotten == []
    start()
    assert rows.forgotten == ["ill"]
    assert "is lost" in caplog.text


def test_a_stop_in_order_ends_the_row(tmp_path: Path) -> None:
    file = tmp_path / "tasks.starts"
    vigil = restarted(file, CAREFUL_FROM)
    vigil.begins("task")
    vigil.close()
    assert not file.exists()
    vigil.begins("late")
    assert not file.exists()
    assert Vigil.opened(file).starts.in_a_row == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]\n", b'{"in_a_row": "many"}\n', b"{\n+task\n"])
def test_a_damaged_file_is_a_warning(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "tasks.starts"
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert Vigil.opened(file).starts.in_a_row == 1
    assert str(file) in caplog.text


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        vigil = Vigil.opened(tmp_path / "missing" / "tasks.starts")
    assert not vigil.careful
    assert "is not found" in caplog.text


def test_without_a_file_nothing_is_known() -> None:
    vigil = Vigil()
    vigil.begins("task")
    assert not vigil.careful
    assert not vigil.condemns("task")
    vigil.close()
