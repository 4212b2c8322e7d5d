"""The real llama.cpp server as a child of a test, for what no stand-in can vouch for."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

LISTENING = b"listening on "
SERVER = Path(__file__).parents[2] / "engine_provisioner" / "wheel_server.py"

# One context that all slots share, so that they can fill it together: there is no flag for it.
SHARED_CONTEXT = """
import signal, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = sys.argv[1], ["127.0.0.1"], 0
params.n_parallel, params.n_ctx, params.kv_unified, params.verbosity = 2, 256, True, 0
server = xllamacpp.Server(params)
print("listening on " + server.listening_address, file=sys.stderr, flush=True)
signal.pause()
"""


@asynccontextmanager
async def real_llamacpp(
    model: Path, *more: str, slots: int = 1, ctx: int = 512, key: str | None = None
) -> AsyncIterator[str]:
    """The URL of a running server with a context of ``ctx`` tokens over all slots; it is gone when the block ends.

    ``more`` are further flags, such as ``--embeddings``.
    """
    flags = {"--ctx-size": ctx, "--parallel": slots, "--threads": 1, "--verbosity": 0}
    argv = [str(SERVER), "--model", str(model), "--host", "127.0.0.1", "--port", "0", "--slots"]
    async with _listening(*argv, *(str(part) for flag in flags.items() for part in flag), *more, key=key) as url:
        yield url


@asynccontextmanager
async def real_llamacpp_sharing_its_context(model: Path) -> AsyncIterator[str]:
    """The URL of a server with two slots that share 256 tokens."""
    async with _listening("-c", SHARED_CONTEXT, str(model), key=None) as url:
        yield url


@asynccontextmanager
async def _listening(*argv: str, key: str | None) -> AsyncIterator[str]:
    environment = dict(os.environ) if key is None else {**os.environ, "LLAMA_API_KEY": key}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stderr is not None
    said = b""
    try:
        while not (line := await process.stderr.readline()).startswith(LISTENING):
            said += line
            if not line:
                raise RuntimeError(f"the server did not start: {said.decode(errors='replace')}")
        yield line.removeprefix(LISTENING).strip().decode()
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
