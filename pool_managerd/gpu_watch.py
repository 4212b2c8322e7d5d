"""Watches the GPUs for everybody: what happened to them is asked of the driver once, told to all, and kept for a while.

Decides nothing about what happened. A driver tells each event once, so nobody else may ask it for them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pool_managerd.devices import GpuEvent, Inventory
from pool_managerd.gpu import Gpus

_KEPT = 256
"""Events; a GPU that throws more in the time of one engine is not judged by the first of them."""

Listener = Callable[[GpuEvent], None]


class Clock(Protocol):
    """Tells the time of a loop, in seconds."""

    def time(self) -> float:
        """Now."""


class GpuWatch:
    """What happens to the GPUs of this machine."""

    def __init__(self, gpus: Gpus, clock: Clock) -> None:
        self._gpus = gpus
        self._clock = clock
        self._seen: deque[tuple[float, GpuEvent]] = deque(maxlen=_KEPT)
        self._listeners: list[Listener] = []
        self._looking = asyncio.Lock()

    def subscribe(self, listener: Listener) -> None:
        """From now on the listener is told of every event."""
        self._listeners.append(listener)

    async def look(self) -> Inventory:
        """The GPUs as they are right now; everybody knows of all that happened when this returns."""
        async with self._looking:
            inventory = await asyncio.to_thread(self._gpus.inventory)
            for event in await asyncio.to_thread(self._gpus.events):
                self._seen.append((self._clock.time(), event))
                for listener in self._listeners:
                    listener(event)
        return inventory

    def since(self, moment: float, uuids: frozenset[str]) -> tuple[GpuEvent, ...]:
        """What happened to these GPUs from a moment of the clock on, as far as it was looked at."""
        return tuple(event for at, event in self._seen if at >= moment and event.uuid in uuids)
