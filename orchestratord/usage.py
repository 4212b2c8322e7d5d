"""How full the engines' KV caches are, asked when somebody scrapes.

Decides how often an engine is asked: an engine that is polled too fast answers its clients later. A scrape waits a
moment for the answers and no longer. An engine that does not tell, or not in time, has no sample: none is better than
one from before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping

from adapters.base import EngineError
from orchestratord.pools import PoolEntry

log = logging.getLogger(__name__)

ASK_EVERY_S = 2.0
PATIENCE_S = 0.25


class CacheUsage:
    """What each pool's engine said last."""

    def __init__(self, pools: Iterable[PoolEntry]) -> None:
        self._pools = pools
        self._told: dict[str, float] = {}
        self._asked_at = -ASK_EVERY_S

    @property
    def told(self) -> Mapping[str, float]:
        """How full each pool's cache is, from 0 to 1; a pool whose engine does not tell is not there."""
        return self._told

    async def refresh(self) -> None:
        """Ask every engine that serves, unless one was asked a moment ago."""
        now = asyncio.get_running_loop().time()
        if now - self._asked_at < ASK_EVERY_S:
            return
        self._asked_at = now
        entries = [entry for entry in self._pools if entry.usable]
        answers = await asyncio.gather(*(_usage(entry) for entry in entries))
        pairs = zip(entries, answers, strict=True)
        self._told = {entry.id: usage for entry, usage in pairs if usage is not None}


async def _usage(entry: PoolEntry) -> float | None:
    if entry.adapter is None:
        return None
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await entry.adapter.usage()
    except (EngineError, TimeoutError):
        return None
    except Exception:  # a mistake of ours about one pool must not cost the whole page
        log.exception("pool %s could not be asked how full its cache is", entry.id, extra={"pool_id": entry.id})
        return None
