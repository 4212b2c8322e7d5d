"""Examples of tasks that are not let in.

Decides which requests and answers show what a client is told whose task is refused.
"""

from __future__ import annotations

from contracts.errors import ErrorCode
from contracts.examples.base import Example, Given, refusal
from contracts.examples.poem import POEM, RETRY, SUBMIT

EXAMPLES = (
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
        body=POEM | {"max_tokens": 1, "deadline_ms": 40},
        answer=refusal(
            ErrorCode.ADMISSION_REJECT,
            "the task would start in about 2000 ms and be done in about 2050 ms, after its deadline of 40 ms",
            "try again later, allow a later deadline_ms, or ask for fewer tokens",
            retry_after_ms=2000,
            policy_label="deadline",
        ),
        headers=RETRY,
    ),
    Example(
        **SUBMIT,
        name="too-short",
        summary="A deadline shorter than the task alone takes",
        status=429,
        body=POEM | {"deadline_ms": 1},
        answer=refusal(
            ErrorCode.ADMISSION_REJECT,
            "a task like this takes about 94 ms by itself, and its deadline is 1 ms",
            "allow at least 94 ms, or ask for fewer tokens",
            retry_after_ms=94,
            retriable=False,
            policy_label="deadline",
        ),
        headers={"Retry-After": "1", "X-Backoff-Ms": "94"},
    ),
    Example(
        **SUBMIT,
        name="dry-run-refused",
        summary="What would be refused is refused, also as a dry run",
        given=Given.QUEUE_LONG,
        status=429,
        parameters={"dry_run": "true"},
        body=POEM | {"max_tokens": 1, "deadline_ms": 40},
        answer=refusal(
            ErrorCode.ADMISSION_REJECT,
            "the task would start in about 2000 ms and be done in about 2050 ms, after its deadline of 40 ms",
            "try again later, allow a later deadline_ms, or ask for fewer tokens",
            retry_after_ms=2000,
            policy_label="deadline",
        ),
        headers=RETRY,
    ),
    Example(
        **SUBMIT,
        name="dry-run-unclear",
        summary="A dry run is asked for with true and with nothing else",
        status=400,
        parameters={"dry_run": "yes"},
        body=POEM,
        answer=refusal(
            ErrorCode.INVALID_PARAMS,
            "dry_run 'yes' is neither true nor false",
            "dry_run=true asks for a forecast",
            field="dry_run",
        ),
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
            retriable=False,
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
)
