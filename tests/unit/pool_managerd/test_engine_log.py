import io
import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon_core.logs import RedactingHandler
from daemon_core.redaction import Redactor
from pool_managerd.engine_log import MAX_LINE_CHARS, TAIL_LINES, EngineLog, latest
from pool_managerd.log_feed import LogFeed


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


@pytest.mark.req("EP-16")
def test_a_line_has_the_level_that_it_shows_and_says_whose_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = EngineLog(tmp_path / "gpu0.log", "gpu0", Redactor(), engine="vllm")
    for each in (log, log.another()):
        each.feed(b"INFO 11-30 fine\nERROR 11-30 not fine\n")
    fields = [vars(record) for record in caplog.records]
    assert [each["levelname"] for each in fields] == ["INFO", "ERROR"] * 2
    assert {(each["pool_id"], each["source"], each["engine"]) for each in fields} == {("gpu0", "engine", "vllm")}
    log.end()


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


def test_an_argument_that_is_no_text_is_written_as_an_escape(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "gpu0.log", "gpu0", Redactor())
    log.begin("starting /opt/engine --model /models/caf\udce9.gguf")
    log.end()
    assert (tmp_path / "gpu0.log").read_text() == "--- starting /opt/engine --model /models/caf\\udce9.gguf\n"


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


# --- whose work, and without secrets ----------------------------------------------------------------------------------


class Later:
    """A clock that stands still until a test turns it."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def __call__(self, _delay_s: float, write: Callable[[], None]) -> None:
        self.due.append(write)

    def turn(self) -> None:
        due, self.due = self.due, []
        for write in due:
            write()


@pytest.mark.req("HP-22")
def test_a_line_waits_for_the_news_whose_work_it_is_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    later = Later()
    feed = LogFeed(lambda: 0.0, later)
    log = EngineLog(tmp_path / "gpu0.log", "gpu0", Redactor(), feed=feed)
    log.feed(b"launch\nrelease\n")
    assert log.tail() == "launch\nrelease"
    feed.works_for("gpu0", [f"c{number}" for number in range(6)])
    later.turn()
    assert [vars(record)["correlation_ids"] for record in caplog.records] == [("c0", "c1", "c2", "c3", "c4", "c5")] * 2
    feed.works_for("gpu0", [])
    log.feed(b"idle\n")
    log.end()
    assert (tmp_path / "gpu0.log").read_text().splitlines() == [
        "launch  correlation_ids=c0,c1,c2,c3,+2",
        "release  correlation_ids=c0,c1,c2,c3,+2",
        "idle",
    ]
    later.turn()
    assert latest(tmp_path / "gpu0.log", 1) == ["idle"]
    assert latest(tmp_path / "nothing.log", 5) == []


@pytest.mark.req("ORCH-3811", "EP-13")
@given(
    st.sampled_from(["{}", "key {} key", "\x1b[0m{}", "é{}", "\\n{}", '{{"t":"{}"}}']),
    st.lists(st.integers(1, 12), min_size=1, max_size=20),
)
def test_a_secret_of_an_engines_output_goes_nowhere_however_it_was_cut(around: str, cuts: list[int]) -> None:
    known, shaped = "s3cr3t-of-an-engine", "hf_ABCDEFGHIJKLMNOPQRSTUVWX"
    frames: list[bytes] = []
    lines = io.StringIO()
    handler = RedactingHandler(lines, Redactor())  # which knows nothing: the line was clean before
    logger = logging.getLogger("pool_managerd.engine_log")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with TemporaryDirectory() as folder:
            later = Later()
            feed = LogFeed(lambda: 0.0, later)
            feed.follow(None, frames.append)
            log = EngineLog(Path(folder) / "gpu0.log", "gpu0", Redactor((known,)), feed=feed)
            data = "".join(f"{around.format(secret)}\n" for secret in (known, shaped)).encode()
            for cut in cuts:
                log.feed(data[:cut])
                data = data[cut:]
            log.feed(data)
            log.end()
            written = (Path(folder) / "gpu0.log").read_text()
            told = written + log.tail() + lines.getvalue() + b"".join(frames).decode()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    assert len(frames) == 2
    assert "***" in told
    assert known not in told
    assert shaped not in told
    assert "ABCDEFGH" not in told


@pytest.mark.req("EP-16")
def test_the_end_of_an_engine_on_a_full_disk_costs_lines_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "gpu0.log").symlink_to("/dev/full")
    log = make(tmp_path / "gpu0.log")
    log.feed(b"the last words\n")
    log.end()
    log.begin("and again")
    log.end()
    assert log.tail() == ""
    assert [record.levelname for record in caplog.records if "No space left" in record.getMessage()] == ["WARNING"]
