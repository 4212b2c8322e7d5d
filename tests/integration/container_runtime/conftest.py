"""Programs end differently on uvloop, so each test runs on every loop that the product runs on."""

from __future__ import annotations

from tests.support.loops import Factories, every_loop


def pytest_asyncio_loop_factories() -> Factories:
    """The loops of these tests."""
    return every_loop()
