"""The task that most examples are about: what is sent, what is answered, and what its stream says.

Decides the values alone; which of them stand in which example, the modules of the operations do.
"""

from __future__ import annotations

from typing import Any

from contracts.config import Profile
from contracts.errors import ErrorCode
from contracts.events import End, FinishReason, Started, StreamError, Token
from contracts.examples.base import DIGEST, ENGINE_VERSION, TASK, refusal
from contracts.tasks import Priority, StreamLinks, TaskAccepted, TaskForecast, TaskState, TaskStatus, Workload

SUBMIT: dict[str, Any] = {"method": "post", "path": "/v1/tasks"}
READ: dict[str, Any] = {"method": "get", "path": "/v1/tasks/{task_id}", "parameters": {"task_id": TASK}}
STREAM: dict[str, Any] = {"method": "get", "path": "/v1/tasks/{task_id}/stream", "parameters": {"task_id": TASK}}
CANCEL: dict[str, Any] = {"method": "post", "path": "/v1/tasks/{task_id}/cancel", "parameters": {"task_id": TASK}}
LIST: dict[str, Any] = {"method": "get", "path": "/v1/tasks"}

POEM = {"task_id": TASK, "model_ref": "haiku", "prompt": "Write a haiku about snow.", "seed": 7, "max_tokens": 3}
LINKS = StreamLinks(sse=f"/v1/tasks/{TASK}/stream")
ACCEPTED = TaskAccepted(
    task_id=TASK,
    job_id="job-e0699c5b4540627b52b22e59",
    queue_position=0,
    predicted_start_ms=0,
    backoff_ms=0,
    streams=LINKS,
    predicted_start_low_ms=0,
    predicted_start_high_ms=0,
)
FORECAST = TaskForecast(
    queue_position=0,
    predicted_start_ms=0,
    predicted_start_low_ms=0,
    predicted_start_high_ms=0,
    predicted_end_ms=94,
    pool_id="trial",
    replica_id="trial-0",
    eligible_pools=("trial",),
    kv_warmth=False,
    prompt_tokens=7,
    prompt_tokens_counted=True,
    new_tokens=3,
)
STARTED = Started(
    task_id=TASK,
    job_id="job-e0699c5b4540627b52b22e59",
    queue_position=0,
    predicted_start_ms=0,
    engine="llamacpp",
    engine_version=ENGINE_VERSION,
    model_digest=DIGEST,
    pool_id="trial",
    replica_id="trial-0",
    profile=Profile.TRIAL,
    seed=7,
    kv_warmth=False,
)
TOKENS = (Token(t="My", i=0), Token(t=" mind", i=1), Token(t=" is", i=2))
END = End(
    tokens_in=7,
    tokens_out=3,
    decode_time_ms=2,
    decode_ms=2,
    first_token_ms=3,
    queue_time_ms=0,
    finish_reason=FinishReason.LENGTH,
    stream_sha256="1621e540325b950b150ec0b7cd49d914b965c8055962d2f94efc7514e3aad82a",
    artifact_id="sha256:d7fd23a42323b70b38e835ec426df363cfaf8dac4603f1a23c4da978248ba80f",
)
CANCELED = End(
    tokens_in=7,
    tokens_out=2,
    decode_time_ms=2,
    decode_ms=2,
    first_token_ms=3,
    queue_time_ms=0,
    finish_reason=FinishReason.CANCELED,
    artifact_id="sha256:3cc893f484abf4e0a86c703a57a5c4797d991e5dfd79101a9c7f43e8b8162072",
    stream_sha256="883e55a724edc98958be00748747a768eb06ea1a506e14c65bd23b47c4ea82b8",
)
DIED = StreamError(
    code=ErrorCode.WORKER_RESET,
    message="the engine's connection broke: it ended before the answer was whole",
    retriable=True,
    hint="send the task again",
    retry_after_ms=1000,
    engine="llamacpp",
)
STATUS = TaskStatus(
    task_id=TASK,
    job_id="job-e0699c5b4540627b52b22e59",
    state=TaskState.DONE,
    priority=Priority.INTERACTIVE,
    workload=Workload.COMPLETION,
    model_ref="haiku",
    created_ms=1_796_000_000_000,
    pool_id="trial",
    replica_id="trial-0",
    seed=7,
    queue_time_ms=0,
    first_token_ms=3,
    decode_time_ms=2,
    tokens_in=7,
    tokens_out=3,
    finish_reason="length",
    stream_sha256=END.stream_sha256,
    streams=LINKS,
    attempts=1,
    artifact_id="sha256:d7fd23a42323b70b38e835ec426df363cfaf8dac4603f1a23c4da978248ba80f",
)
SILENT = StreamError(
    code=ErrorCode.DECODE_TIMEOUT,
    message="the engine was given up after 2000 ms (idle limit)",
    retriable=True,
    hint="timeouts.idle_ms of the pool sets this limit",
    engine="llamacpp",
)
OVERLOADED = StreamError(
    code=ErrorCode.REPLICA_EXHAUSTED,
    message="the engine answered: too many requests",
    retriable=True,
    engine="llamacpp",
)
NO_TASK = refusal(
    ErrorCode.NOT_FOUND,
    "there is no task 'poem-9'",
    "the last 1000 finished tasks are kept (server.keep_finished)",
)
RETRY = {"Retry-After": "2", "X-Backoff-Ms": "2000"}
