"""A stand-in daemon, and a home of its own for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.llama_orch.fake import FakeDaemon, serving


@pytest.fixture
def fake() -> FakeDaemon:
    return FakeDaemon()


@pytest.fixture
async def url(fake: FakeDaemon) -> AsyncIterator[str]:
    async with serving(fake) as address:
        yield address


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory: no configuration, no token."""
    for name in ("LLORCH_API_TOKEN", "LLORCH_URL", "CREDENTIALS_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, place in (("CONFIG", "c"), ("CACHE", "k"), ("DATA", "d"), ("STATE", "s")):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / place))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path
