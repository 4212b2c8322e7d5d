"""Every coroutine test in this folder runs on virtual time."""

from collections.abc import Callable, Mapping

from tests.support.virtual_loop import VirtualTimeLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], VirtualTimeLoop]]:
    return {"virtual": VirtualTimeLoop}
