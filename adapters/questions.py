"""Short questions to engines: asked, answered in one piece, and over.

Decides which connection a question takes. A GET takes the one that its engine left open after the last question, and
where the engine has just closed that one without a word it takes a new one: asking twice changes nothing. All else
takes a new one, since nobody could tell whether it was heard. Never decides what an answer means.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import msgspec

from adapters.engine_connection import EngineConnection, send
from adapters.http_address import Address

KEEP_ALIVE_S = 3.0
"""Shorter than the 5 s after which llama-server and vLLM close an idle connection: a question should not meet that."""

Place = tuple[str, int, bool]
TlsOf = Callable[[Address], Awaitable[ssl.SSLContext | None]]


class NotAskedError(Exception):
    """There is no connection to the engine; the cause says why."""


class Answered(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    body: bytes


class _Idle(msgspec.Struct, frozen=True):
    connection: EngineConnection
    until_s: float
    """By the loop's clock: where the loop was held up, it may be asked for later."""
    closing: asyncio.TimerHandle
    """Closes it: an engine that is to stop waits for those who are connected."""


class Questions:
    """One connection at the most is kept for each engine."""

    def __init__(self, tls: TlsOf, connect_s: float) -> None:
        self._tls = tls
        self._connect_s = connect_s
        self._idle: dict[Place, _Idle] = {}

    async def ask(self, address: Address, request: bytes, limit: int, *, again: bool) -> Answered:
        """Ask, and read the answer or what makes its body longer than ``limit``.

        Raises NotAskedError, and OSError or NotHttpError where the answer fails.
        ``again``: that an engine may hear it twice changes nothing.
        """
        kept = self._kept(address) if again else None
        if kept is not None:
            try:
                kept.again(request)
                return await self._answer(address, kept, limit)
            except OSError:
                if kept.answering:
                    raise
        return await self._answer(address, await self._new(address, request), limit)

    def close(self) -> None:
        """Close what was kept."""
        for place in list(self._idle):
            self._drop(place)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _new(self, address: Address, request: bytes) -> EngineConnection:
        try:
            tls = await self._tls(address)
            async with asyncio.timeout(self._connect_s):
                return await send(address, request, tls)
        except (OSError, ValueError) as error:  # a TimeoutError is one too
            raise NotAskedError from error

    async def _answer(self, address: Address, connection: EngineConnection, limit: int) -> Answered:
        try:
            head = await connection.head()
            body = await connection.read(limit)
        except BaseException:
            connection.close()
            raise
        self._keep(address, connection)
        return Answered(head.status, body)

    def _kept(self, address: Address) -> EngineConnection | None:
        """The connection that the engine has left open."""
        idle = self._idle.pop(_place(address), None)
        if idle is None:
            return None
        idle.closing.cancel()
        if idle.connection.reusable and asyncio.get_running_loop().time() < idle.until_s:
            return idle.connection
        idle.connection.close()
        return None

    def _keep(self, address: Address, connection: EngineConnection) -> None:
        place = _place(address)
        if connection.reusable and place not in self._idle:
            loop = asyncio.get_running_loop()
            until_s = loop.time() + KEEP_ALIVE_S
            self._idle[place] = _Idle(connection, until_s, loop.call_at(until_s, self._drop, place))
        else:
            connection.close()

    def _drop(self, place: Place) -> None:
        idle = self._idle.pop(place)
        idle.closing.cancel()
        idle.connection.close()


def _place(address: Address) -> Place:
    return address.host, address.port, address.tls
