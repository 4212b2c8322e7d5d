"""Waiting for what another process or task does, where nobody tells that it has: by looking, never for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

Found = TypeVar("Found")

LIMIT_S = 40.0
LOOK_S = 0.01


async def until(holds: Callable[[], bool], what: str = "it") -> None:
    """Wait for a predicate; a test that waits too long says for what."""

    async def look() -> bool:
        return holds()

    await looked_for(look, bool, what)


async def looked_for(look: Callable[[], Awaitable[Found]], holds: Callable[[Found], bool], what: str) -> Found:
    """What one sees, as soon as it is as wanted."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LIMIT_S
    while not holds(found := await look()):
        assert loop.time() < deadline, f"waited {LIMIT_S:g} s in vain: {what}; the last look: {found!r}"
        looked = loop.create_future()
        loop.call_later(LOOK_S, looked.set_result, None)
        await looked
    return found
