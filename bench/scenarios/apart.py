"""Figures that need no system: taken in a process of their own, so that this one stays small."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import msgspec

from bench.processes import process


async def printed(module: str, *arguments: str) -> dict[str, float]:
    """The figures that ``python -m module`` prints as JSON. Raises RuntimeError where it does not."""
    async with process(sys.executable, "-m", module, *arguments, printing=True) as child:
        said = await cast("asyncio.StreamReader", child.stdout).read()
        if await child.wait():
            raise RuntimeError(f"{module} ended with status {child.returncode}")
    return msgspec.json.decode(said, type=dict[str, float])
