"""The real llama.cpp server of the wheel xllamacpp, with a model of nonsense that is slow enough to be cancelled."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from bench.processes import announced_port, process

SERVER = Path(__file__).parents[2] / "engine_provisioner" / "wheel_server.py"
CONTEXT = 1024


def llamacpp_installed() -> bool:
    """Whether the server is here, and what writes the model."""
    return all(find_spec(name) is not None for name in ("xllamacpp", "gguf", "numpy", "pytest"))


@asynccontextmanager
async def llamacpp(folder: Path) -> AsyncIterator[int]:
    """Its port, for the length of the block. It has one slot."""
    from tests.support.tiny_gguf import write_tiny_gguf  # noqa: PLC0415 - needs what is only there for the tests

    model = write_tiny_gguf(folder / "slow.gguf", layers=8, dim=512, ctx=CONTEXT)
    flags = ("--ctx-size", str(CONTEXT), "--parallel", "1", "--threads", "1", "--verbosity", "0", "--slots")
    command = (sys.executable, str(SERVER), "--model", str(model), "--host", "127.0.0.1", "--port", "0", *flags)
    async with process(*command) as running:
        yield await announced_port(running)
