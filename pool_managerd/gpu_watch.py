"""Watches the GPUs for everybody: what happened to them is asked of the driver once, told to all, and kept for a while.

Decides nothing about what happened. A driver tells each event once, so nobody else may ask it for them, and a look that
has begun ends and tells what it finds, whoever gave it up.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Protocol

from pool_managerd.devices import GpuEvent, Inventory
from pool_managerd.gpu import Gpus

_log = logging.getLogger(__name__)

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
        self._next: asyncio.Task[Inventory] | None = None
        """The look that has not begun; who asks now is answered by it."""
        self._looks: set[asyncio.Task[Inventory]] = set()

    def subscribe(self, listener: Listener) -> None:
        """From now on the listener is told of every event."""
        self._listeners.append(listener)

    async def look(self) -> Inventory:
        """The GPUs as they are right now; everybody knows of all that happened when this returns."""
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_task(self._look(), name="look at the GPUs")
            self._looks.add(self._next)
            self._next.add_done_callback(self._looks.discard)
        # The task of the watch itself: with a caller who is cancelled would go what the driver tells the thread.
        return await asyncio.shield(self._next)

    def since(self, moment: float, uuids: frozenset[str]) -> tuple[GpuEvent, ...]:
        """What happened to these GPUs from a moment of the clock on, as far as it was looked at."""
        return tuple(event for at, event in self._seen if at >= moment and event.uuid in uuids)

    async def _look(self) -> Inventory:
        async with self._looking:
            self._next = None
            inventory, events = await asyncio.to_thread(self._ask)
            for event in events:
                self._tell(event)
        return inventory

    def _ask(self) -> tuple[Inventory, tuple[GpuEvent, ...]]:
        return self._gpus.inventory(), self._gpus.events()

    def _tell(self, event: GpuEvent) -> None:
        self._seen.append((self._clock.time(), event))
        for listener in self._listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - the others, and the events behind this one, are told all the same
                _log.exception("what is to be done about an event of a GPU failed: %s", event.message)
