from collections.abc import AsyncIterator

import pytest

from adapters.http import EngineHttp


@pytest.fixture
async def http() -> AsyncIterator[EngineHttp]:
    async with EngineHttp() as client:
        yield client
