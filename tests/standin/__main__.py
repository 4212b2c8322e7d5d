"""``python -m tests.standin --port 0 --knobs '{"tokens": 100}'``: the stand-in engine as a process of its own.

Says ``listening on http://127.0.0.1:N`` on standard error and takes its key from LLAMA_API_KEY, as llama-server does.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

import msgspec

from tests.standin.knobs import Knobs
from tests.standin.server import StandIn


async def serve(port: int, knobs: Knobs, key: str | None, *, remote_knobs: bool) -> None:
    """Serve until SIGTERM or SIGINT."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    async with StandIn(knobs, key=key, port=port, remote_knobs=remote_knobs) as engine:
        print(f"listening on {engine.url}", file=sys.stderr, flush=True)  # noqa: T201 - this is how its port is learnt
        await over.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.standin", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--knobs", default="{}", help="JSON; the fields stand in tests/standin/knobs.py")
    parser.add_argument("--remote-knobs", action="store_true", help="allow POST /_knobs")
    arguments = parser.parse_args()
    knobs = msgspec.json.decode(arguments.knobs, type=Knobs)
    asyncio.run(serve(arguments.port, knobs, os.environ.get("LLAMA_API_KEY"), remote_knobs=arguments.remote_knobs))


if __name__ == "__main__":
    main()
