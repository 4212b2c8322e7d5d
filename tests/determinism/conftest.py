"""The determinism suite prints what it found, engine by engine, at the end of the run."""

from collections.abc import AsyncIterator, Callable

import pytest

from adapters.http import EngineHttp
from tests.determinism.replicas import Finding

FINDINGS = pytest.StashKey[list[Finding]]()
Record = Callable[[Finding], None]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[FINDINGS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    findings = config.stash.get(FINDINGS, [])
    if findings:
        terminalreporter.section("determinism: two replicas of each engine, the same seeds")
    for finding in findings:
        terminalreporter.write_line(str(finding))


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    return request.config.stash[FINDINGS].append


@pytest.fixture
async def http() -> AsyncIterator[EngineHttp]:
    async with EngineHttp() as client:
        yield client
