"""Examples of sessions, of budgets and of rates.

Decides which requests and answers show what a client meets whose turns belong together.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from contracts.errors import ErrorCode
from contracts.events import Metrics
from contracts.examples.base import EVENT_STREAM, TASK, Example, Given, refusal, sse
from contracts.examples.poem import ACCEPTED, END, LINKS, POEM, STARTED, SUBMIT, TOKENS
from contracts.sessions import SessionBudgets, SessionInfo

SHOW: dict[str, Any] = {
    "method": "get",
    "path": "/v1/sessions/{session_id}",
    "parameters": {"session_id": "poems"},
}
END_IT = SHOW | {"method": "delete"}
UNKNOWN = {"parameters": {"session_id": "proems"}}
TURN = POEM | {"session_id": "poems"}
SESSION = SessionInfo(
    session_id="poems",
    model_ref="haiku",
    ttl_ms_remaining=600_000,
    turns=1,
    turns_max=8,
    kv_tokens=9,
    kv_bytes=18_432,
    kv_warmth=False,
    replica_id="trial-0",
)
NO_SESSION = refusal(
    ErrorCode.NOT_FOUND,
    "there is no session 'proems'",
    "a session ends 600000 ms after its last turn (sessions.ttl_ms)",
)
BUDGET = {"Location": f"/v1/tasks/{TASK}", "X-Budget-Tokens-Remaining": "1000"}

EXAMPLES = (
    Example(**SHOW, name="one-turn", summary="After one turn", given=Given.SESSION, status=200, answer=SESSION),
    Example(
        **SHOW,
        name="budget",
        summary="With a budget",
        given=Given.SESSION_BUDGET,
        status=200,
        answer=replace(SESSION, budgets=SessionBudgets(tokens_remaining=990)),
    ),
    Example(**SHOW | UNKNOWN, name="unknown", summary="A session that is none", status=404, answer=NO_SESSION),
    Example(**END_IT, name="ended", summary="Its slot is free", given=Given.SESSION, status=204),
    Example(**END_IT | UNKNOWN, name="unknown", summary="A session that is none", status=404, answer=NO_SESSION),
    Example(
        **SUBMIT,
        name="turn",
        summary="A turn of a session with a budget",
        given=Given.BUDGET,
        status=202,
        body=TURN,
        answer=replace(ACCEPTED, streams=LINKS),
        headers=BUDGET,
    ),
    Example(
        **SUBMIT,
        name="turn-streamed",
        summary="The same, with its stream",
        given=Given.BUDGET,
        status=200,
        streams=True,
        body=TURN,
        answer=sse(STARTED, *TOKENS, Metrics(tokens_budget_remaining=990), END),
        headers=BUDGET,
        media=EVENT_STREAM,
    ),
    Example(
        **SUBMIT,
        name="no-turn-left",
        summary="A session that has had all its turns",
        given=Given.SESSION_OVER,
        status=429,
        body=TURN | {"task_id": "poem-2"},
        answer=refusal(
            ErrorCode.BUDGET_EXHAUSTED,
            "session 'poems' has had 1 of 1 turns",
            "DELETE the session, or use another session_id, and go on in a new one",
            retry_after_ms=599_997,
            policy_label="session_turns",
            field="session_id",
        ),
        headers={"Retry-After": "600", "X-Backoff-Ms": "599997", "X-Budget-Tokens-Remaining": "990"},
    ),
    Example(
        **SUBMIT,
        name="too-often",
        summary="More tasks than this client may send in a minute",
        given=Given.RATE,
        status=429,
        body=POEM | {"task_id": "poem-2"},
        answer=refusal(
            ErrorCode.ADMISSION_REJECT,
            "this client has used up its 1 tasks a minute",
            "send it again after retry_after_ms; limits.requests_per_minute sets the limit",
            retry_after_ms=59_995,
            policy_label="requests_per_minute",
        ),
        headers={"Retry-After": "60", "X-Backoff-Ms": "59995"},
    ),
)
