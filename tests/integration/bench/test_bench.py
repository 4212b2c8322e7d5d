"""The benchmark runs and says everything that it promises. No speed is asserted: machines are noisy."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
STREAMS = ("1 stream", "8 streams", "64 streams", "256 streams")
ROWS = (
    "first token p50, us",
    "added to first token p50, us",
    "first token p99, us",
    "added to first token p99, us",
    *(f"k tokens/s, {streams}" for streams in STREAMS),
    *(f"CPU s per M tokens, {streams}" for streams in STREAMS),
    "RSS before load, MB",
    "RSS after load, MB",
)
SYSTEMS = ("direct", "nginx", "llama-orch") if shutil.which("nginx") else ("direct", "llama-orch")


@pytest.mark.timeout(120)
async def test_a_quick_run_prints_every_figure_of_every_system() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", "--quick", "--rounds", "1"),
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, said = (stream.decode() for stream in await process.communicate())
    assert process.returncode == 0, said
    lines = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in printed.splitlines()]
    header, *rows = [line for line in lines if line]
    assert header == ["what", *SYSTEMS, "llama-orch / direct"]
    assert [row[0] for row in rows] == list(ROWS)
    for what, *values, _ in rows:
        direct_has_none = what.startswith("added")
        assert all(re.fullmatch(r"[+-]?\d+(\.\d+)?", value) for value in values[direct_has_none:]), (what, values)
        if what.startswith(("CPU", "RSS")):
            assert all(float(value) > 0 for value in values), (what, values)
    for system in SYSTEMS:
        assert f"\n{system}: had " in printed
