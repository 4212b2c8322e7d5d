import io
import json
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.config import Logging
from daemon_core import journal, logs
from daemon_core.redaction import Redactor
from daemon_core.unhurried import unhurried_logs
from tests.unit.daemon_core.journald import Entry, Journald

SECRET = 'top"secret\\value'


@pytest.fixture(autouse=True)
def _restore_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(logs.FORMAT_VARIABLE, raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for each in set(root.handlers) - set(handlers):
        each.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def lines(form: str, level: str = "info") -> tuple[io.StringIO, logging.Logger]:
    stream = io.StringIO()
    logs.setup("daemon", Logging(format=form, level=level), Redactor((SECRET,)), stream)
    return stream, logging.getLogger("pool_managerd.pool")


def test_a_json_line_has_the_usual_fields_and_the_extra_ones() -> None:
    stream, log = lines("auto")
    log.info("pool %s is ready", "gpu0", extra={"pool_id": "gpu0", "correlation_id": "c-1", "predicted_start_ms": 12})
    record = json.loads(stream.getvalue())
    assert record.pop("time").endswith("Z")
    assert record == {
        "level": "info",
        "logger": "pool_managerd.pool",
        "message": "pool gpu0 is ready",
        "service": "daemon",
        "pool_id": "gpu0",
        "correlation_id": "c-1",
        "predicted_start_ms": 12,
    }


def test_what_an_engine_prints_does_not_drive_the_terminal_that_shows_the_log() -> None:
    stream, log = lines("text")
    name = "a model\x1b]0;mine\x07\x1b[2J\r\x9b31m\n12:30:01.250 ERROR   all is lost"
    known: dict[str, str] = {}
    try:
        known[name]
    except KeyError:
        log.exception("engine: %s", name, extra={"pool_id": name})
    shown = stream.getvalue()
    assert all(sign.isprintable() or sign in "\n\t" for sign in shown)
    assert shown.count(r"a model\x1b]0;mine\x07\x1b[2J\r\x9b31m") == 3, "also in the exception"
    first, *others = shown.splitlines()
    assert first.endswith(r"\x9b31m")
    assert all(line.startswith("    ") for line in others), "no line of its own but the first"


def test_what_is_no_text_and_no_small_number_is_a_json_line_as_well() -> None:
    stream, log = lines("json")
    log.info("a\udcff", extra={"size": 1 << 80, "of": {"text": "\udcff"}})
    record = json.loads(stream.getvalue())
    assert (record["message"], record["size"], record["of"]) == ("a\udcff", 1 << 80, {"text": "\udcff"})


def test_a_readable_line_reads() -> None:
    stream, log = lines("text")
    log.warning("pool is slow", extra={"pool_id": "gpu0"})
    assert stream.getvalue().partition(" ")[2] == "WARNING pool_managerd.pool: pool is slow  pool_id=gpu0\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_auto_is_readable_on_a_terminal_only() -> None:
    stream = Terminal()
    logs.setup("daemon", Logging(), Redactor(), stream)
    logging.getLogger("x").info("hello")
    assert stream.getvalue().endswith("INFO    x: hello\n")


def fail(secret: str) -> None:
    try:
        int(secret)
    except ValueError as cause:
        raise RuntimeError(f"with {secret}") from cause


@pytest.mark.parametrize(
    ("configured", "variable", "readable"),
    [
        ("auto", "text", True),
        ("auto", "json", False),
        ("auto", "nonsense", False),
        ("json", "text", False),
        ("text", "json", True),
    ],
)
def test_who_starts_a_daemon_chooses_where_the_file_does_not(
    monkeypatch: pytest.MonkeyPatch, configured: str, variable: str, readable: bool
) -> None:
    monkeypatch.setenv(logs.FORMAT_VARIABLE, variable)
    stream, log = lines(configured)
    log.info("hello")
    assert stream.getvalue().startswith("{") is not readable


@pytest.mark.req("ORCH-3811")
@pytest.mark.parametrize("form", ["json", "text"])
def test_a_secret_is_redacted_wherever_a_record_holds_it(form: str) -> None:
    stream, log = lines(form)
    try:
        fail(SECRET)
    except RuntimeError:
        log.exception("message %s", SECRET, extra={"x": SECRET, "y": {"z": [SECRET]}, "api_key": "k"}, stack_info=True)
    text = stream.getvalue()
    assert text.count("***") >= 6
    assert "Traceback" in text
    for spelling in (SECRET, json.dumps(SECRET)[1:-1], repr(SECRET)[1:-1], "top", "api_key=k", '"k"'):
        assert spelling not in text.replace("topology", "")


def test_other_handlers_see_the_record_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    _, log = lines("json")
    log.info("message %s", SECRET)
    assert caplog.records[0].args == (SECRET,)


def test_a_record_that_cannot_be_written_shows_nothing_and_breaks_nothing() -> None:
    stream, log = lines("json")
    root = logging.getLogger()
    root.handlers[:] = root.handlers[-1:]  # pytest's own would raise
    log.info("%d", SECRET)
    assert stream.getvalue() == "a log record of pool_managerd.pool could not be written: TypeError\n"


def test_a_level_hides_what_is_below_and_a_second_setup_replaces_the_first() -> None:
    first, _ = lines("json")
    second, log = lines("json", "warning")
    log.info("hidden")
    log.error("shown")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "shown"


@pytest.mark.filterwarnings("always")
def test_warnings_become_log_lines() -> None:
    stream, _ = lines("json")
    warnings.warn("careful", UserWarning, stacklevel=1)
    assert "careful" in json.loads(stream.getvalue())["message"]


# --- the journal ------------------------------------------------------------------------------------------------------


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journald]:
    """Standard error is the journal's."""
    monkeypatch.setattr(journal, "reads", lambda descriptor, environ: descriptor == logs.STDERR)
    monkeypatch.setattr(journal, "ADDRESS", str(tmp_path / "socket"))
    with Journald(tmp_path) as made:
        yield made


