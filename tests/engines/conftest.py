"""The fixture of the real engines' suite, and what happens where namespaces are withheld."""

import os
from collections.abc import AsyncIterator

import pytest

from adapters.http import EngineHttp
from tests.plugins.needs import Needs
from tests.support.real_ray_serve import may_have_namespaces

NAMESPACES = "namespaces of its own: start the container with --privileged"


@pytest.hookimpl(trylast=True)  # after the deselection
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Ray Serve runs in namespaces of its own or not at all; in CI that is an error."""
    ours = [item for item in items if item.path.name == "test_ray_serve.py" and not item.get_closest_marker("skip")]
    if not ours or may_have_namespaces():
        return
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(f"Ray Serve needs {NAMESPACES}")
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=f"missing: {NAMESPACES}"))
    needs = config.pluginmanager.getplugin("llama_orch_needs")
    if isinstance(needs, Needs):
        needs.not_run[(NAMESPACES,)] += ["engines"] * len(ours)


@pytest.fixture
async def http() -> AsyncIterator[EngineHttp]:
    async with EngineHttp() as client:
        yield client
