"""``python -m tests.standin --engine vllm --knobs '{"tokens": 100}'``: a stand-in engine as a process of its own.

Says ``listening on http://127.0.0.1:N`` on standard error, as llama-server does, and takes its key from the variable
that its engine takes it from.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys

import msgspec

from tests.standin.knobs import Knobs
from tests.standin.loops import uvloop_factory
from tests.standin.server import WIRES, StandIn
from tests.standin.wires.base import Wire


async def serve(port: int, knobs: Knobs, wire: Wire, *, remote_knobs: bool) -> None:
    """Serve until SIGTERM or SIGINT."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    key = os.environ.get(wire.key_variable)
    async with StandIn(knobs, wire, key=key, port=port, remote_knobs=remote_knobs) as engine:
        print(f"listening on {engine.url}", file=sys.stderr, flush=True)  # noqa: T201 - this is how its port is learnt
        await over.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.standin", description=__doc__)
    parser.add_argument("--engine", choices=WIRES, default="llamacpp", help="whose wire format it speaks")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--knobs", default="{}", help="JSON; the fields stand in tests/standin/knobs.py")
    parser.add_argument("--remote-knobs", action="store_true", help="allow POST /_knobs")
    parser.add_argument("--uvloop", action="store_true", help="on uvloop, where it is installed: cheaper by half")
    arguments = parser.parse_args()
    knobs = msgspec.json.decode(arguments.knobs, type=Knobs)
    serving = serve(arguments.port, knobs, WIRES[arguments.engine], remote_knobs=arguments.remote_knobs)
    with asyncio.Runner(loop_factory=uvloop_factory() if arguments.uvloop else None) as runner:
        runner.run(serving)


if __name__ == "__main__":
    main()
