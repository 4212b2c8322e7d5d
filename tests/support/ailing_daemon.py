"""A real daemon, one of whose owner tasks dies or hangs when it is asked to. Nothing else is different.

``python -m tests.support.ailing_daemon orchestratord --config FILE``: SIGUSR1 cancels the task named $AILING_DIES,
SIGWINCH has $AILING_HANGS, ``package.module:Class.method``, never return again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from importlib import import_module

from daemon_core.entry import DaemonContext, Serve, run_daemon


def main() -> int:
    """Serve until it comes to that."""
    name = sys.argv[1]
    serve: Serve = import_module(f"{name.replace('-', '_')}.app").serve

    async def ailing(context: DaemonContext) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, die)
        loop.add_signal_handler(signal.SIGWINCH, hang)
        await serve(context)

    return run_daemon(name, sys.argv[2:], ailing)


def die() -> None:
    """A task group says nothing about a child that was cancelled."""
    for task in asyncio.all_tasks():
        if task.get_name() == os.environ["AILING_DIES"]:
            task.cancel()


def hang() -> None:
    """From the next call on."""
    module, _, path = os.environ["AILING_HANGS"].partition(":")
    cls, _, method = path.partition(".")
    setattr(getattr(import_module(module), cls), method, never)


async def never(*_arguments: object) -> None:
    """Wait for what does not come."""
    await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
