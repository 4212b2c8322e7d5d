"""Runs Ray with an application in a house of its own: python ray_house.py FD, as the first process of new namespaces.

Ray listens on every interface, keeps files in HOME and in the shared memory, and starts processes that outlive it. So
its network is a loopback of its own, its files are in a file system that only it sees, and all of it goes with this
process. FD is a listening socket made outside: whoever connects there is connected with the application. A socket
stays in the network in which it was made.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

PORT = 8000
HOME = Path("/dev/shm/home")
CLUSTER = "127.0.0.1:6379"
BIN = Path(sys.executable).parent


def prepare() -> None:
    """A loopback, and a place for files. ``setup`` of a namespace is the only thing here that needs rights."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
    HOME.mkdir()
    os.environ |= {
        "HOME": str(HOME),
        "PYTHONPATH": str(Path(__file__).parent),
        "RAY_TMPDIR": str(HOME),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def start_ray() -> None:
    """The cluster, and the application on it, whose runner stays attached."""
    options = ["--num-cpus=2", "--include-dashboard=false", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    subprocess.run([BIN / "ray", "start", "--head", "--object-store-memory=80000000", *options], check=True)
    # It ends with this process: nobody waits for it.
    subprocess.Popen([BIN / "serve", "run", f"--address={CLUSTER}", "ray_app:app"], cwd=HOME)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Every byte, and the end when it comes."""
    try:
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection from outside."""
    try:
        inner = await asyncio.open_connection("127.0.0.1", PORT)
    except OSError:
        writer.close()
        return
    await asyncio.gather(pump(reader, inner[1]), pump(inner[0], writer))


async def main() -> None:
    """Opens the door when the application is there, which its runner says."""
    door = socket.socket(fileno=int(sys.argv[1]))
    async with await asyncio.start_server(connect, sock=door) as server:
        print("the door is open", flush=True)  # noqa: T201 - for the test that waits for it
        await server.serve_forever()


prepare()
start_ray()
asyncio.run(main())
