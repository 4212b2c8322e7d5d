"""The event loop that a stand-in, or what measures with one, may run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


def uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes a loop of uvloop's; None where it is not installed."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
