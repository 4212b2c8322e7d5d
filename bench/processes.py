"""The processes of a measurement: started here, and ended here by their ids on every way out.

Decides how long one may take to begin and to end, and nothing of what is measured.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

READY_S = 30.0
END_S = 30.0
"""How long a process may take to end before it is killed."""
LISTENING = b"listening on http://127.0.0.1:"
UNWRITTEN, PREFIX = "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"
BYTECODE = Path(__file__).parents[1] / ".cache" / "bench" / "bytecode"
"""Where bytecode is kept if none may be written beside the code."""


@asynccontextmanager
async def process(
    *command: str,
    log: Path | None = None,
    printing: bool = False,
    environ: Mapping[str, str] | None = None,
    whole_environ: bool = False,
) -> AsyncIterator[Process]:
    """A running process. What it prints goes to ``log``; without one its standard error is a pipe.

    With ``printing`` its standard output is the pipe instead.

    ``environ`` comes on top of this process's own, or with ``whole_environ`` in its place.
    """
    given = dict(environ or {}) if whole_environ else as_installed({**os.environ, **(environ or {})})
    if printing:
        running = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env=given)
    elif log is None:
        running = await asyncio.create_subprocess_exec(*command, stdout=DEVNULL, stderr=PIPE, env=given)
    else:
        with log.open("ab") as sink:
            running = await asyncio.create_subprocess_exec(*command, stdout=sink, stderr=sink, env=given)
    try:
        yield running
    finally:
        await ended(running)


def as_installed(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python finds bytecode, as it does where the product is installed.

    Where none may be written a checkout would be measured compiling itself at each start, in time and in memory, and
    the libraries before which it is measured would not.
    """
    if not environ.get(UNWRITTEN):
        return dict(environ)
    return {name: value for name, value in environ.items() if name != UNWRITTEN} | {
        "PYTHONPYCACHEPREFIX": str(BYTECODE)
    }


async def write_bytecode(*modules: str) -> None:
    """Have the bytecode of these modules, and of all that they import, before anything is measured."""
    async with process(sys.executable, "-c", f"import {', '.join(modules)}", printing=True) as running:
        await running.communicate()


async def ended(running: Process) -> None:
    """End a process: asked first, killed when it does not."""
    if running.returncode is None:
        running.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(END_S):
                await running.wait()
        except TimeoutError:
            running.kill()
    await running.wait()


async def announced_port(running: Process) -> int:
    """The port that a process says it listens on. Raises RuntimeError with its words where it says none."""
    said = cast("asyncio.StreamReader", running.stderr)
    words = b""
    async with asyncio.timeout(READY_S):
        async for line in said:
            if LISTENING in line:
                return int(line.split(LISTENING)[1].split()[0].strip(b"/"))
            words += line
    raise RuntimeError(f"a process did not say where it listens: {words.decode(errors='replace')}")


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def reachable(port: int) -> None:
    """Wait until somebody listens."""
    async with asyncio.timeout(READY_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
