"""Fixtures for the GPUs of ``tests.support.nvml``; a module that wants them names this one in ``pytest_plugins``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nvml import FakeGpus, build


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, built once. A test that asks for it has the mark ``needs("gcc")``."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def gpus(nvml_library: Path, tmp_path: Path) -> FakeGpus:
    """The reference machine: a 24 GB RTX 3090 and a 12 GB RTX 3060, for child processes (``env``)."""
    return FakeGpus(nvml_library, tmp_path / "nvml-state")


@pytest.fixture
def loaded_gpus(gpus: FakeGpus) -> Iterator[FakeGpus]:
    """The reference machine, for this process too."""
    with gpus.loaded():
        yield gpus
