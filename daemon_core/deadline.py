"""Waits for work that may end by itself, until its time is over or somebody cannot wait any longer.

Decides nothing about the work; what is not done then is the caller's to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def in_time(work: Coroutine[Any, Any, T], hurry: asyncio.Event, limit_s: float | None = None) -> T | None:
    """What the work came to; None where ``limit_s`` was over or ``hurry`` was set before, and it was cancelled."""
    async with asyncio.TaskGroup() as group:
        working, hurried = group.create_task(work), group.create_task(hurry.wait())
        done, _ = await asyncio.wait({working, hurried}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        hurried.cancel()
    return working.result() if working in done else None
