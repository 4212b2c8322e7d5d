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

TlsOf = Callable[[Address], Awaitable[ssl.SSLContext | None]]


class NotAskedError(Exception):
    """There is no connection to the engine; the cause says why."""


class Answered(msgspec.Struct, frozen=True):
    """What came back."""

    status: int
    body: bytes


class _Idle(msgspec.Struct, frozen=True):
    connection: EngineConnection
    since_s: float


class Questions:
    """One connection at the most is kept for each engine."""

    def __init__(self, tls: TlsOf, connect_s: float) -> None:
        self._tls = tls
        self._connect_s = connect_s
        self._idle: dict[tuple[str, int, bool], _Idle] = {}

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
        while self._idle:
            self._idle.popitem()[1].connection.close()

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
        if idle.connection.reusable and asyncio.get_running_loop().time() - idle.since_s < KEEP_ALIVE_S:
            return idle.connection
        idle.connection.close()
        return None

    def _keep(self, address: Address, connection: EngineConnection) -> None:
        if connection.reusable and _place(address) not in self._idle:
            self._idle[_place(address)] = _Idle(connection, asyncio.get_running_loop().time())
        else:
            connection.close()


def _place(address: Address) -> tuple[str, int, bool]:
    return address.host, address.port, address.tls
