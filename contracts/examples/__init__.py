"""Examples of every operation and of every answer, as they stand in the OpenAPI documents.

Decides which examples an operation has: those written for it, and the refusals that all have in common.
"""

from __future__ import annotations

from contracts.errors import ErrorCode
from contracts.examples import artifacts, catalog, pools, receipts, refused, sessions, submitted, tasks
from contracts.examples.base import Example, refusal

WRITTEN = tuple(
    example
    for module in (submitted, refused, tasks, sessions, artifacts, receipts, pools, catalog)
    for example in module.EXAMPLES
)

_HINT = "send 'Authorization: Bearer <token>'; llama-orch token says where the token is"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="llama-orch"'}
LARGEST = 4 * 1024 * 1024
"""The default of ``server.max_body_bytes``."""


def of(method: str, path: str, statuses: frozenset[int]) -> list[Example]:
    """The examples of one operation that gives these answers, in the order in which they are shown."""
    own = [example for example in WRITTEN if (example.method, example.path) == (method, path)]
    parameters = own[0].parameters if own else {}
    if 401 in statuses:
        own += [
            Example(
                name="no-token",
                summary="Without a token",
                method=method,
                path=path,
                status=401,
                parameters=parameters,
                authorization="",
                answer=refusal(ErrorCode.MISSING_TOKEN, "a token is needed", _HINT),
                headers=_CHALLENGE,
            ),
            Example(
                name="wrong-token",
                summary="With a wrong token",
                method=method,
                path=path,
                status=401,
                parameters=parameters,
                authorization="Bearer wrong",
                answer=refusal(ErrorCode.BAD_TOKEN, "the token is wrong", _HINT),
                headers=_CHALLENGE,
            ),
        ]
    if 413 in statuses:
        hint = "server.max_body_bytes of the configuration sets the limit"
        own.append(
            Example(
                name="too-large",
                summary="A body over the limit",
                method=method,
                path=path,
                status=413,
                parameters=parameters,
                body={},
                padding=LARGEST,
                answer=refusal(ErrorCode.PAYLOAD_TOO_LARGE, "the body is too large", hint),
            )
        )
    return own
