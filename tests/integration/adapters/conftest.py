from collections.abc import AsyncIterator

import pytest

from adapters.http import EngineHttp
from tests.integration.adapters.subjects import SUBJECTS, Subject


@pytest.fixture
async def http() -> AsyncIterator[EngineHttp]:
    async with EngineHttp() as client:
        yield client


@pytest.fixture(params=SUBJECTS, ids=lambda subject: subject.name)
def subject(request: pytest.FixtureRequest) -> Subject:
    chosen: Subject = request.param
    return chosen
