import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon_core.redaction import Redactor
from pool_managerd.engine_log import MAX_LINE_CHARS, TAIL_LINES, EngineLog


def make(path: Path, *secrets: str, max_bytes: int = 1 << 20) -> EngineLog:
    log = EngineLog(path, "gpu0", Redactor(secrets), max_bytes=max_bytes)
    log.begin("starting")
    return log


@pytest.mark.req("EP-16")
def test_lines_reach_the_file_and_the_journal_with_the_pool(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = make(tmp_path / "gpu0.log")
    log.feed(b"loading\nlisten")
    log.feed(b"ing\r\nno end")
    log.end()
    assert (tmp_path / "gpu0.log").read_text() == "--- starting\nloading\nlistening\nno end\n"
    assert [(record.getMessage(), getattr(record, "pool_id", None)) for record in caplog.records] == [
        ("loading", "gpu0"),
        ("listening", "gpu0"),
        ("no end", "gpu0"),
    ]


@pytest.mark.req("EP-13")
def test_a_secret_reaches_neither_file_nor_journal_nor_error_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = make(tmp_path / "gpu0.log", "s3cr3t-of-this-start")
    log.feed(b"x" * (MAX_LINE_CHARS - 5) + b"s3cr3t-of-this-start\nthe key is s3cr3t-of-this-")
    log.feed(b"start\n")
    log.end()
    for text in ((tmp_path / "gpu0.log").read_text(), caplog.text, log.tail()):
        assert "s3cr" not in text
        assert "the key is ***" in text


@pytest.mark.req("EP-16")
@pytest.mark.parametrize("line", [b"0123456789" * 20 + b"\n", b"\n"])
def test_two_bounded_files_are_kept(tmp_path: Path, line: bytes) -> None:
    log = make(tmp_path / "gpu0.log", max_bytes=1000)
    for _ in range(5000):
        log.feed(line)
    log.end()
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(files) == {"gpu0.log", "gpu0.log.1"}
    assert all(size <= 1000 + len(line) for size in files.values())


def test_a_line_without_end_costs_bounded_memory_and_is_cut(tmp_path: Path) -> None:
    log = make(tmp_path / "gpu0.log")
    for _ in range(200):
        log.feed(b"a" * 10_000)
    log.feed(b"\nnext\n")
    log.end()
    _, cut, following = (tmp_path / "gpu0.log").read_text().splitlines()
    assert cut == "a" * MAX_LINE_CHARS + " [cut]"
    assert following == "next"


def test_the_last_lines_are_those_of_the_current_engine(tmp_path: Path) -> None:
    log = make(tmp_path / "gpu0.log")
    log.feed(b"old\n")
    log.end()
    log.begin("starting again")
    assert log.tail() == ""
    log.feed(b"".join(b"%d\n" % number for number in range(20)))
    assert log.tail().splitlines() == [str(number) for number in range(20 - TAIL_LINES, 20)]
    log.end()


def test_a_log_that_cannot_be_written_costs_lines_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = make(tmp_path / "no such directory" / "gpu0.log")
    log.feed(b"one\ntwo\n")
    assert log.tail() == "one\ntwo"
    assert sum("cannot write" in record.getMessage() for record in caplog.records) == 1


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_lines_do_not_depend_on_how_the_output_was_cut(data: bytes, cuts: list[int]) -> None:
    whole, parts = (EngineLog(Path("/dev/null"), "gpu0", Redactor()) for _ in range(2))
    whole.feed(data)
    start = 0
    for cut in [*sorted(cuts), len(data)]:
        parts.feed(data[start:cut])
        start = max(start, min(cut, len(data)))
    whole.end()
    parts.end()
    assert whole.tail() == parts.tail()
