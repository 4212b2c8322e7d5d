"""Sessions as clients see them: conversations that keep their place in an engine's KV cache for a while.

Decides the shape only; when a session ends is ``orchestratord.sessions``'s to decide.
"""

from __future__ import annotations

from contracts.base import Message


class SessionBudgets(Message, frozen=True, kw_only=True):
    """What is left; null where the configuration sets no budget."""

    tokens_remaining: int | None = None
    time_remaining_ms: int | None = None


class SessionInfo(Message, frozen=True, kw_only=True):
    """``GET /v1/sessions/{id}``. Spans in milliseconds."""

    session_id: str
    model_ref: str
    ttl_ms_remaining: int
    turns: int
    turns_max: int
    kv_tokens: int
    """Tokens of this session in the replica's KV cache, by the engine's own count after its last turn; 0 when gone."""
    kv_bytes: int | None
    """About what they take; null where the size of a token is not known."""
    kv_warmth: bool
    """Whether the engine itself said that the last turn reused what an earlier one had left."""
    replica_id: str | None
    """Where the cache is; null before the first turn and after it was lost."""
    budgets: SessionBudgets = SessionBudgets()
