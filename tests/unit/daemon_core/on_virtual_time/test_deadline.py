import asyncio

import pytest

from daemon_core.deadline import in_time
from tests.support.virtual_loop import pass_time


async def done_after(seconds: float) -> str:
    await pass_time(seconds)
    return "done"


async def test_what_ends_by_itself_gives_its_result() -> None:
    assert await in_time(done_after(3), asyncio.Event(), 5) == "done"
    assert await in_time(done_after(3), asyncio.Event()) == "done"


async def test_its_time_is_over_or_somebody_hurries() -> None:
    loop, hurry = asyncio.get_running_loop(), asyncio.Event()
    began = loop.time()
    assert await in_time(done_after(30), hurry, 5) is None
    loop.call_later(2, hurry.set)
    assert await in_time(done_after(30), hurry, 5) is None
    assert loop.time() - began == pytest.approx(7)


async def test_a_mistake_is_the_callers() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        await in_time(fails(), asyncio.Event(), 5)
