"""Does what takes long in the event loop, and lets others have their turns in between.

Decides nothing: where that may be, the work itself says (``daemon_core.steps``). What it looks at may change meanwhile.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

from daemon_core.steps import Steps

T = TypeVar("T")


async def in_turns(steps: Steps[T]) -> T:
    """What the steps come to."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
        await asyncio.sleep(0)
