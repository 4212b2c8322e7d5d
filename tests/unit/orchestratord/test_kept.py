"""What is written of a task that runs: enough for the receipt that the next run of the daemon may have to make."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.errors import ErrorCode
from contracts.tasks import TaskState
from daemon_core.redaction import Redactor
from orchestratord import kept
from orchestratord.kept import Moment
from tests.unit.orchestratord.test_records import RUN, SENT, new

WRITTEN = Path(__file__).with_name("written_by_schema_1.json")
"""What the first schema's llama-orch wrote, never made anew: a task that was let in must not be lost to an update."""
NOW = Moment(monotonic_ms=5_000.0, unix_ms=1_700_000_004_000)
SECRET = "s3cr3t-value-0123456789"


@pytest.mark.req("HP-21", "HP-12")
def test_what_an_engine_was_asked_for_and_where_is_known_to_the_next_run_too() -> None:
    task = new()
    again = kept.open_task(task.admission, kept.read_past(kept.past(task)), b"", None)
    assert (again.sent, again.interrupted) == (SENT, True)
    assert again.run is not None
    assert again.run.use == RUN.use
    nothing = kept.open_task(task.admission, kept.read_past(kept.past(new(run=None))), b"", None)
    assert nothing.sent is None


def test_it_is_written_no_more_once_a_receipt_says_it() -> None:
    task = new()
    task.fail(ErrorCode.WORKER_RESET, "the engine is gone")
    assert kept.read_past(kept.past(task)).sent is None


@pytest.mark.req("ORCH-3811")
def test_a_secret_in_it_is_not_written() -> None:
    task = new(sent=b'{"max_tokens":8,"stop":["%b"]}' % SECRET.encode())
    written = kept.without_names(kept.past(task), Redactor((SECRET,)))
    assert SECRET.encode() not in written
    assert kept.read_past(written).sent == {"max_tokens": 8, "stop": ["***"]}


@pytest.mark.req("HP-12", "HP-21")
def test_what_a_former_version_has_written_can_be_gone_on_with_and_told_of() -> None:
    written: dict[str, Any] = msgspec.json.decode(WRITTEN.read_bytes())
    entered, running, ended = (msgspec.json.encode(written[name]) for name in ("entered", "running", "ended"))
    admission = kept.read_entered(entered, NOW).admission
    assert (admission.request.prompt, admission.seed, admission.at_ms) == ("hello", 7, 1_000.0)
    goes_on = kept.open_task(admission, kept.read_past(running), b"", None)
    assert goes_on.run is not None
    assert goes_on.run.use == RUN.use
    assert goes_on.run.served is not None
    assert goes_on.run.served.driver_version == "560.35"
    past = kept.read_past(ended)
    assert past.brief is not None
    told = kept.ended_task(kept.since(past.brief, NOW), TaskState.FAILED, past, None).status
    assert (told.error_code, told.first_token_ms, told.artifact_id) == (ErrorCode.WORKER_RESET, 400, "sha256:aa")
