"""Examples of what is asked about tasks: their list, where one stands, its stream, its cancel.

Decides which requests and answers show what a client of tasks meets after it has sent one.
"""

from __future__ import annotations

from contracts.errors import ErrorCode
from contracts.examples.base import EVENT_STREAM, TASK, Example, Given, refusal, sse
from contracts.examples.poem import CANCEL, END, LIST, NO_TASK, READ, STARTED, STATUS, STREAM, TOKENS
from contracts.tasks import TaskList

EXAMPLES = (
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
