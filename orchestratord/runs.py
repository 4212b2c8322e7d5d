"""What others are told of a run, and what they may say about it: one attempt of a task on one engine.

Decides the words only. The ``runner`` is the one that speaks them, at two moments: when a run is about to be sent, and
when it has come to its end. Whoever chooses slots or learns how fast an engine is listens there.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

import msgspec

from adapters.base import Adapter
from contracts.events import Metrics
from orchestratord.pools import PoolEntry
from orchestratord.task import Task


class Seat(msgspec.Struct, frozen=True):
    """Where a run sits in its engine. ``warm``: that slot is expected to have the task's cache still."""

    slot: int | None = None
    """Sent as ``Generation.slot``; None leaves the choice to the engine."""
    warm: bool = False
    max_tokens: int | None = None
    """At most so many new ones; None: as the task asks."""


class Ended(StrEnum):
    """How a run ended."""

    DONE = "done"
    CANCELED = "canceled"
    """By the client, by a lost reader, by the deadline, or because the daemon stops."""
    FAILED = "failed"
    """Also where the task itself is tried again elsewhere."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What one run came to. Counts are the engine's own, None where it did not say; spans in milliseconds."""

    pool_id: str
    replica_id: str
    engine_version: str
    model_digest: str | None
    seat: Seat
    ended: Ended
    tokens_in: int | None
    cached_tokens: int | None
    """How many of the prompt's tokens the engine did not have to compute."""
    tokens_out: int | None
    pieces: int
    """How many pieces of text came, whatever the engine counts."""
    first_token_ms: float | None
    """From the start of the run to its first piece of text."""
    decode_ms: float | None
    """By the engine's own account, else from the first piece of text to the end."""
    busy_ms: float
    """From the start of the run to its end; the slot may come free a little later."""


class Listener(Protocol):
    """Somebody who has to do with runs. Every call is synchronous and short."""

    def seat(self, task: Task, entry: PoolEntry, adapter: Adapter) -> Seat:
        """A run of this task is about to be sent to this engine, which has a free slot."""

    def ended(self, task: Task, account: Account) -> Metrics | None:
        """The run is over. What is answered goes into the stream before its ``end``, where that is still open."""

    def freed(self, pool_id: str, adapter: Adapter, seat: Seat) -> None:
        """The engine itself has let go of the run: its slot can be given to another."""


class Nobody:
    """Leaves every choice to the engine, and learns nothing."""

    def seat(self, _task: Task, _entry: PoolEntry, _adapter: Adapter) -> Seat:
        """See ``Listener``."""
        return Seat()

    def ended(self, _task: Task, _account: Account) -> Metrics | None:
        """See ``Listener``."""
        return None

    def freed(self, _pool_id: str, _adapter: Adapter, _seat: Seat) -> None:
        """See ``Listener``."""
