"""What makes this daemon fast and small besides its code: the parts in C that are there, and how its heap is kept.

Decides when memory goes back to the machine, and no more: it tells the operator what is missing and how to mend it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Callable

from aiohttp import http_parser

log = logging.getLogger(__name__)

REST_S = 2.0
"""How often it is seen whether there is no work left."""
_AGAIN = f"{sys.executable} -m pip install --force-reinstall --only-binary aiohttp aiohttp"
MEND = f"{_AGAIN}, and AIOHTTP_NO_EXTENSIONS unset"


def tell_speed() -> None:
    """Say which event loop runs, and warn where aiohttp reads requests in Python, which is several times slower."""
    log.info("event loop: %s", type(asyncio.get_running_loop()).__module__.partition(".")[0])
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        log.warning("aiohttp runs without its parts in C, and this daemon slower than it could: %s", MEND)


def settle() -> None:
    """What is there after the start stays: never again does a garbage collection hold a token up to look at it."""
    gc.freeze()


async def give_back_at_rest(rested: Callable[[], int | None], give_back: Callable[[], None]) -> None:
    """Once for all work that is done, when none is left: nobody waits for a token then.

    ``rested`` says how many tasks have ended, or None while one has not.
    """
    given = 0
    while True:
        await asyncio.sleep(REST_S)
        ended = rested()
        if ended is not None and ended != given:
            give_back()
            given = ended


def give_back() -> None:
    """Hand free memory back to the machine.

    By itself glibc gives back only what lies above everything that is in use, and among the streams of finished tasks
    little does: after a busy time a third of this process would be memory that nobody uses.
    """
    import ctypes  # noqa: PLC0415 - a start has no use for it

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # another C library keeps its heap as it likes
        trim(0)
