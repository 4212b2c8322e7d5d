"""The HTTP port of orchestratord: opened last, closed first.

Decides how long connections get to take their last bytes. Never decides who may talk, or what is answered.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from contracts.config import Config, split_bind
from daemon_core.errors import StartupError
from orchestratord.accepting import BACKLOG, NEWCOMER_S, Counter, plainly, securely
from orchestratord.http.connection import Connection, Watch
from orchestratord.tls import Certificate

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 5.0
"""How long open connections get to take their last bytes."""
NEWCOMER_LOOK_S = 0.01
OTHER_FILES = 1024
"""Open files beside the connections of clients: to engines, of the task store, and all else."""


@asynccontextmanager
async def listening(
    app: web.Application,
    config: Config,
    inherited: socket.socket | None = None,
    certificate: Certificate | None = None,
    *,
    close_timeout_s: float = CLOSE_TIMEOUT_S,
) -> AsyncIterator[str]:
    """Serve HTTP, with a certificate HTTPS, for the length of the block; answers with the URL.

    ``inherited`` is a socket that listens there already. Raises StartupError where the address is taken.
    """
    limits = config.server
    host, port = split_bind(limits.bind) or ("127.0.0.1", 8080)
    make_room(limits.max_connections)
    sockets = [inherited] if inherited is not None else await _bound(host, port)
    # A handler whose client has gone is cancelled: that is how a lost listener is noticed at once.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=close_timeout_s)
    try:
        await runner.setup()
        server = runner.server
        if server is None:
            raise RuntimeError("the runner has no server")
        watch = Watch.over(limits, trust_proxy=config.auth.trust_proxy)
        counter = Counter(watch)
        address = sockets[0].getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        if certificate is None:
            async with plainly(server, sockets, watch, counter):
                yield f"http://{shown}:{address[1]}"
        else:
            async with securely(server, sockets, watch, counter, certificate):
                yield f"https://{shown}:{address[1]}"
    finally:
        for each in sockets:
            each.close()
        if runner.server is not None:
            await _heard(runner.server)
        await runner.cleanup()


async def _heard(server: web.Server) -> None:
    """Wait, not for long, until every connection that was let in has asked for something or is gone."""
    with suppress(TimeoutError):
        async with asyncio.timeout(NEWCOMER_S):
            while _any_awaited(server):  # noqa: ASYNC110 - an event would be one more thing that each request does
                await asyncio.sleep(NEWCOMER_LOOK_S)


def _any_awaited(server: web.Server) -> bool:
    return any(isinstance(each, Connection) and each.conduct.awaited and not each.over for each in server.connections)


def make_room(connections: int) -> None:
    """Let this process have so many connections: systemd and most shells allow 1024 open files unless asked."""
    wanted = connections + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            text = "%d open files are allowed, fewer than %d connections need: raise LimitNOFILE=, or lower %s"
            log.warning(text, allowed, connections, "server.max_connections")


async def _bound(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address of the host. Raises StartupError."""
    made: list[socket.socket] = []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, address in dict.fromkeys(found):
            made.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
    except OSError as error:
        for each in made:
            each.close()
        text = f"cannot listen on {host}:{port}: {os.strerror(error.errno) if error.errno else error}"
        hint = "stop what uses the port (ss -ltnp shows it), or set server.bind"
        raise StartupError(text, hint) from error
    return made
