"""Log lines that wait until there is a moment for them, instead of being written while somebody waits for a token.

Decides when they are written: a little later, once a turn of the loop finds little to do or they have waited long
enough, a few in each turn; and at once where a line is a warning or worse, comes from another thread, or finds too many
before it. Never changes the order of lines, and loses none where the process ends by itself.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from daemon_core.logs import Passing, RedactingHandler

PAUSE_S = 0.02
BUSY_S = 0.002
"""A turn of the loop that took longer had other work: that goes first."""
LONGEST_S = 0.5
"""For no longer than this."""
LINES_AT_ONCE = 8
"""So many take less time than a client notices."""
MOST_LINES = 10_000


class Unhurried(Passing):
    """Keeps records for a moment and hands them to ``target``. A record knows when it was made: no time is wrong."""

    def __init__(self, target: RedactingHandler, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(target)
        self._loop = loop
        self._thread = threading.get_ident()
        self._kept: deque[logging.LogRecord] = deque()
        self._timer: asyncio.Handle | None = None
        self._turn_at = 0.0
        """When the turn began that is being timed."""
        self._latest = 0.0
        """When the lines have waited long enough."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record; write it with all that were kept before it where that should not wait."""
        self._kept.append(record)
        here = threading.get_ident() == self._thread
        if not here or record.levelno >= logging.WARNING or len(self._kept) >= MOST_LINES:
            self.flush()
        elif self._timer is None:
            self._latest = self._loop.time() + LONGEST_S
            self._timer = self._loop.call_later(PAUSE_S, self._time_a_turn)

    def flush(self) -> None:
        """Write all that was kept."""
        with self._hold():
            while self._kept:
                self.target.handle(self._kept.popleft())

    def close(self) -> None:
        """Write all that was kept, and keep nothing any more."""
        self.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().close()

    def _time_a_turn(self) -> None:
        self._turn_at = self._loop.time()
        self._timer = self._loop.call_soon(self._some)

    def _some(self) -> None:
        now = self._loop.time()
        if now - self._turn_at > BUSY_S and now < self._latest:
            self._timer = self._loop.call_later(PAUSE_S, self._time_a_turn)
            return
        self._timer = None
        with self._hold():
            for _ in range(min(LINES_AT_ONCE, len(self._kept))):
                self.target.handle(self._kept.popleft())
        if self._kept:
            self._time_a_turn()

    @contextmanager
    def _hold(self) -> Iterator[None]:
        self.acquire()
        try:
            yield
        finally:
            self.release()


@asynccontextmanager
async def unhurried_logs() -> AsyncIterator[None]:
    """What ``logs.setup`` set up writes without haste for the length of the block."""
    root, loop = logging.getLogger(), asyncio.get_running_loop()
    root.handlers[:] = [Unhurried(each, loop) if isinstance(each, RedactingHandler) else each for each in root.handlers]
    patient = root.handlers[:]
    try:
        yield
    finally:
        # Not the handlers of before: a reload may have brought another one.
        root.handlers[:] = [each.target if isinstance(each, Unhurried) else each for each in patient]
        for each in patient:
            if isinstance(each, Unhurried):
                each.close()
