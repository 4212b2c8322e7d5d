"""Knows for which pools it is still open whether they go on with the engine of a former manager.

Who follows the pools is answered when that is settled: to hear of a pool that serves all along that it is stopped, and
starting, and ready, would be true of this manager and wrong about the pool. Decides nothing about any pool.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from contracts.pools import PoolState

PATIENCE_S = 20.0
"""A follower is told how things stand after this time in any case; its own patience is longer."""
_ON_THE_WAY = frozenset(
    {
        PoolState.STOPPED,
        PoolState.STAGING_MODEL,
        PoolState.ENSURING_ENGINE,
        PoolState.STARTING,
        PoolState.PROBING,
    }
)


class TakingOver:
    """The pools for which it is open."""

    def __init__(self) -> None:
        self._open: set[str] | None = None
        """None before anybody has looked for engines of a former manager."""
        self._settled = asyncio.Event()

    def begin(self, pool_ids: Iterable[str]) -> None:
        """These pools may have one."""
        self._open = set(pool_ids)
        self._look()

    def is_now(self, pool_id: str, state: PoolState) -> None:
        """A pool has changed its state."""
        if state not in _ON_THE_WAY:
            self.settle(pool_id)

    def settle(self, pool_id: str) -> None:
        """It is known of this pool."""
        if self._open:
            self._open.discard(pool_id)
            self._look()

    async def settled(self) -> None:
        """Wait until it is known of all of them, for at most ``PATIENCE_S``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._settled.wait()

    def _look(self) -> None:
        if not self._open:
            self._settled.set()
