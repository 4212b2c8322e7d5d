"""A task's life: its states, its terminal event and what it tells at each step."""

import hashlib
from typing import Any

import msgspec
import pytest

from adapters.base import Finished
from contracts.config import Profile
from contracts.errors import RETRIABLE, ErrorCode
from contracts.events import End, FinishReason, Started, StreamError
from contracts.tasks import OnDisconnect, Priority, TaskState
from orchestratord.standing import Standing
from orchestratord.stream_log import StreamClosedError
from orchestratord.task import Admission, Caller, Run, Task
from tests.unit.orchestratord.frames import events_of, frames_of
from tests.unit.orchestratord.world import request

RUN = Run(pool_id="p", replica_id="p-0", engine="llamacpp", engine_version="b1", at_ms=1_250.0)
STARTED = Started(
    task_id="t",
    job_id="j",
    queue_position=2,
    predicted_start_ms=300,
    engine="llamacpp",
    engine_version="b1",
    model_digest="sha256:0",
    pool_id="p",
    replica_id="p-0",
    profile=Profile.TRIAL,
    seed=7,
    kv_warmth=False,
)


def new(**changes: Any) -> Task:  # noqa: ANN401 - any field of the request
    return Task(
        Admission(
            task_id="t",
            job_id="j",
            request=request(**changes),
            seed=7,
            caller=Caller("c", "localhost"),
            created_ms=1_700_000_000_000,
            at_ms=1_000.0,
            queue_position=2,
            predicted_start_ms=300,
            predicted_low_ms=200,
            predicted_high_ms=500,
            backoff_ms=0,
        )
    )


NEARER = Standing(
    at_ms=1_100.0, position=1, queue_depth=5, start_ms=150, low_ms=100, high_ms=300, on_time_probability=0.5
)


def started() -> Task:
    task = new()
    task.start(RUN, STARTED)
    return task


def terminal(task: Task) -> dict[str, Any]:
    assert task.log.closed
    return frames_of(task.log.read(0))[-1].data  # type: ignore[no-any-return]


def test_a_new_task_waits_and_its_answer_never_changes() -> None:
    task = new()
    before = msgspec.to_builtins(task.accepted)
    assert before == {
        "task_id": "t",
        "job_id": "j",
        "queue_position": 2,
        "predicted_start_ms": 300,
        "backoff_ms": 0,
        "streams": {"sse": "/v1/tasks/t/stream"},
        "predicted_start_low_ms": 200,
        "predicted_start_high_ms": 500,
        "on_time_probability": None,
    }
    assert (task.state, task.finished, task.outcome) == (TaskState.QUEUED, False, None)
    assert task.status.queue_position == 2
    task.moved(NEARER)
    task.start(RUN, STARTED)
    task.cancel(2_000.0)
    assert msgspec.to_builtins(task.accepted) == before


@pytest.mark.req("HP-10")
def test_a_good_life() -> None:
    task = new()
    task.moved(NEARER)
    waiting = task.status
    task.start(RUN, STARTED)
    running = task.status
    assert (waiting.state, waiting.queue_position) == (TaskState.QUEUED, 1)
    assert (running.state, running.queue_position) == (TaskState.RUNNING, None)
    task.texts(["Hel", "lo"], 1_300.0)
    task.texts([" you"], 1_400.0)
    task.done(Finished(reason=FinishReason.STOP, tokens_in=3, tokens_out=4, decode_ms=149.6), 1_450.0)
    stream = task.log.read(0)
    assert events_of(stream) == ["metrics", "started", "token", "token", "token", "end"]
    assert frames_of(stream)[0].data == {
        "queue_position": 1,
        "queue_depth": 5,
        "predicted_start_ms": 150,
        "predicted_start_low_ms": 100,
        "predicted_start_high_ms": 300,
        "on_time_probability": 0.5,
    }
    assert frames_of(stream)[1].data == msgspec.to_builtins(STARTED)
    assert terminal(task) == {
        "tokens_in": 3,
        "tokens_out": 4,
        "decode_time_ms": 150,
        "decode_ms": 150,
        "first_token_ms": 300,
        "queue_time_ms": 250,
        "finish_reason": "stop",
        "stream_sha256": hashlib.sha256(b"Hello you").hexdigest(),
    }
    status = task.status
    assert status.state is TaskState.DONE
    assert (status.tokens_in, status.tokens_out, status.decode_time_ms) == (3, 4, 150)
    assert (status.queue_time_ms, status.first_token_ms, status.finish_reason) == (250, 300, "stop")
    assert (status.pool_id, status.replica_id, status.seed) == ("p", "p-0", 7)
    assert status.stream_sha256 == hashlib.sha256(b"Hello you").hexdigest()
    assert status.error_code is None
    assert isinstance(task.outcome, End)


