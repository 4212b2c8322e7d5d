from collections.abc import AsyncIterator

import pytest

from adapters.http import EngineHttp
from tests.integration.adapters.subjects import STREAMED, Subject
from tests.support.loops import Factories, asyncio_alone, every_loop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Factories:
    """The connection itself behaves the same on every loop that the product runs on."""
    return every_loop() if item.path.stem == "test_engine_connection" else asyncio_alone()


@pytest.fixture
async def http() -> AsyncIterator[EngineHttp]:
    async with EngineHttp() as client:
        yield client


@pytest.fixture(params=STREAMED, ids=lambda subject: subject.name)
def subject(request: pytest.FixtureRequest) -> Subject:
    """Every workload of every engine that is streamed; a test of others has parameters of its own."""
    chosen: Subject = request.param
    return chosen
