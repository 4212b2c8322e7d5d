"""The HTTP port of orchestratord: opened last, closed first.

Decides how long connections get to take their last bytes. Never decides who may talk, or what is answered.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from daemon_core.errors import StartupError
from orchestratord.http import malformed

CLOSE_TIMEOUT_S = 5.0
"""How long open connections get to take their last bytes."""
BACKLOG = 1024


@asynccontextmanager
async def listening(
    app: web.Application, host: str, port: int, inherited: socket.socket | None = None
) -> AsyncIterator[str]:
    """Serve HTTP for the length of the block; answers with the URL.

    ``inherited`` is a socket that listens there already. Raises StartupError where the address is taken.
    """
    # A handler whose client has gone is cancelled: that is how a lost listener is noticed at once.
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, shutdown_timeout=CLOSE_TIMEOUT_S, logger=malformed.logger()
    )
    await runner.setup()
    try:
        site = _site(runner, host, port, inherited)
        try:
            await site.start()
        except OSError as error:
            text = f"cannot listen on {host}:{port}: {os.strerror(error.errno) if error.errno else error}"
            hint = "stop what uses the port (ss -ltnp shows it), or set server.bind"
            raise StartupError(text, hint) from error
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        yield f"http://{shown}:{address[1]}"
    finally:
        await runner.cleanup()


def _site(runner: web.AppRunner, host: str, port: int, inherited: socket.socket | None) -> web.BaseSite:
    if inherited is not None:
        return web.SockSite(runner, inherited, backlog=BACKLOG)
    return web.TCPSite(runner, host, port, backlog=BACKLOG)