def test_what_the_engine_does_not_say_is_what_was_seen() -> None:
    task = started()
    task.texts(["a", "b", "c"], 1_300.0)
    task.done(Finished(reason=FinishReason.LENGTH), 1_500.0)
    end = terminal(task)
    assert (end["tokens_in"], end["tokens_out"], end["decode_ms"]) == (0, 3, 200)
    assert end["finish_reason"] == "length"


def test_an_engines_zero_is_what_it_said() -> None:
    task = started()
    task.texts(["a"], 1_300.0)
    task.done(Finished(reason=FinishReason.STOP, tokens_in=0, tokens_out=0, decode_ms=0.0), 1_500.0)
    assert (terminal(task)["tokens_out"], terminal(task)["decode_ms"]) == (0, 0)


def test_an_answer_without_text_has_no_first_token() -> None:
    task = started()
    task.done(Finished(reason=FinishReason.STOP, tokens_in=3, tokens_out=0), 1_500.0)
    assert terminal(task)["first_token_ms"] is None
    assert terminal(task)["decode_ms"] == 0


@pytest.mark.req("HP-11")
def test_a_cancel_while_it_waits() -> None:
    task = new()
    task.cancel(1_600.0)
    assert task.state is TaskState.CANCELED
    assert events_of(task.log.read(0)) == ["end"]
    end = terminal(task)
    assert (end["finish_reason"], end["queue_time_ms"], end["tokens_out"]) == ("canceled", 600, 0)
    assert task.status.queue_position is None


@pytest.mark.req("HP-11")
def test_a_cancel_while_it_runs_keeps_what_was_said() -> None:
    task = started()
    task.texts(["a", "b"], 1_300.0)
    task.cancel(1_600.0)
    end = terminal(task)
    assert (end["finish_reason"], end["tokens_out"], end["decode_ms"]) == ("canceled", 2, 300)
    with pytest.raises(StreamClosedError):
        task.texts(["late"], 1_700.0)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_a_failure_says_whether_it_can_be_sent_again(code: ErrorCode) -> None:
    task = started()
    task.texts(["a"], 1_300.0)
    task.fail(code, "it broke", "mend it", 250)
    assert task.state is TaskState.FAILED
    assert terminal(task) == {
        "code": code.value,
        "message": "it broke",
        "retriable": code in RETRIABLE,
        "hint": "mend it",
        "retry_after_ms": 250,
        "engine": "llamacpp",
    }
    assert task.status.error_code == code
    assert isinstance(task.outcome, StreamError)


def test_a_failure_before_it_ran_names_no_engine_and_leaves_out_what_it_does_not_know() -> None:
    task = new()
    task.fail(ErrorCode.POOL_UNAVAILABLE, "no pool is left")
    assert terminal(task) == {"code": "POOL_UNAVAILABLE", "message": "no pool is left", "retriable": True}
    assert (task.status.pool_id, task.status.queue_time_ms) == (None, None)


@pytest.mark.req("HP-19")
@pytest.mark.parametrize(
    ("priority", "asked", "then"),
    [
        (Priority.INTERACTIVE, None, OnDisconnect.CANCEL),
        (Priority.BATCH, None, OnDisconnect.CONTINUE),
        (Priority.INTERACTIVE, OnDisconnect.CONTINUE, OnDisconnect.CONTINUE),
        (Priority.BATCH, OnDisconnect.CANCEL, OnDisconnect.CANCEL),
    ],
)
def test_what_happens_when_nobody_listens(priority: Priority, asked: OnDisconnect | None, then: OnDisconnect) -> None:
    assert new(priority=priority, on_disconnect=asked).on_disconnect is then
