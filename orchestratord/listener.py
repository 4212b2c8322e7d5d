"""The HTTP port of orchestratord: opened last, closed first.

Decides how long connections get to take their last bytes. Never decides who may talk, or what is answered. It accepts
by itself, so that each connection is counted before anything is done for it: asyncio's own server makes a TLS session
first.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from contracts.config import Auth, Server, is_loopback
from contracts.labels import PolicyLabel
from daemon_core.errors import StartupError
from orchestratord.http import last_words
from orchestratord.http.connection import Connection, Watch
from orchestratord.peers import NOBODY, client_of
from orchestratord.places import Places
from orchestratord.spells import Spells
from orchestratord.tls import Certificate

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 5.0
"""How long open connections get to take their last bytes."""
BACKLOG = 1024
AT_ONCE = 64
"""So many connections are accepted before others have their turn."""
SHORT_S = 1.0
"""So long nothing is accepted where the system has no file or memory left for it."""
SHORT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
OTHER_FILES = 1024
"""Open files beside the connections of clients: to engines, of the task store, and all else."""
GOODBYE_S = 2.0
"""How long a TLS client gets to say that it has seen the end."""
TLS_RECORD = b"\x16"
"""What a TLS handshake begins with, and no request does."""


@asynccontextmanager
async def listening(
    app: web.Application,
    host: str,
    port: int,
    inherited: socket.socket | None = None,
    *,
    limits: Server | None = None,
    certificate: Certificate | None = None,
    auth: Auth | None = None,
    close_timeout_s: float = CLOSE_TIMEOUT_S,
) -> AsyncIterator[str]:
    """Serve HTTP, with a certificate HTTPS, for the length of the block; answers with the URL.

    ``inherited`` is a socket that listens there already. Raises StartupError where the address is taken.
    """
    limits = limits or Server()
    make_room(limits.max_connections)
    # A handler whose client has gone is cancelled: that is how a lost listener is noticed at once.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=close_timeout_s)
    await runner.setup()
    sockets = [inherited] if inherited is not None else await _bound(host, port)
    try:
        async with asyncio.TaskGroup() as group:
            door = _Door(runner, group, limits, certificate, trust_proxy=auth is not None and auth.trust_proxy)
            try:
                for each in sockets:
                    door.open(each)
                address = sockets[0].getsockname()
                shown = f"[{address[0]}]" if ":" in address[0] else address[0]
                yield f"{'http' if certificate is None else 'https'}://{shown}:{address[1]}"
            finally:
                door.close()
    except BaseExceptionGroup as several:
        if len(several.exceptions) > 1:
            raise
        raise several.exceptions[0] from None
    finally:
        for each in sockets:
            each.close()
        await runner.cleanup()


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


class _Place:
    """One that was taken, and is given back once."""

    __slots__ = ("_client", "_places")

    def __init__(self, places: Places, client: str) -> None:
        self._places: Places | None = places
        self._client = client

    def leave(self) -> None:
        places, self._places = self._places, None
        if places is not None:
            places.leave(self._client)


class _Door:
    """Where connections come in."""

    def __init__(
        self,
        runner: web.AppRunner,
        group: asyncio.TaskGroup,
        limits: Server,
        certificate: Certificate | None,
        *,
        trust_proxy: bool,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = runner.server
        self._group = group
        self._limits = limits
        self._certificate = certificate
        self._trust_proxy = trust_proxy
        self._places = Places(limits.max_connections, limits.max_connections_per_client)
        self._watch = Watch(limits, Spells())
        self._bounds = self._watch.bounds
        self._sockets: list[socket.socket] = []
        self._coming: set[asyncio.Task[None]] = set()

    def open(self, listener: socket.socket) -> None:
        """Accept what comes in here."""
        listener.settimeout(0)
        self._sockets.append(listener)
        self._loop.add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Accept nothing more, and give up what is still shaking hands."""
        for each in self._sockets:
            self._loop.remove_reader(each)
        self._sockets.clear()
        for coming in self._coming:
            coming.cancel()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                peer, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in SHORT_OF:
                    raise
                self._pause(listener, error)
                return
            peer.settimeout(0)
            self._admit(peer, address)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """There is no room for one more; those who wait stay in the backlog."""
        self._watch.tell("accept", "all clients", f"cannot be let in: {os.strerror(error.errno or 0)}", logging.ERROR)
        self._loop.remove_reader(listener)
        self._loop.call_later(SHORT_S, self._go_on, listener)

    def _go_on(self, listener: socket.socket) -> None:
        if listener in self._sockets:
            self._loop.add_reader(listener, self._accept, listener)

    def _admit(self, peer: socket.socket, address: tuple[str, int] | str) -> None:
        at = address[0] if isinstance(address, tuple) else NOBODY
        client = client_of(at)
        met = self._places.take(client, unbounded=self._trust_proxy and is_loopback(at))
        if met is not None:
            self._turn_away(peer, client, met)
            return
        coming = self._group.create_task(self._let_in(peer, client))
        self._coming.add(coming)
        coming.add_done_callback(self._coming.discard)

    def _turn_away(self, peer: socket.socket, client: str, met: PolicyLabel) -> None:
        bound = getattr(self._limits, met)
        self._watch.tell(met, client, f"connections are turned away: server.{met} is {bound}", logging.WARNING)
        _say(peer, last_words.no_place(met, self._limits) if self._certificate is None else b"")

    async def _let_in(self, peer: socket.socket, client: str) -> None:
        place, made = _Place(self._places, client), False
        try:
            if self._certificate is not None and await self._speaks_plainly(peer):
                self._watch.tell("plain", client, "spoke HTTP without TLS")
                _say(peer, last_words.https_only())
                return
            await self._connect(peer, client, place)
            made = True  # from here on it says by itself when it is gone
        except TimeoutError:
            self._watch.tell("handshake", client, "no TLS handshake came in time")
        except OSError as error:
            if self._certificate is not None:
                self._watch.tell("handshake", client, f"the TLS handshake failed: {_reason(error)}")
        finally:
            if not made:
                place.leave()
                peer.close()

    async def _connect(self, peer: socket.socket, client: str, place: _Place) -> None:
        server = self._server
        if server is None:
            raise RuntimeError("the runner was not set up")

        def made() -> Connection:
            return Connection(server, self._watch, self._bounds, client, place.leave)

        if self._certificate is None:
            await self._loop.connect_accepted_socket(made, peer)
            return
        await self._loop.connect_accepted_socket(
            made,
            peer,
            ssl=self._certificate.context,
            ssl_handshake_timeout=self._bounds.header_s,
            ssl_shutdown_timeout=GOODBYE_S,
        )

    async def _speaks_plainly(self, peer: socket.socket) -> bool:
        """Whether what comes first is no TLS handshake. Raises TimeoutError where nothing comes."""
        came = asyncio.Event()
        self._loop.add_reader(peer, came.set)
        try:
            async with asyncio.timeout(self._bounds.header_s):
                await came.wait()
        finally:
            self._loop.remove_reader(peer)
        first = peer.recv(1, socket.MSG_PEEK)
        if not first:
            raise ConnectionResetError(errno.ECONNRESET, "the client has gone")
        return first != TLS_RECORD


def _say(peer: socket.socket, text: bytes) -> None:
    """Say it where that is possible at once, and close."""
    with peer, suppress(OSError):
        with suppress(BlockingIOError):
            peer.recv(65_536)  # what nobody has read would reset the connection, and with it take the answer away
        peer.send(text)
        peer.shutdown(socket.SHUT_WR)


def _reason(error: OSError) -> str:
    reason: str | None = getattr(error, "reason", None)
    return (reason or error.strerror or type(error).__name__).replace("_", " ").lower()
