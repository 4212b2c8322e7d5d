"""The bounds that a task can meet, by the names that a 429 and its metric give them.

Decides the closed list, so that there is a bound on how many series there can be. Where the configuration has a name
for a bound it is that one. Never decides which bound was met.
"""

from __future__ import annotations

from enum import StrEnum


class PolicyLabel(StrEnum):
    """What ``policy_label`` of a refusal may be."""

    REJECT = "reject"
    """``queue.full_policy`` of the pool."""
    DROP_LRU = "drop-lru"
    """Likewise."""
    DEADLINE = "deadline"
    """The task's own."""
    REQUESTS_PER_MINUTE = "requests_per_minute"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    MAX_STREAMS_PER_CLIENT = "max_streams_per_client"
    MAX_CONNECTIONS = "max_connections"
    MAX_CONNECTIONS_PER_CLIENT = "max_connections_per_client"
    AUTH_FAILURES = "auth_failures"
    """``auth.failures_per_minute``."""
    MAX_SESSIONS = "max_sessions"
    SESSION_TURNS = "session_turns"
    SESSION_TIME = "session_time"
    SESSION_TOKENS = "session_tokens"
