from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.model_provisioner.pulling import Puller
from tests.support.file_server import FileServer, serving
from tests.support.hub import Hub, hub
from tests.support.tls import Authority, make_authority
from tests.unit.model_provisioner.heads import write_model


@pytest.fixture(autouse=True)
def no_proxy_but_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def haiku(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small model, whole."""
    return write_model(tmp_path_factory.mktemp("model") / "haiku.gguf").read_bytes()


@pytest.fixture(scope="session")
def epic(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model of some megabytes, whole."""
    return write_model(tmp_path_factory.mktemp("model") / "epic.gguf", vocabulary=30_000).read_bytes()


@pytest.fixture
def puller(tmp_path: Path, authority: Authority) -> Puller:
    return Puller(tmp_path, authority.client)


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[FileServer]:
    async with serving(tls=authority.server) as running:
        yield running


@pytest.fixture
async def the_hub(puller: Puller) -> AsyncIterator[Hub]:
    async with hub() as running:
        puller.environ["HF_ENDPOINT"] = running.endpoint
        yield running
