"""How connections come in: counted, and over TLS only when they have shaken hands.

Decides nothing: ``places`` says who gets one more. Plain ones are accepted by the event loop itself, which is quickest.
Those that want TLS are accepted here, so that they are counted before anything is done for them: the loop makes a TLS
session first, and tells nobody of handshakes that never end.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

from aiohttp import web

from contracts.labels import PolicyLabel
from orchestratord.http import last_words
from orchestratord.http.connection import Connection, Watch
from orchestratord.peers import NOBODY, client_of
from orchestratord.places import Places
from orchestratord.tls import Certificate

log = logging.getLogger(__name__)

BACKLOG = 1024
AT_ONCE = 64
"""So many connections are accepted before others have their turn."""
SHORT_S = 1.0
"""So long nothing is accepted where the system has no file or memory left for it."""
SHORT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
NEWCOMER_S = 1.0
"""So long one that was let in just before the port closed may take to ask: to close it at once were to refuse it."""
GOODBYE_S = 2.0
"""How long a TLS client gets to say that it has seen the end."""
TLS_RECORD = b"\x16"
"""What a TLS handshake begins with, and no request does."""


class Counter:
    """The places of one listener."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._places = Places(watch.limits.max_connections, watch.limits.max_connections_per_client)

    def take(self, address: object) -> tuple[str, PolicyLabel | None]:
        """A place for the client at this address of a socket; with a label there is none."""
        at = str(address[0]) if isinstance(address, tuple) else NOBODY
        client = client_of(at)
        met = self._places.take(client, unbounded=self._watch.trusts(client))
        if met is not None:
            bound = getattr(self._watch.limits, met)
            self._watch.tell(met, client, f"connections are turned away: server.{met} is {bound}", logging.WARNING)
        return client, met

    def leave(self, client: str) -> None:
        """Its connection is gone."""
        self._places.leave(client)


@asynccontextmanager
async def plainly(
    server: web.Server, sockets: Sequence[socket.socket], watch: Watch, counter: Counter
) -> AsyncIterator[None]:
    """Let in what comes, without TLS."""

    def enter(connection: Connection, transport: asyncio.Transport) -> str | None:
        client, met = counter.take(connection.peername)
        if met is None:
            return client
        transport.write(last_words.no_place(met, watch.limits))
        transport.close()
        return None

    def made() -> Connection:
        return Connection(server, watch, enter, counter.leave)

    loop = asyncio.get_running_loop()
    opened = [await loop.create_server(made, sock=each, backlog=BACKLOG) for each in sockets]
    try:
        yield
    finally:
        for each in opened:
            each.close()


@asynccontextmanager
async def securely(
    server: web.Server, sockets: Sequence[socket.socket], watch: Watch, counter: Counter, certificate: Certificate
) -> AsyncIterator[None]:
    """Let in what comes and shakes hands."""
    try:
        async with asyncio.TaskGroup() as group:
            door = _SecureDoor(server, group, watch, counter, certificate)
            try:
                for each in sockets:
                    door.open(each)
                yield
            finally:
                await door.close()
    except BaseExceptionGroup as several:
        if len(several.exceptions) > 1:
            raise
        raise several.exceptions[0] from None


class _SecureDoor:
    """Where TLS connections come in."""

    def __init__(
        self, server: web.Server, group: asyncio.TaskGroup, watch: Watch, counter: Counter, certificate: Certificate
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._group = group
        self._watch = watch
        self._counter = counter
        self._certificate = certificate
        self._sockets: list[socket.socket] = []
        self._coming: set[asyncio.Task[None]] = set()

    def open(self, listener: socket.socket) -> None:
        """Accept what comes in here."""
        listener.settimeout(0)
        self._sockets.append(listener)
        self._loop.add_reader(listener, self._accept, listener)

    async def close(self) -> None:
        """Accept nothing more, and give up what is still shaking hands after a moment."""
        for each in self._sockets:
            self._loop.remove_reader(each)
        self._sockets.clear()
        if self._coming:
            await asyncio.wait(self._coming, timeout=NEWCOMER_S)
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
            client, met = self._counter.take(address)
            if met is not None:
                peer.close()  # what could be said needs a handshake
                continue
            coming = self._group.create_task(self._let_in(peer, client))
            self._coming.add(coming)
            coming.add_done_callback(self._coming.discard)

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """There is no room for one more; those who wait stay in the backlog."""
        self._watch.tell("accept", "all clients", f"cannot be let in: {os.strerror(error.errno or 0)}", logging.ERROR)
        self._loop.remove_reader(listener)
        self._loop.call_later(SHORT_S, self._go_on, listener)

    def _go_on(self, listener: socket.socket) -> None:
        if listener in self._sockets:
            self._loop.add_reader(listener, self._accept, listener)

    async def _let_in(self, peer: socket.socket, client: str) -> None:
        place = _Place(self._counter, client)
        made = False
        try:
            if await self._speaks_plainly(peer):
                self._watch.tell("plain", client, "spoke HTTP without TLS")
                _say(peer, last_words.https_only())
                return
            await self._loop.connect_accepted_socket(
                partial(Connection, self._server, self._watch, lambda *_: client, place.leave),
                peer,
                ssl=self._certificate.context,
                ssl_handshake_timeout=self._watch.bounds.header_s,
                ssl_shutdown_timeout=GOODBYE_S,
            )
            made = True  # from here on it says by itself when it is gone
        except TimeoutError:
            self._watch.tell("handshake", client, "no TLS handshake came in time")
        except OSError as error:
            self._watch.tell("handshake", client, f"the TLS handshake failed: {_reason(error)}")
        except Exception:  # a defect met by one client must not end the daemon
            log.exception("a connection of %s could not be let in", client, extra={"client": client})
        finally:
            if not made:
                place.leave()
                peer.close()

    async def _speaks_plainly(self, peer: socket.socket) -> bool:
        """Whether what comes first is no TLS handshake. Raises TimeoutError where nothing comes."""
        came = asyncio.Event()
        self._loop.add_reader(peer, came.set)
        try:
            async with asyncio.timeout(self._watch.bounds.header_s):
                await came.wait()
        finally:
            self._loop.remove_reader(peer)
        first = peer.recv(1, socket.MSG_PEEK)
        if not first:
            raise ConnectionResetError(errno.ECONNRESET, "the client has gone")
        return first != TLS_RECORD


class _Place:
    """One that was taken, and is given back once: by the connection, or where none came of it."""

    __slots__ = ("_client", "_counter")

    def __init__(self, counter: Counter, client: str) -> None:
        self._counter: Counter | None = counter
        self._client = client

    def leave(self, _client: str = "") -> None:
        counter, self._counter = self._counter, None
        if counter is not None:
            counter.leave(self._client)


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
