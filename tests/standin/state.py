"""What the stand-in is doing: its knobs, its counters and its slots, and a way to wait for any of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tests.standin.knobs import Knobs, Stats, Times
from tests.standin.wires.base import Wire


class State:
    """Shared by a server and its generations."""

    def __init__(self, knobs: Knobs, wire: Wire) -> None:
        self.knobs = knobs
        self.wire = wire
        self.broken = False
        self.stats = Stats()
        self.busy: set[int] = set()
        self.times: deque[Times] = deque(maxlen=10_000)
        """Of the generations that had a slot, in the order in which they left it."""
        self._waiters: list[asyncio.Future[None]] = []

    def changed(self) -> None:
        """Wake everybody who waits for a state."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, state: Callable[[Stats], bool]) -> None:
        """Wait until the counters say so."""
        while not state(self.stats):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    async def acquire(self) -> int:
        """A free slot's number, as soon as there is one."""
        self.stats.waiting += 1
        try:
            await self.until(lambda _: len(self.busy) < self.knobs.slots)
        finally:
            self.stats.waiting -= 1
        slot = next(n for n in range(self.knobs.slots) if n not in self.busy)
        self.busy.add(slot)
        self.stats.running += 1
        self.stats.peak = max(self.stats.peak, self.stats.running)
        self.changed()
        return slot

    def release(self, slot: int) -> None:
        self.busy.discard(slot)
        self.stats.running -= 1
        self.changed()
