"""Waits until an engine has let go of the runs that it did not end itself.

Decides how often it is asked and for how long. Until then their slots count as taken, so that an engine never gets more
than it has slots. A question costs the engine next to nothing while it streams; one that works on a prompt notices a
closed connection only when it is left alone for a second, so it is asked a few times at once and seldom after that.
Never closes a connection and never gives a slot to anybody.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator

import msgspec

from adapters.base import Adapter, EngineError, Failure
from orchestratord.clock import Clock
from orchestratord.occupancy import Hold, Occupancy, let_go

log = logging.getLogger(__name__)

STREAMING_S = (0.0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.0)
PROMPT_S = (0.0, 0.005, 0.02, 0.06, 1.1, 1.1, 2.0)
"""Pauses before each question, after a run that streamed and after one that did not yet; the last one repeats."""

PATIENCE_MS = 10_000.0
"""An engine that streamed lets go within milliseconds. One that has not after this is no longer trusted."""
SHARED_PATIENCE_MS = 1_000.0
"""Of an engine that others use too the count may never go down: after this the closed connection counts."""


class Leave(msgspec.Struct, frozen=True, kw_only=True):
    """One run that an engine is to let go of. Moments in monotonic milliseconds."""

    hold: Hold
    since_ms: float
    until_ms: float
    """When waiting has lasted long enough."""
    shared: bool
    """Others use the engine too."""
    freed: Callable[[float | None], None]
    """With what it took by the engine's own word, or None where the engine does not say."""
    stuck: Callable[[], None]
    """The time is over, and the engine still works on it: the slot stays taken, and it is asked on."""


class Releases:
    """All the runs that engines are to let go of; each engine is asked for all of its own at once."""

    def __init__(self, occupancy: Occupancy, clock: Clock) -> None:
        self._occupancy = occupancy
        self._clock = clock
        self._leaving: dict[Adapter, list[Leave]] = {}
        self._news: dict[Adapter, asyncio.Event] = {}

    def add(self, adapter: Adapter, leave: Leave) -> bool:
        """Wait for one more; True where nobody asks this engine yet, so that ``watch`` is to be started."""
        leave.hold.leaving = True
        first = adapter not in self._leaving
        self._leaving.setdefault(adapter, []).append(leave)
        self._news.setdefault(adapter, asyncio.Event()).set()
        return first

    async def watch(self, adapter: Adapter, current: Callable[[], bool]) -> None:
        """Ask until the engine has let go of all of them, or until nothing more is to be learned of it.

        ``current`` tells whether the engine still serves: of one that is gone no slot is given to anybody.
        """
        pauses = self._pauses(adapter)
        try:
            while self._leaving[adapter]:
                news = self._news[adapter]
                if news.is_set():  # one more: begin with the short pauses again
                    news.clear()
                    pauses = self._pauses(adapter)
                await _pause(next(pauses), news)
                await self._ask(adapter)
                self._give_up(adapter)
                if not current():
                    break
        finally:
            del self._news[adapter]
            for leave in self._leaving.pop(adapter, ()):
                leave.freed(None)

    def close(self) -> None:
        """Nobody is waited for any more."""
        left, self._leaving = self._leaving, {}
        for leave in [each for leaving in left.values() for each in leaving]:
            leave.freed(None)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _ask(self, adapter: Adapter) -> None:
        """One question, and what follows from its answer for those that were leaving when it was asked."""
        leaving = list(self._leaving[adapter])
        counted = self._occupancy.staying(adapter, self._clock.monotonic_ms())
        try:
            busy = await adapter.busy()
        except EngineError as error:
            if error.failure is not Failure.REFUSED:
                return  # it has not said; it is asked again
            busy = None  # nobody is there any more
        except Exception:  # as with a generation: a mistake of ours about one engine must not end all the others
            log.exception("an engine could not be asked how busy it is")
            busy = None
        await asyncio.sleep(0)  # an end that came meanwhile is taken into account first
        now_ms = self._clock.monotonic_ms()
        free = let_go([each.hold for each in leaving], 0 if busy is None else busy, counted)
        for leave in leaving[: len(free)]:
            self._leaving[adapter].remove(leave)
            leave.freed(None if busy is None else now_ms - leave.since_ms)

    def _give_up(self, adapter: Adapter) -> None:
        now_ms = self._clock.monotonic_ms()
        for leave in [each for each in self._leaving[adapter] if now_ms >= each.until_ms]:
            if leave.shared:
                self._leaving[adapter].remove(leave)
                leave.freed(None)
            elif not leave.hold.stuck:
                leave.hold.stuck = True
                leave.stuck()

    def _pauses(self, adapter: Adapter) -> Iterator[float]:
        begun = all(each.hold.begun for each in self._leaving[adapter])
        pauses = STREAMING_S if begun else PROMPT_S
        return itertools.chain(pauses, itertools.repeat(pauses[-1]))


async def _pause(seconds: float, news: asyncio.Event) -> None:
    """Wait so long, or until another run leaves the same engine."""
    if seconds:
        try:
            async with asyncio.timeout(seconds):
                await news.wait()
        except TimeoutError:
            pass
