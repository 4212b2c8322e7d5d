"""Blocking work beside the event loop that can be told to stop.

Decides that whoever is cancelled waits for the end of its own work, so that nobody writes into what is gone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
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
