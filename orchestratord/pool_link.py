"""The line to pool-managerd: JSON-RPC over its Unix socket, reconnected for ever.

Decides how long to wait before trying again, when a manager that does not read counts as gone, and nothing about pools:
every report is handed on whole. After each reconnect the first thing it hands on is the complete present state, so
nothing that happened in between is missed.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Never, TypeVar

import msgspec

from contracts import rpc
from contracts.base import Message
from contracts.catalog import CatalogJob
from contracts.pools import PoolSnapshot
from contracts.rpc import Hello, Method, PoolSet, ProtocolError, Push, RpcErrorBody
from daemon_core.heartbeat import Heartbeats
from orchestratord.pools import LinkState

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.05
LAST_RETRY_S = 2.0
CALL_TIMEOUT_S = 30.0
MAX_UNREAD_BYTES = rpc.MAX_FRAME_BYTES
"""So much may wait for a manager that does not read: one that was stopped would have days of it in our memory."""

Result = TypeVar("Result", bound=Message)


class ManagerUnavailableError(Exception):
    """pool-managerd cannot be asked right now."""


class ManagerRefusedError(Exception):
    """pool-managerd answered a call with an error."""

    def __init__(self, error: RpcErrorBody) -> None:
        super().__init__(error.message)
        self.error = error


class PoolLink:
    """One connection at a time; calls fail at once while there is none."""

    def __init__(
        self,
        socket: Path,
        version: str,
        *,
        on_report: Callable[[PoolSnapshot], None],
        on_link: Callable[[LinkState], None],
        on_job: Callable[[CatalogJob], None] = lambda _: None,
        on_notices: Callable[[tuple[str, ...]], None] = lambda _: None,
    ) -> None:
        self._socket = socket
        self._version = version
        self._on_report = on_report
        self._on_link = on_link
        self._on_job = on_job
        self._on_notices = on_notices
        self._writer: asyncio.StreamWriter | None = None
        self._pending: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._calls = 0
        self._followed = False
        """Whether the latest connection got as far as a subscription."""

    async def run(self, heartbeats: Heartbeats | None = None) -> None:
        """Connect, follow, and reconnect until cancelled."""
        heart = (heartbeats or Heartbeats()).owner("pool-link", LAST_RETRY_S)
        pause, said = FIRST_RETRY_S, ""
        while True:
            self._followed = False
            with heart.resting():
                trouble = await self._trouble()
            if self._followed:
                pause, said = FIRST_RETRY_S, ""
            # A manager that is away for an hour is worth one line, not thousands.
            log.log(logging.DEBUG if trouble == said else logging.WARNING, "pool-managerd: %s", trouble)
            said = trouble
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries, guards nothing
            pause = min(pause * 2, LAST_RETRY_S)

    async def call(
        self, method: Method, params: Message, result: type[Result], correlation_id: str | None = None
    ) -> Result:
        """Ask pool-managerd; ``correlation_id`` of the HTTP request that caused it.

        Raises ManagerUnavailableError, ManagerRefusedError.
        """
        number = self._calls = self._calls + 1
        if not self._tell(rpc.call(number, method, params, correlation_id)):
            message = "pool-managerd cannot be reached"
            raise ManagerUnavailableError(message)
        future = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return msgspec.json.decode(await future, type=result)
        except (TimeoutError, OSError) as error:
            message = f"pool-managerd did not answer {method}"
            raise ManagerUnavailableError(message) from error
        finally:
            self._pending.pop(number, None)

    def notify(self, method: Method, params: Message) -> bool:
        """Tell pool-managerd something that asks for no answer; False where it cannot be reached."""
        return self._tell(rpc.notification(method, params))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _tell(self, line: bytes) -> bool:
        """Send a line; False where nobody takes it."""
        writer = self._writer
        if writer is None or writer.is_closing():
            return False
        unread = writer.transport.get_write_buffer_size()
        if unread > MAX_UNREAD_BYTES:
            log.warning("pool-managerd takes nothing, %d bytes wait for it: the connection is given up", unread)
            writer.transport.abort()
            return False
        writer.write(line)
        return True

    async def _trouble(self) -> str:
        """Follow one connection; answers with what ended it."""
        try:
            await self._follow()
        except asyncio.IncompleteReadError:
            return "the connection ended"
        except TimeoutError:
            return "it did not answer in time"
        except asyncio.LimitOverrunError:
            return f"it sent a frame over {rpc.MAX_FRAME_BYTES} bytes"
        except ManagerRefusedError as error:
            return f"it refused the connection: {error}"
        except ProtocolError as error:
            return str(error)
        except OSError as error:
            return f"{self._socket}: {error.strerror or error}"
        except (ValueError, RecursionError) as error:
            return f"it sent what cannot be read: {error}"

    async def _follow(self) -> Never:
        """One connection, from hello to its end, which is always an exception."""
        reader, writer = await asyncio.open_unix_connection(str(self._socket), limit=rpc.MAX_FRAME_BYTES)
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                hello = Hello(protocol=rpc.PROTOCOL, name="orchestratord", version=self._version)
                await self._handshake(reader, writer, hello)
                pools = await self._subscribe(reader, writer)
            self._followed = True
            self._writer = writer
            self._on_link(LinkState.UP)
            for snapshot in pools.pools:
                self._on_report(snapshot)
            for job in pools.jobs:
                self._on_job(job)
            self._on_notices(pools.notices)
            while True:
                self._take(await reader.readuntil())
        finally:
            self._writer = None
            writer.close()
            self._drop_calls()
            if self._followed:
                self._on_link(LinkState.DOWN)

    async def _handshake(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: Hello) -> None:
        writer.write(rpc.call(0, Method.HELLO, hello))
        theirs = msgspec.json.decode(_result(rpc.parse(await reader.readuntil())), type=Hello)
        if not rpc.same_major(rpc.PROTOCOL, theirs.protocol):
            message = (
                f"it speaks protocol {theirs.protocol}, and this orchestratord {rpc.PROTOCOL}: update the older one"
            )
            raise ProtocolError(rpc.RpcCode.VERSION_MISMATCH, message)

    async def _subscribe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> PoolSet:
        writer.write(rpc.call(0, Method.SUBSCRIBE, rpc.Empty()))
        return msgspec.json.decode(_result(rpc.parse(await reader.readuntil())), type=PoolSet)

    def _take(self, line: bytes) -> None:
        message = rpc.parse(line)
        if isinstance(message, rpc.Request):
            if message.method == Push.POOL_CHANGED:
                self._on_report(msgspec.json.decode(message.params, type=PoolSnapshot))
            elif message.method == Push.CATALOG_JOB:
                self._on_job(msgspec.json.decode(message.params, type=CatalogJob))
            return
        future = self._pending.get(message.id) if isinstance(message.id, int) else None
        if future is not None and not future.done():
            try:
                future.set_result(_result(message))
            except ManagerRefusedError as error:
                future.set_exception(error)

    def _drop_calls(self) -> None:
        for future in self._pending.values():
            if not future.done():
                message = "pool-managerd went away before it answered"
                future.set_exception(ManagerUnavailableError(message))


def _result(message: rpc.Request | rpc.Response) -> msgspec.Raw:
    if isinstance(message, rpc.Request):
        text = f"an answer was due, and {message.method} came"
        raise ProtocolError(rpc.RpcCode.INVALID_REQUEST, text)
    if isinstance(message.error, RpcErrorBody):
        raise ManagerRefusedError(message.error)
    if message.result is msgspec.UNSET:
        text = "an answer with neither result nor error"
        raise ProtocolError(rpc.RpcCode.INVALID_REQUEST, text)
    return message.result
