"""The benchmark runs and says everything that it promises. No speed is asserted: machines are noisy."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.rows import ROWS
from bench.setup import OURS
from bench.systems.litellm import installed
from bench.targets import TARGETS

CHECKOUT = Path(__file__).parents[3]
TINY = (
    *("--rounds", "1", "--requests", "40", "--tokens", "2000", "--shortest", "20", "--window-ms", "200"),
    *("--gaps", "16", "--queued", "50", "--cancels", "2", "--depth-rounds", "1", "--waits", "200"),
)
SYSTEMS = [
    "direct",
    *(["nginx"] if shutil.which("nginx") else []),
    *(["direct, OpenAI", "LiteLLM"] if installed() else []),
    *("floor", "floor + uvloop", "llama-orch", "llama-orch + uvloop"),
]


async def bench(*options: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", "--quick", *options),
        cwd=CHECKOUT,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.req("HP-09")
async def test_a_tiny_run_of_everything_prints_every_row_and_a_verdict_for_every_target(tmp_path: Path) -> None:
    process = await bench(*TINY, "--results", str(tmp_path))
    printed, said = (stream.decode() for stream in await process.communicate())
    assert process.returncode == 0, said
    found: dict[str, Any] = msgspec.json.decode((tmp_path / "latest.json").read_bytes())
    assert list(found["rows"]) == [row.key for row in ROWS]
    assert found["systems"] == SYSTEMS
    for row in ROWS:
        assert row.label in printed
        assert OURS in found["rows"][row.key] or row.key.endswith("_own"), row.key
    for target in TARGETS:
        assert target.what in printed
        assert found["verdicts"][target.key] in {"met", "missed", "beyond"}, target.key
    assert printed == (tmp_path / "latest.txt").read_text()


@pytest.mark.timeout(300)
async def test_whoever_ends_a_run_leaves_nothing_running() -> None:
    process = await bench("--only", "gap", "--gaps", "100000")
    assert process.stderr is not None
    async for line in process.stderr:
        if line.startswith(b"round 1"):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) > 4
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode != 0
    assert [child for child in children if Path(f"/proc/{child}").exists()] == []
