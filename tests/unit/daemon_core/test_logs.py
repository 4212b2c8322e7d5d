import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from contracts.config import Logging
from daemon_core import logs
from daemon_core.redaction import Redactor

SECRET = 'top"secret\\value'


@pytest.fixture(autouse=True)
def _restore_root(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(logs.FORMAT_VARIABLE, raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
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
