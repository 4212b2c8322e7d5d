"""Examples of the data plane.

Decides which requests and answers show what a client of tasks meets.
"""

from __future__ import annotations

from typing import Any

from contracts.config import Profile
from contracts.errors import ErrorCode
from contracts.events import End, FinishReason, Started, StreamError, Token
from contracts.examples.base import DIGEST, ENGINE_VERSION, EVENT_STREAM, TASK, Example, Given, refusal, sse
from contracts.tasks import Priority, StreamLinks, TaskAccepted, TaskList, TaskState, TaskStatus, Workload

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
)
CANCELED = End(
    tokens_in=7,
    tokens_out=2,
    decode_time_ms=2,
    decode_ms=2,
    first_token_ms=3,
    queue_time_ms=0,
    finish_reason=FinishReason.CANCELED,
    stream_sha256="883e55a724edc98958be00748747a768eb06ea1a506e14c65bd23b47c4ea82b8",
)
DIED = StreamError(
    code=ErrorCode.WORKER_RESET,
    message="the engine's connection broke: ClientPayloadError",
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
)
SILENT = StreamError(
    code=ErrorCode.DECODE_TIMEOUT,
    message="the engine was given up after 300 ms (idle limit)",
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

EXAMPLES = (
    Example(
        **SUBMIT,
        name="completion",
        summary="A completion",
        status=202,
        body=POEM,
        answer=ACCEPTED,
        headers={"Location": f"/v1/tasks/{TASK}"},
    ),
    Example(
        **SUBMIT,
        name="chat",
        summary="A chat, in the background",
        status=202,
        body={
            "task_id": TASK,
            "workload": "chat",
            "model_ref": "haiku",
            "messages": [{"role": "user", "content": "Write a haiku about rain."}],
            "priority": "batch",
            "max_tokens": 8,
            "sampling": {"temperature": 0.7, "stop": ["."]},
        },
        answer=ACCEPTED,
        headers={"Location": f"/v1/tasks/{TASK}"},
    ),
    Example(
        **SUBMIT,
        name="again",
        summary="The same task again: nothing runs twice",
        given=Given.TASK_ENDED,
        status=202,
        body=POEM,
        answer=ACCEPTED,
        headers={"Location": f"/v1/tasks/{TASK}"},
    ),
    Example(
        **SUBMIT,
        name="streamed",
        summary="A completion, and its stream at once",
        status=200,
        streams=True,
        body=POEM,
        answer=sse(STARTED, *TOKENS, END),
        headers={"Location": f"/v1/tasks/{TASK}"},
        media=EVENT_STREAM,
    ),
    Example(
        **SUBMIT,
        name="engine-died",
        summary="An engine that dies in the middle",
        given=Given.ENGINE_DIES,
        status=200,
        streams=True,
        body=POEM,
        answer=sse(STARTED, *TOKENS[:2], DIED),
        media=EVENT_STREAM,
    ),
    Example(
        **SUBMIT,
        name="engine-silent",
        summary="An engine that falls silent",
        given=Given.ENGINE_HANGS,
        status=200,
        streams=True,
        body=POEM,
        answer=sse(STARTED, *TOKENS[:2], SILENT),
        media=EVENT_STREAM,
    ),
    Example(
        **SUBMIT,
        name="engine-overloaded",
        summary="An engine that has too much to do",
        given=Given.ENGINE_OVERLOADED,
        status=200,
        streams=True,
        body=POEM,
        answer=sse(STARTED, OVERLOADED),
        media=EVENT_STREAM,
    ),
    Example(
        **SUBMIT,
        name="canceled",
        summary="A task that somebody ends",
        given=Given.SOMEBODY_CANCELS,
        status=200,
        streams=True,
        body=POEM | {"max_tokens": 64},
        answer=sse(STARTED, *TOKENS[:2], CANCELED),
        media=EVENT_STREAM,
    ),
    Example(
        **SUBMIT,
        name="misspelt",
        summary="A field that is none",
        status=400,
        body={"model_ref": "haiku", "promt": "Write a haiku about snow."},
        answer=refusal(
            ErrorCode.INVALID_PARAMS, "promt: unknown field 'promt'", "did you mean 'prompt'?", field="promt"
        ),
    ),
    Example(
        **SUBMIT,
        name="not-one-of",
        summary="A value that is none",
        status=400,
        body={"model_ref": "haiku", "prompt": "Snow.", "priority": "high"},
        answer=refusal(
            ErrorCode.INVALID_PARAMS, "priority: 'high' is not one of: interactive, batch", field="priority"
        ),
    ),
    Example(
        **SUBMIT,
        name="no-prompt",
        summary="Nothing to go on from",
        status=400,
        body={"model_ref": "haiku"},
        answer=refusal(
            ErrorCode.INVALID_PARAMS,
            "workload completion takes 'prompt' and nothing else; got none",
            field="prompt",
        ),
    ),
    Example(
        **SUBMIT,
        name="too-long",
        summary="More tokens than the context holds",
        status=400,
        body=POEM | {"max_tokens": 600},
        answer=refusal(
            ErrorCode.INVALID_PARAMS,
            "7 prompt tokens and max_tokens 600 exceed the context of 512",
            "ask for at most 505, or leave max_tokens out",
            field="max_tokens",
        ),
    ),
    Example(
        **SUBMIT,
        name="no-json",
        summary="A body that is no JSON",
        status=400,
        body="Write a haiku about snow.",
        answer=refusal(
            ErrorCode.INVALID_PARAMS,
            "the body is no JSON: invalid character (byte 0)",
            "send one JSON object, encoded in UTF-8",
        ),
    ),
    Example(
        **SUBMIT,
        name="id-taken",
        summary="An id that another task has",
        given=Given.TASK_ENDED,
        status=409,
        body=POEM | {"prompt": "Write a haiku about rain."},
        answer=refusal(
            ErrorCode.CONFLICT,
            "task 'poem-1' exists with another body",
            "use a new task_id for a new request",
            field="task_id",
        ),
    ),
    Example(
        **SUBMIT,
        name="queue-full",
        summary="A full queue says when to come back",
        given=Given.QUEUE_FULL,
        status=429,
        body=POEM,
        answer=refusal(
            ErrorCode.ADMISSION_REJECT,
            "the queue of pool 'trial' is full",
            "send it again after retry_after_ms; queue.capacity of the pool sets the bound",
            retry_after_ms=2000,
            engine="llamacpp",
            pool_id="trial",
            policy_label="reject",
        ),
        headers=RETRY,
    ),
    Example(
        **SUBMIT,
        name="queue-full-drop-lru",
        summary="A batch task that would have to displace interactive ones",
        given=Given.QUEUE_FULL_DROP_LRU,
        status=429,
        body=POEM | {"priority": "batch"},
        answer=refusal(
            ErrorCode.QUEUE_FULL_DROP_LRU,
            "the queue of pool 'trial' is full",
            "send it again after retry_after_ms; queue.capacity of the pool sets the bound",
            retry_after_ms=2000,
            engine="llamacpp",
            pool_id="trial",
            policy_label="drop-lru",
        ),
        headers=RETRY,
    ),
    Example(
        **SUBMIT,
        name="too-late",
        summary="A deadline that cannot be met",
        given=Given.QUEUE_LONG,
        status=429,
        body=POEM | {"deadline_ms": 10},
        answer=refusal(
            ErrorCode.ADMISSION_REJECT,
            "the task would start in about 2000 ms, after its deadline of 10 ms",
            "try again later, or allow a later deadline",
            retry_after_ms=2000,
            policy_label="deadline",
        ),
        headers=RETRY,
    ),
    Example(
        **SUBMIT,
        name="unknown-model",
        summary="A model that nobody serves",
        status=503,
        body={"model_ref": "haikku", "prompt": "Snow."},
        answer=refusal(
            ErrorCode.MODEL_UNAVAILABLE,
            "no pool serves the model 'haikku'",
            "did you mean 'haiku'?",
            field="model_ref",
        ),
    ),
    Example(
        **SUBMIT,
        name="pin-unknown",
        summary="A pin to a pool that is none: never another one in its place",
        status=503,
        body={"model_ref": "haiku", "prompt": "Snow.", "placement": {"mode": "pin", "pool_id": "gpu7"}},
        answer=refusal(
            ErrorCode.POOL_UNAVAILABLE,
            "pool 'gpu7' does not serve 'haiku'",
            "valid here: trial",
            field="placement.pool_id",
        ),
    ),
    Example(
        **SUBMIT,
        name="unready",
        summary="A pool that will not come up by itself",
        given=Given.NO_ENGINE,
        status=503,
        body=POEM,
        answer=refusal(
            ErrorCode.POOL_UNREADY,
            "pool 'trial' is broken: cmake failed",
            "install the CUDA toolkit",
            pool_id="trial",
            engine="llamacpp",
        ),
    ),
    Example(
        **SUBMIT,
        name="never-managed",
        summary="Before pool-managerd has said anything",
        given=Given.NEVER_MANAGED,
        status=503,
        body=POEM,
        answer=refusal(
            ErrorCode.POOL_UNAVAILABLE,
            "pool-managerd has not reported any pool yet",
            "is pool-managerd running? systemctl --user status pool-managerd",
        ),
    ),
    Example(
        **LIST,
        name="newest",
        summary="The newest task that is done",
        given=Given.TASK_ENDED,
        status=200,
        parameters={"state": "done", "limit": "1"},
        answer=TaskList(tasks=(STATUS,)),
    ),
    Example(
        **LIST,
        name="no-state",
        summary="A state that is none",
        status=400,
        parameters={"state": "finished"},
        answer=refusal(
            ErrorCode.INVALID_PARAMS,
            "'finished' is no task state",
            "valid here: canceled, done, failed, queued, running",
            field="state",
        ),
    ),
    Example(**READ, name="done", summary="A task that is done", given=Given.TASK_ENDED, status=200, answer=STATUS),
    Example(
        **READ | {"parameters": {"task_id": "poem-9"}},
        name="unknown",
        summary="A task that is not known, or no more",
        status=404,
        answer=NO_TASK,
    ),
    Example(
        **STREAM,
        name="whole",
        summary="From the start, also when the task has ended",
        given=Given.TASK_ENDED,
        status=200,
        answer=sse(STARTED, *TOKENS, END),
        media=EVENT_STREAM,
    ),
    Example(
        **STREAM | {"parameters": {"task_id": TASK, "Last-Event-ID": "1"}},
        name="resumed",
        summary="Behind the last token that a client saw",
        given=Given.TASK_ENDED,
        status=200,
        answer=sse(TOKENS[2], END),
        media=EVENT_STREAM,
    ),
    Example(
        **STREAM | {"parameters": {"task_id": TASK, "after": "last"}},
        name="no-number",
        summary="A position that is none",
        given=Given.TASK_ENDED,
        status=400,
        answer=refusal(
            ErrorCode.INVALID_PARAMS,
            "after 'last' is no token number",
            "send the id of the last event you saw",
            field="after",
        ),
    ),
    Example(
        **STREAM | {"parameters": {"task_id": "poem-9"}},
        name="unknown",
        summary="A task that is not known, or no more",
        status=404,
        answer=NO_TASK,
    ),
    Example(
        **STREAM,
        name="too-many",
        summary="One stream too many",
        given=Given.STREAMS_OPEN,
        status=429,
        answer=refusal(
            ErrorCode.ADMISSION_REJECT,
            "1 streams of this client are open",
            "close some, or raise server.max_streams_per_client",
            retry_after_ms=1000,
            policy_label="max_streams_per_client",
        ),
        headers={"Retry-After": "1", "X-Backoff-Ms": "1000"},
    ),
    Example(**CANCEL, name="running", summary="A task that runs", given=Given.TASK_RUNS, status=204),
    Example(**CANCEL, name="ended", summary="One that has ended: nothing changes", given=Given.TASK_ENDED, status=204),
    Example(
        **CANCEL | {"parameters": {"task_id": "poem-9"}},
        name="unknown",
        summary="A task that is not known, or no more",
        status=404,
        answer=NO_TASK,
    ),
)
