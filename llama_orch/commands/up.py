"""``llama-orch up``: both daemons in the foreground.

Decides when it ends: on Ctrl-C or SIGTERM with status 0 after both have drained, or with a failure when one of them
ends by itself. A second Ctrl-C does not wait for what runs, a third for nothing. Of two that are started on one
configuration the later one goes: together each would take from the other what it needs, and neither would serve.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contracts.config import Server
from daemon_core.errors import EXIT_CONFIG, EXIT_FAILURE, StartupError
from llama_orch.children import Daemons, until_up
from llama_orch.commands.options import ConfigOption, JsonOption
from llama_orch.doctor.at_start import examining
from llama_orch.output import Output
from llama_orch.session import Session, find_session

STOP_GRACE_S = 40.0
"""Each daemon has so long to end, beside ``server.drain_ms``: as long as the units give them."""


def up(*, config: ConfigOption = None, as_json: JsonOption = False) -> int:
    """Start both daemons in the foreground, with their logs, until Ctrl-C."""
    session = find_session(config, None)
    out = Output(as_json=as_json)
    with _alone(session.config_path):
        return asyncio.run(_up(session, out))


@contextmanager
def _alone(config_path: Path) -> Iterator[None]:
    """Hold the configuration file, which the kernel lets go of however we end. Raises StartupError where it is held."""
    try:
        file = config_path.open("rb")
    except OSError:  # the daemons will say what is wrong with it
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "end that one first, or give this one a configuration with another server.bind and other paths:"
            raise StartupError(f"another llama-orch up has {config_path} already", hint) from None
        except OSError:  # a file system without locks
            pass
        yield


async def _up(session: Session, out: Output) -> int:
    width = len("pool-managerd")
    drain_s = (session.config.server if session.config else Server()).drain_ms / 1000
    daemons = Daemons(
        session.config_path,
        os.environ,
        lambda name, line: out.note(f"{name:<{width}} | {line}"),
        readable_logs=out.notes_are_read,
    )
    stopping = asyncio.Event()

    def interrupt() -> None:
        if stopping.is_set():
            daemons.hurry()
        stopping.set()
        daemons.changed.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        async with session.client() as client:
            if await client.is_up():
                hint = (
                    "stop it: systemctl --user stop llama-orch.target, or the other llama-orch up; another user's, or "
                    "a second one: give this configuration another server.bind and other paths:"
                )
                raise StartupError(f"something answers on {session.url} already", hint)
            await daemons.start()
            if await until_up(client, daemons):
                out.line(f"listening on {session.url}; Ctrl-C stops both daemons")
                out.data({"url": session.url})
        async with examining(session.config_path, os.environ, out, width):
            await daemons.changed.wait()
    finally:
        dead = daemons.dead
        left = await daemons.stop(grace_s=drain_s + STOP_GRACE_S)
        for pid, command in left.items():
            out.note(f"llama-orch: killed process {pid}, which outlived the daemons: {command}")
    if dead is None:
        return 0
    out.note(f"llama-orch: {dead.name} ended by itself (status {dead.status}), so both are stopped")
    for line in dead.last_words:
        out.note(line)
    return EXIT_CONFIG if dead.status == EXIT_CONFIG else EXIT_FAILURE