def journaled(form: str = "auto", level: str = "info") -> logging.Logger:
    logs.setup("daemon", Logging(format=form, level=level), Redactor((SECRET,)))
    return logging.getLogger("pool_managerd.pool")


OURS = {
    "MESSAGE",
    "PRIORITY",
    "SYSLOG_IDENTIFIER",
    "LOGGER",
    "LLAMA_ORCH_TIME_MS",
    "CODE_FILE",
    "CODE_LINE",
    "CODE_FUNC",
}


@pytest.mark.req("HP-25", "OP-01")
def test_a_line_in_the_journal_is_a_sentence_with_fields(journald: Journald) -> None:
    log, before = journaled(), time.time() * 1000  # noqa: TID251 - what the journal says of when
    log.warning("pool %s is slow", "gpu0", extra={"pool_id": "gpu0", "queue_position": 3, "nothing": None, "on": True})
    entry = journald.take()
    at_ms = int(entry["LLAMA_ORCH_TIME_MS"][0])
    assert before - 1 <= at_ms <= time.time() * 1000 + 1  # noqa: TID251 - the same
    assert entry.keys() == OURS | {"LLAMA_ORCH_POOL", "LLAMA_ORCH_QUEUE_POSITION", "LLAMA_ORCH_ON"}
    assert entry["MESSAGE"] == ["pool gpu0 is slow"]
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == (["4"], ["daemon"])
    assert (entry["LOGGER"], entry["CODE_FILE"]) == (["pool_managerd.pool"], [__file__])
    assert entry["CODE_FUNC"] == ["test_a_line_in_the_journal_is_a_sentence_with_fields"]
    assert (entry["LLAMA_ORCH_POOL"], entry["LLAMA_ORCH_QUEUE_POSITION"]) == (["gpu0"], ["3"])


@pytest.mark.req("HP-22")
def test_an_engines_line_is_found_by_its_pool_and_by_each_of_its_jobs(journald: Journald) -> None:
    log = journaled()
    extra = {"pool_id": "gpu0", "source": "engine", "engine": "vllm", "correlation_ids": ("c-1", "c-2")}
    log.error("ERROR 11-30 out of memory", extra=extra)
    entry = journald.take()
    assert entry["SYSLOG_IDENTIFIER"] == ["engine-gpu0"]
    assert entry["LLAMA_ORCH_CORRELATION_ID"] == ["c-1", "c-2"]
    assert [entry[f"LLAMA_ORCH_{name}"] for name in ("POOL", "SOURCE", "ENGINE")] == [["gpu0"], ["engine"], ["vllm"]]


@pytest.mark.parametrize(("form", "variable"), [("json", "text"), ("auto", "json")])
def test_json_in_the_journal_is_the_message_and_the_fields_stay(
    journald: Journald, monkeypatch: pytest.MonkeyPatch, form: str, variable: str
) -> None:
    monkeypatch.setenv(logs.FORMAT_VARIABLE, variable)
    journaled(form).info("pool is ready", extra={"pool_id": "gpu0", "correlation_ids": ("c-1",)})
    entry = journald.take()
    line = json.loads(entry["MESSAGE"][0])
    assert (line["message"], line["pool_id"], line["service"]) == ("pool is ready", "gpu0", "daemon")
    assert line["correlation_ids"] == ["c-1"]
    assert entry["LLAMA_ORCH_POOL"] == ["gpu0"]


