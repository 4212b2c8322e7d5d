"""Models that are written once for all tests here."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.pool_managerd.home import Home
from tests.support.tiny_gguf import write_tiny_gguf


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that works; it was trained for 256 tokens."""
    return write_tiny_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf", ctx=256)


@pytest.fixture(scope="session")
def broken_model(model: Path) -> Path:
    """A model whose head is fine and which no engine can load: a tensor that it needs has another name."""
    path = model.with_name("broken.gguf")
    path.write_bytes(model.read_bytes().replace(b"output_norm.weight", b"output_gone.weight"))
    return path


@pytest.fixture
async def homes(tmp_path: Path) -> AsyncIterator[Callable[..., Home]]:
    made: list[Home] = []

    def home(model: Path, **how: Any) -> Home:  # noqa: ANN401 - the fields of a pool
        made.append(Home(tmp_path, model, **how))
        return made[-1]

    yield home
    for one in made:
        for manager in one.managers:
            await manager.close()


@pytest.fixture
def home(homes: Callable[..., Home], model: Path) -> Home:
    return homes(model)
