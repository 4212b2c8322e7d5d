"""What makes this daemon fast besides its code: the parts in C that are there, and a heap that is not looked at again.

Decides nothing: it tells the operator what is missing and how to mend it.
"""

from __future__ import annotations

import asyncio
import gc
import logging

from aiohttp import http_parser

log = logging.getLogger(__name__)

MEND = "pip install --force-reinstall --only-binary aiohttp aiohttp, and AIOHTTP_NO_EXTENSIONS unset"


def tell_speed() -> None:
    """Say which event loop runs, and warn where aiohttp reads requests in Python, which is several times slower."""
    log.info("event loop: %s", type(asyncio.get_running_loop()).__module__.partition(".")[0])
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        log.warning("aiohttp runs without its parts in C, and this daemon slower than it could: %s", MEND)


def settle() -> None:
    """What is there after the start stays: never again does a garbage collection hold a token up to look at it."""
    gc.freeze()
