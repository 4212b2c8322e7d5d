"""The floor before the engine: see ``bench.floor``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from bench.processes import announced_port, process
from bench.systems.base import System
from bench.systems.engine import Engine
from bench.systems.ours import task_target


@asynccontextmanager
async def floor(engine: Engine, name: str, *, uvloop: bool) -> AsyncIterator[System]:
    """It, for the length of the block."""
    options = ("--uvloop",) if uvloop else ()
    async with process(sys.executable, "-m", "bench.floor", "--engine", engine.url, *options) as running:
        port = await announced_port(running)
        yield System(replace(task_target(port), name=name), engine, (running.pid,))