@pytest.mark.parametrize(("form", "variable"), [("text", "json"), ("auto", "text")])
def test_text_in_the_journal_is_the_sentence_alone(
    journald: Journald, monkeypatch: pytest.MonkeyPatch, form: str, variable: str
) -> None:
    monkeypatch.setenv(logs.FORMAT_VARIABLE, variable)
    journaled(form).info("pool is ready", extra={"pool_id": "gpu0"})
    assert journald.take()["MESSAGE"] == ["pool is ready"]


@pytest.mark.req("ORCH-3811", "EP-13")
@pytest.mark.parametrize("form", ["json", "auto"])
def test_no_secret_reaches_the_journal_in_message_field_or_exception(journald: Journald, form: str) -> None:
    log = journaled(form)
    try:
        fail(SECRET)
    except RuntimeError:
        log.exception(
            "message %s",
            SECRET,
            extra={"x": SECRET, "y": {"z": [SECRET]}, "several": (SECRET, "harmless"), "api_key": "k-7"},
            stack_info=True,
        )
    entry = journald.take()
    everything = repr(entry)
    assert "Traceback" in entry["MESSAGE"][0]
    assert "Stack (most recent call last)" in entry["MESSAGE"][0]
    assert entry["LLAMA_ORCH_X"] == ["***"]
    assert entry["LLAMA_ORCH_SEVERAL"] == ["***", "harmless"]
    assert entry["LLAMA_ORCH_API_KEY"] == ["***"]
    assert everything.count("***") >= 6
    for spelling in (SECRET, json.dumps(SECRET)[1:-1], repr(SECRET)[1:-1], "secret\\value", "k-7"):
        assert spelling not in everything


def test_a_record_that_cannot_be_written_shows_nothing_in_the_journal_either(
    journald: Journald, capfd: pytest.CaptureFixture[str]
) -> None:
    log = journaled()
    root = logging.getLogger()
    root.handlers[:] = root.handlers[-1:]
    log.info("%d", SECRET)
    log.info("good")
    assert journald.take()["MESSAGE"] == ["good"]
    assert capfd.readouterr().err == "a log record of pool_managerd.pool could not be written: TypeError\n"


class Stderr:
    """Standard error as the service manager gives it: one end of a socket."""

    def __init__(self, end: socket.socket) -> None:
        self.fileno = end.fileno


def test_without_a_journal_lines_go_to_standard_error_with_their_priority_and_nobody_waits(
    journald: Journald, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setattr(sys, "stderr", Stderr(ours))
        journald.address.unlink()
        log = journaled()
        log.error("one\ntwo")
        assert theirs.recv(1000) == b"<3>one\n<3>two\n"
        for _ in range(2_000):
            log.info("x" * 1000)  # more than a socket holds that nobody reads
        with Journald(journald.address.parent) as back:
            log.info("again")
            assert back.take()["MESSAGE"] == ["again"]
            told = back.take()
    lost = int(told["LLAMA_ORCH_LOST_LINES"][0])
    assert 0 < lost < 2_000
    assert told["MESSAGE"] == [f"{lost} log lines were lost: the journal took none for a while"]
    assert (told["PRIORITY"], told["SYSLOG_IDENTIFIER"]) == (["4"], ["daemon"])


def test_why_a_program_ends_is_an_error_in_the_journal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.complain("daemon: no\n  hint: yes")
    assert capfd.readouterr().err == "daemon: no\n  hint: yes\n"
    found = os.fstat(logs.STDERR)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    logs.complain("daemon: no\n  hint: yes")
    assert capfd.readouterr().err == "<3>daemon: no\n<3>  hint: yes\n"


async def test_a_reload_of_the_configuration_writes_each_line_once(journald: Journald) -> None:
    log = journaled()
    async with unhurried_logs():
        log.info("before")
        journaled("json", "warning")
        log.info("hidden")
        log.error("after")
        entries: list[Entry] = [journald.take(), journald.take()]
        assert not journald.has_more()
    journaled().info("at the end")
    entries.append(journald.take())
    assert not journald.has_more()
    assert [each["PRIORITY"] for each in entries] == [["6"], ["3"], ["6"]]
    assert entries[0]["MESSAGE"] == ["before"]
    assert json.loads(entries[1]["MESSAGE"][0])["message"] == "after"
    assert entries[2]["MESSAGE"] == ["at the end"]


async def test_a_reload_writes_each_line_once_where_there_is_no_journal() -> None:
    first, log = lines("json")
    async with unhurried_logs():
        log.info("before")
        second, _ = lines("text")
        log.info("during")
    log.info("after")
    assert [json.loads(line)["message"] for line in first.getvalue().splitlines()] == ["before"]
    assert [line.rpartition(": ")[2] for line in second.getvalue().splitlines()] == ["during", "after"]
