"""Blocking work beside the event loop.

Decides that whoever is cancelled waits for the end of work that writes, so that nobody writes into what is gone, and
that nobody waits for work that only asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[Callable[[], bool]], T]) -> T:
    """Run blocking work that asks its argument whether to stop. Cancelled, this waits for its end."""
    stop = threading.Event()
    running = asyncio.get_running_loop().run_in_executor(None, work, stop.is_set)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([running])
        raise


async def left_behind(work: Callable[[], T]) -> T:
    """Run blocking work that only asks, and that nobody can stop: cancelled, this leaves it to itself.

    Neither the end of the event loop nor that of the process waits for it, as both do for ``asyncio.to_thread``.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(tell: Callable[[], None]) -> None:
        if not done.done():
            tell()

    def run() -> None:
        try:
            result = work()
            tell = partial(done.set_result, result)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it, whatever it is
            tell = partial(done.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, tell)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    return await done
