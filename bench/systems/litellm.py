"""LiteLLM's proxy before an engine of OpenAI's format, in the environment that tools/bench_environment.sh made.

One worker, a master key, no telemetry, no database, and nothing but loopback: every other address leads to a proxy that
is not there.
"""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp

from bench.processes import free_port, process
from bench.systems.base import POST, System

PROGRAM = Path(__file__).parents[2] / ".cache" / "bench" / "litellm" / "bin" / "litellm"
KEY = "sk-bench"
START_S = 120.0
NOWHERE = "http://127.0.0.1:9"
TOKEN = b'"delta":{"content":"'


def installed() -> bool:
    """Whether its environment is there."""
    return PROGRAM.exists()


@asynccontextmanager
async def litellm(folder: Path, direct: System) -> AsyncIterator[System]:
    """It, for the length of the block."""
    root, port = folder / "litellm", free_port()
    root.mkdir()
    model = {
        "model": f"openai/{direct.engine.usual.model}",
        "api_base": f"{direct.engine.url}/v1",
        "api_key": "none",
    }
    config = {
        "model_list": [{"model_name": "bench", "litellm_params": model}],
        "litellm_settings": {"telemetry": False, "num_retries": 0, "request_timeout": 600},
        "general_settings": {"master_key": KEY},
    }
    (root / "config.yaml").write_text(json.dumps(config))
    options = ("--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    environ = {
        "HOME": str(root),
        "PATH": f"{PROGRAM.parent}:/usr/bin:/bin",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "HTTP_PROXY": NOWHERE,
        "HTTPS_PROXY": NOWHERE,
        "NO_PROXY": "127.0.0.1",
    }
    command = (str(PROGRAM), *options, "--telemetry", "False")
    async with process(
        *("env", "--chdir", str(root), *command), log=folder / "litellm.log", environ=environ, whole_environ=True
    ) as running:
        await _ready(port, running)
        head = POST.format(path="/v1/chat/completions") + f"Authorization: Bearer {KEY}\r\n"
        body = direct.target.body.replace(direct.engine.usual.model.encode(), b"bench")
        target = replace(direct.target, name="LiteLLM", port=port, head=head.encode(), body=body)
        yield System(target, direct.engine, (running.pid,), direct=direct.name)


async def _ready(port: int, running: Process) -> None:
    async with asyncio.timeout(START_S), aiohttp.ClientSession() as session:
        while running.returncode is None:
            try:
                async with session.get(f"http://127.0.0.1:{port}/health/liveliness") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise RuntimeError("LiteLLM ended before it served")
