from collections.abc import AsyncIterator

import pytest

from adapters.http import EngineHttp
from tests.integration.adapters.subjects import STREAMED, Subject


@pytest.fixture
async def http() -> AsyncIterator[EngineHttp]:
    async with EngineHttp() as client:
        yield client


@pytest.fixture(params=STREAMED, ids=lambda subject: subject.name)
def subject(request: pytest.FixtureRequest) -> Subject:
    """Every workload of every engine that is streamed; a test of others has parameters of its own."""
    chosen: Subject = request.param
    return chosen
