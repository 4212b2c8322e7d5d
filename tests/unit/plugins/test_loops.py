"""A test that waits on uvloop ends when its time is over."""

import asyncio
import os
import signal
from types import FrameType

import pytest

from tests.support.loops import every_loop


def test_what_the_handler_of_a_signal_raises_ends_who_waits_on_uvloop() -> None:
    """On asyncio's own loop it is raised where the loop waits, and needs no help."""
    pytest.importorskip("uvloop")

    async def wait() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGUSR1)
        await asyncio.Event().wait()

    def over(_number: int, _frame: FrameType | None) -> None:
        pytest.fail("its time is over")

    before = signal.signal(signal.SIGUSR1, over)
    try:
        with (
            pytest.raises(RuntimeError, match="stopped before Future completed"),
            asyncio.Runner(loop_factory=every_loop()["uvloop"]) as runner,
        ):
            runner.run(wait())
    finally:
        signal.signal(signal.SIGUSR1, before)
