"""What is written of a task that runs: enough for the receipt that the next run of the daemon may have to make."""

import pytest

from contracts.errors import ErrorCode
from daemon_core.redaction import Redactor
from orchestratord import kept
from tests.unit.orchestratord.test_records import RUN, SENT, new

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
