"""nginx before the engine, unbuffered and with one worker, as one would set it up for streaming."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from bench import procfs
from bench.processes import READY_S, free_port, process, reachable
from bench.systems.base import MAX_STREAMS, System


@asynccontextmanager
async def nginx(folder: Path, direct: System) -> AsyncIterator[System]:
    """It, for the length of the block."""
    root, port = folder / "nginx", free_port()
    root.mkdir()
    temp = "".join(f"{name}_temp_path {root}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (root / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {root}/pid; error_log {root}/error.log; worker_rlimit_nofile 8192;"
        f"events {{ worker_connections 4096; }} http {{ access_log off; {temp}"
        f"upstream engine {{ server 127.0.0.1:{direct.engine.port}; keepalive {MAX_STREAMS}; }}"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ proxy_pass http://engine;"
        f'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;'
        "proxy_buffer_size 64k; proxy_buffers 4 64k; } } }"
    )
    async with process("nginx", "-c", f"{root}/nginx.conf", "-p", str(root), log=folder / "nginx.log") as running:
        await reachable(port)
        target = replace(direct.target, name="nginx", port=port, cuts_events=True)
        yield System(target, direct.engine, await _with_worker(running))


async def _with_worker(running: Process) -> tuple[int, ...]:
    """The processes of nginx, once its worker is there: the first one listens before it starts the second."""
    async with asyncio.timeout(READY_S):
        while True:
            pids = procfs.tree(running.pid)
            if len(pids) > 1:
                return tuple(pids)
            await asyncio.sleep(0.02)
