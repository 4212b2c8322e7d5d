"""An event loop whose time jumps to the next timer when nothing is ready, so that no test waits for a clock.

A loop that waits for nothing at all would hang for ever; it raises instead, and the test that did it fails at once.
Meant for code without sockets and threads: what the kernel has not delivered yet counts as "nothing is ready".
"""

import asyncio
import selectors

START_S = 1000.0


class NothingToWaitForError(RuntimeError):
    """Every coroutine waits, and there is no timer that could wake one."""


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting it moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            message = "every coroutine waits, and no timer is set"
            raise NothingToWaitForError(message)
        self.now += max(0.0, timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """The standard loop on a clock of its own, which starts at ``START_S`` seconds."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


class LoopClock:
    """orchestratord's clock, read from the running loop: milliseconds."""

    UNIX_MS = 1_700_000_000_000

    def monotonic_ms(self) -> float:
        return asyncio.get_running_loop().time() * 1000.0

    def unix_ms(self) -> int:
        return self.UNIX_MS + round(self.monotonic_ms())


async def pass_time(seconds: float) -> None:
    """Let everything happen that is due within so many seconds of the loop's own clock."""
    passed = asyncio.Event()
    timer = asyncio.get_running_loop().call_later(seconds, passed.set)
    try:
        await passed.wait()
    finally:
        timer.cancel()


async def settle(turns: int = 20) -> None:
    """Let everything happen that is due now."""
    for _ in range(turns):
        await asyncio.sleep(0)
