"""Error codes of the HTTP API and of streams, their status, and the body that carries them.

Decides which code means which status and whether a client may try again. Never decides when one is raised.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType

from msgspec import UNSET, UnsetType

from contracts.base import Message


class ErrorCode(StrEnum):
    """Stable names that a client may branch on."""

    INVALID_PARAMS = "INVALID_PARAMS"
    MISSING_TOKEN = "MISSING_TOKEN"  # noqa: S105 - the name of a code, not a secret
    BAD_TOKEN = "BAD_TOKEN"  # noqa: S105 - the name of a code, not a secret
    POLICY_DENIED = "POLICY_DENIED"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    ADMISSION_REJECT = "ADMISSION_REJECT"
    QUEUE_FULL_DROP_LRU = "QUEUE_FULL_DROP_LRU"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    POOL_UNREADY = "POOL_UNREADY"
    POOL_UNAVAILABLE = "POOL_UNAVAILABLE"
    REPLICA_EXHAUSTED = "REPLICA_EXHAUSTED"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    INTERNAL = "INTERNAL"
    DECODE_TIMEOUT = "DECODE_TIMEOUT"
    WORKER_RESET = "WORKER_RESET"


STATUS: MappingProxyType[ErrorCode, int] = MappingProxyType(
    {
        ErrorCode.INVALID_PARAMS: 400,
        ErrorCode.MISSING_TOKEN: 401,
        ErrorCode.BAD_TOKEN: 401,
        ErrorCode.POLICY_DENIED: 403,
        ErrorCode.NOT_FOUND: 404,
        ErrorCode.CONFLICT: 409,
        ErrorCode.PAYLOAD_TOO_LARGE: 413,
        ErrorCode.ADMISSION_REJECT: 429,
        ErrorCode.QUEUE_FULL_DROP_LRU: 429,
        ErrorCode.BUDGET_EXHAUSTED: 429,
        ErrorCode.POOL_UNREADY: 503,
        ErrorCode.POOL_UNAVAILABLE: 503,
        ErrorCode.REPLICA_EXHAUSTED: 503,
        ErrorCode.MODEL_UNAVAILABLE: 503,
        ErrorCode.INTERNAL: 500,
        # Seen in streams only; the status is what a caller that waits for a whole answer would get.
        ErrorCode.DECODE_TIMEOUT: 504,
        ErrorCode.WORKER_RESET: 502,
    }
)

MEANING: MappingProxyType[ErrorCode, str] = MappingProxyType(
    {
        ErrorCode.INVALID_PARAMS: (
            "the request is wrong; `field` names where, `hint` what is valid. With 405 it is the method, with 408 it "
            "came too slowly (that one may be sent again), with 431 its headers are too large"
        ),
        ErrorCode.MISSING_TOKEN: "no token was sent; `error_number` 40101",
        ErrorCode.BAD_TOKEN: "the token is wrong; `error_number` 40102",
        ErrorCode.POLICY_DENIED: "`policy` forbids what would have to be fetched; or a web page asks without a token",
        ErrorCode.NOT_FOUND: "there is no such task, pool, model or route",
        ErrorCode.CONFLICT: "it contradicts something that exists",
        ErrorCode.PAYLOAD_TOO_LARGE: "the body passes `server.max_body_bytes`",
        ErrorCode.ADMISSION_REJECT: (
            "a full queue, a rate, a deadline that cannot be met, too many connections or wrong tokens; `policy_label` "
            "names which"
        ),
        ErrorCode.QUEUE_FULL_DROP_LRU: "the queue is full, and by its policy this task gives way",
        ErrorCode.BUDGET_EXHAUSTED: "the session's budget is spent; `policy_label` names which",
        ErrorCode.POOL_UNREADY: "a pool serves the model and is not ready",
        ErrorCode.POOL_UNAVAILABLE: "no pool may run it, pool-managerd cannot be asked, or the task store not written",
        ErrorCode.REPLICA_EXHAUSTED: "the engine itself says that it is overloaded",
        ErrorCode.MODEL_UNAVAILABLE: "no pool serves the model, it is Retired, or its source cannot be reached",
        ErrorCode.INTERNAL: "a mistake of ours; the log has it under the correlation id",
        ErrorCode.DECODE_TIMEOUT: "the engine was given up at a limit of time",
        ErrorCode.WORKER_RESET: "the engine died, or broke off its answer",
    }
)
"""When each is raised, for people."""

ERROR_NUMBER: MappingProxyType[ErrorCode, int] = MappingProxyType(
    {ErrorCode.MISSING_TOKEN: 40101, ErrorCode.BAD_TOKEN: 40102}
)

# A single refusal may know better: of a deadline that the task alone passes, of a pool that only a person mends.
RETRIABLE: frozenset[ErrorCode] = frozenset(
    {
        ErrorCode.ADMISSION_REJECT,
        ErrorCode.QUEUE_FULL_DROP_LRU,
        ErrorCode.POOL_UNREADY,
        ErrorCode.POOL_UNAVAILABLE,
        ErrorCode.REPLICA_EXHAUSTED,
        ErrorCode.DECODE_TIMEOUT,
        ErrorCode.WORKER_RESET,
    }
)


class ErrorBody(Message, frozen=True, kw_only=True):
    """What every refusal over HTTP carries."""

    code: ErrorCode
    message: str
    retriable: bool
    correlation_id: str
    hint: str | UnsetType = UNSET
    retry_after_ms: int | UnsetType = UNSET
    engine: str | UnsetType = UNSET
    pool_id: str | UnsetType = UNSET
    policy_label: str | UnsetType = UNSET
    """Which bound was met, one of ``contracts.labels``; on every 429."""
    error_number: int | UnsetType = UNSET
    """40101 (no token) or 40102 (wrong token), on a 401."""
    field: str | UnsetType = UNSET
    """The path of the offending field, on INVALID_PARAMS."""
