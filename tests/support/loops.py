"""The event loops that the product runs on: asyncio's own, and uvloop's where it is installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Factories = dict[str, Callable[[], asyncio.AbstractEventLoop]]


def every_loop() -> Factories:
    """Each loop by its name."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return asyncio_alone()
    return {**asyncio_alone(), "uvloop": uvloop.new_event_loop}


def asyncio_alone() -> Factories:
    """For tests that no other loop would tell more."""
    return {"asyncio": asyncio.SelectorEventLoop}
