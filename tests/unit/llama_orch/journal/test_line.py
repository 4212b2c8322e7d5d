"""A line of the log, from whatever it came."""

import io
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import Logging
from daemon_core import logs
from daemon_core.redaction import Redactor
from llama_orch.journal.line import Line, of_a_file, of_the_journal
from llama_orch.proof.log_lines import MARK

ENTRY = {
    "MESSAGE": "task t-1 admitted",
    "PRIORITY": "6",
    "SYSLOG_IDENTIFIER": "orchestratord",
    "LOGGER": "orchestratord.tasks",
    "LLAMA_ORCH_TIME_MS": "1796040257225",
    "LLAMA_ORCH_POOL": "gpu0",
    "LLAMA_ORCH_TASK_ID": "t-1",
    "LLAMA_ORCH_CORRELATION_ID": ["c-1", "c-2"],
    "LLAMA_ORCH_QUEUE_POSITION": "3",
    "LLAMA_ORCH_SEVERAL": ["a", "b"],
    "__REALTIME_TIMESTAMP": "1796040257999999",
    "_PID": "135",
    "CODE_FILE": "/observer.py",
}


def read(**changes: object) -> Line | None:
    return of_the_journal(json.dumps({name: value for name, value in (ENTRY | changes).items() if value is not ...}))


def test_an_entry_of_the_journal_is_a_line_with_the_names_that_its_fields_had() -> None:
    line = read()
    assert line == Line(
        message="task t-1 admitted",
        source="orchestratord",
        priority=6,
        time_ms=1796040257225,
        logger="orchestratord.tasks",
        pool_id="gpu0",
        task_id="t-1",
        correlation_ids=("c-1", "c-2"),
        more={"queue_position": "3", "several": ("a", "b")},
    )
    assert line.as_object() == {
        "time": "2026-11-30T12:04:17.225Z",
        "level": "info",
        "logger": "orchestratord.tasks",
        "message": "task t-1 admitted",
        "service": "orchestratord",
        "pool_id": "gpu0",
        "task_id": "t-1",
        "correlation_ids": ("c-1", "c-2"),
        "queue_position": "3",
        "several": ("a", "b"),
    }


def test_a_line_of_somebody_else_is_one_too() -> None:
    line = of_the_journal('{"MESSAGE": "Started.", "SYSLOG_IDENTIFIER": "systemd", "__REALTIME_TIMESTAMP": "5000000"}')
    assert line == Line(message="Started.", source="systemd", time_ms=5000)
    assert line.as_object().keys() == {"time", "level", "message", "service"}


def test_an_engine_is_told_by_its_source_and_not_by_its_identifier() -> None:
    line = read(LLAMA_ORCH_SOURCE="engine", SYSLOG_IDENTIFIER="engine-gpu0", PRIORITY="3")
    assert line is not None
    assert (line.source, line.priority, line.as_object()["level"]) == ("engine", 3, "error")


def test_what_journalctl_cannot_show_as_text_is_read_all_the_same() -> None:
    line = read(MESSAGE=[104, 105, 27, 195, 164, 255], LLAMA_ORCH_X=None)
    assert line is not None
    assert line.message == "hi\x1bä�"
    assert "x" not in line.more


def test_json_lines_of_the_daemons_are_read_as_what_they_say() -> None:
    inner = {"time": "2026-11-30T12:04:17.225Z", "message": "it failed", "exception": "Traceback: x", "pool_id": "p"}
    line = read(MESSAGE=json.dumps(inner, separators=(",", ":")))
    assert line is not None
    assert line.message == "it failed\nTraceback: x"
    for other in ('{"time":', '{"time":1}', '{"time":[]'):
        line = read(MESSAGE=other)
        assert line is not None
        assert line.message == other


def test_the_form_of_a_json_line_is_the_one_that_daemons_write() -> None:
    root = logging.getLogger()
    handlers, level, stream = root.handlers[:], root.level, io.StringIO()
    try:
        logs.setup("daemon", Logging(format="json"), Redactor(), stream)
        root.info("pool is ready", extra={"pool_id": "gpu0"})
    finally:
        root.handlers[:], root.level = handlers, level
        logging.captureWarnings(capture=False)
    line = read(MESSAGE=stream.getvalue().rstrip())
    assert line is not None
    assert line.message == "pool is ready"


@pytest.mark.parametrize("data", ["", "{", "[1]", "null", '{"MESSAGE": null}', "{}", "[" * 100_000])
def test_what_is_no_entry_is_none(data: str) -> None:
    assert of_the_journal(data) is None


VALUES = st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


@given(st.dictionaries(st.sampled_from(sorted(ENTRY)), VALUES))
def test_whatever_stands_in_an_entry_harms_nobody(changes: dict[str, object]) -> None:
    line = read(**changes)
    assert line is None or json.dumps(line.as_object())


def test_a_line_of_a_pools_file_has_its_jobs() -> None:
    assert of_a_file(f"slot released{MARK}c-1,c-2,+3", "gpu0") == Line(
        message="slot released", source="engine", pool_id="gpu0", correlation_ids=("c-1", "c-2")
    )
    assert of_a_file("--- starting", "gpu0") == Line(message="--- starting", source="engine", pool_id="gpu0")
