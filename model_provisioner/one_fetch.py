"""One fetch for all who want the same file, in this process or in another one.

Decides how one waits for another's fetch, and what is said meanwhile. Never decides whether the file is there
afterwards: whoever waited looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from catalog_core.errors import LockTimeoutError
from catalog_core.lock import locked

POLL_S = 0.2


@asynccontextmanager
async def alone(lock: Path, what: str, progress: Callable[[str], None]) -> AsyncIterator[None]:
    """Hold the lock file, whose folder exists. A holder that dies frees it. Raises OSError."""
    told = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(lock, wait_s=0))
                break
            except LockTimeoutError as error:
                if not told:
                    progress(f"waiting for {error.holder}, which fetches {what}")
                told = True
                await asyncio.sleep(POLL_S)
        yield
