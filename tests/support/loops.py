"""The event loops that the product runs on: asyncio's own, and uvloop's where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

Factories = dict[str, Callable[[], asyncio.AbstractEventLoop]]


def every_loop() -> Factories:
    """Each loop by its name."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio_alone()

    def new_loop() -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        loop.set_exception_handler(_told)
        return loop

    return {**asyncio_alone(), "uvloop": new_loop}


def _told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End a test whose time is over: on uvloop what a signal's handler raises reaches nobody else."""
    loop.default_exception_handler(context)
    if isinstance(context.get("exception"), pytest.fail.Exception):
        loop.stop()


def asyncio_alone() -> Factories:
    """For tests that no other loop would tell more."""
    return {"asyncio": asyncio.SelectorEventLoop}
