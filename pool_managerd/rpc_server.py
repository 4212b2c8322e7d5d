"""Serves JSON-RPC on the Unix socket: who may connect, how frames come and go, what a broken one gets.

Decides nothing about pools: ``pool_managerd.rpc_methods`` answers the calls. A peer that does not read what it is sent
is cut off at a bounded buffer; one that sends nonsense gets a JSON-RPC error; neither disturbs another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from contracts.rpc import MAX_FRAME_BYTES, Hello, ProtocolError, Request, RpcCode, answer, parse, refusal
from daemon_core.errors import StartupError
from pool_managerd.instance_lock import already_running

_log = logging.getLogger(__name__)

MAX_UNSENT_BYTES = 4 << 20
"""A peer with more than this waiting for it is cut off."""
_CREDENTIALS = struct.Struct("3i")


class RpcError(Exception):
    """A call that is refused: the JSON-RPC code, the message, and what belongs to it."""

    def __init__(self, code: int, message: str, data: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Methods(Protocol):
    """Answers calls."""

    def hello(self, request: Request) -> Hello:
        """Answer the first call of a connection. Raises RpcError where the two cannot talk."""

    async def call(self, request: Request) -> bytes:
        """The result of a call, as a frame. Raises RpcError."""

    async def worth_following(self) -> None:
        """Wait until what a subscription would be answered is worth to be heard."""

    def subscribe(self, request: Request, listener: Callable[[bytes], None]) -> tuple[bytes, Callable[[], None]]:
        """The answer to a subscription, and how to end it; what changes later goes to the listener."""

    def follow(self, request: Request, listener: Callable[[bytes], None]) -> tuple[bytes, Callable[[], None]]:
        """Likewise for what the engines say."""


class RpcServer:
    """The listener and its connections."""

    def __init__(self, path: Path, methods: Methods, *, uid: int | None = None) -> None:
        self._path = path
        self._methods = methods
        self._uid = os.getuid() if uid is None else uid
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], _Connection] = {}

    async def start(self) -> None:
        """Listen. Raises StartupError where another instance answers on the socket, or it cannot be made."""
        await _clear_stale(self._path)
        try:
            self._server = await asyncio.start_unix_server(self._accept, self._path, limit=MAX_FRAME_BYTES)
            self._path.chmod(0o600)
        except OSError as error:
            hint = "set paths.runtime to a directory of yours with a short name"
            raise StartupError(f"cannot listen on {self._path}: {error.strerror or error}", hint) from error

    def ping(self, answer: Callable[[], None]) -> None:
        """Call ``answer`` where new connections are taken."""
        if self._server is not None and self._server.is_serving():
            answer()

    def followed_by(self, name: str) -> bool:
        """Whether a peer of this name has subscribed."""
        return any(connection.follows_as(name) for connection in self._connections.values())

    def stop_accepting(self) -> None:
        """Take no new connection; those that are there go on."""
        if self._server is not None:
            self._server.close()
            self._server = None
            _remove(self._path)

    async def close(self) -> None:
        """End everything."""
        self.stop_accepting()
        tasks = tuple(self._connections)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a connection is served in a task")
        connection = self._connections[task] = _Connection(reader, writer, self._methods)
        try:
            if self._may_enter(writer):
                await connection.serve()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the peer is gone, or we are
        except Exception:  # noqa: BLE001 - a defect met by one peer must not end the daemon
            _log.exception("a connection ends because of a defect")
        finally:
            del self._connections[task]
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    def _may_enter(self, writer: asyncio.StreamWriter) -> bool:
        peer: socket.socket = writer.get_extra_info("socket")
        raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        if uid == self._uid:
            return True
        _log.warning("refused a connection of user %d (pid %d): only user %d may connect", uid, pid, self._uid)
        return False


class _Connection:
    """One peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, methods: Methods) -> None:
        self._reader = reader
        self._writer = writer
        self._methods = methods
        self._greeted = False
        self._name = ""
        self._follows: dict[str, Callable[[], None]] = {}
        """How to end what this peer reads along with, by the call that began it."""

    def follows_as(self, name: str) -> bool:
        """Whether it has subscribed, under this name."""
        return self._name == name and "subscribe" in self._follows

    async def serve(self) -> None:
        """Answer calls, one after the other, until the peer leaves or breaks the rules beyond mending."""
        try:
            while (line := await self._read()) is not None:
                if line.strip() and not await self._answer(line):
                    return
        finally:
            for unfollow in self._follows.values():
                unfollow()

    async def _read(self) -> bytes | None:
        try:
            return await self._reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return None
        except asyncio.LimitOverrunError:
            # What follows is the middle of a frame: there is no way back to a beginning.
            text = f"a frame passes the limit of {MAX_FRAME_BYTES} bytes"
            await self._send(refusal(None, RpcCode.FRAME_TOO_LARGE, text))
            return None

    async def _answer(self, line: bytes) -> bool:
        """Whether the connection goes on."""
        try:
            request = parse(line)
        except ProtocolError as error:
            await self._send(refusal(None, error.code, str(error)))
            return True
        if not isinstance(request, Request):
            await self._send(refusal(None, RpcCode.INVALID_REQUEST, "this side sends no calls, so it takes no answers"))
            return True
        try:
            frame = await self._result(request)
            if request.id is not None:  # a notification gets no answer
                await self._send(frame)
        except RpcError as error:
            await self._send(refusal(request.id, error.code, error.message, error.data))
            return error.code != RpcCode.VERSION_MISMATCH
        except ProtocolError as error:
            await self._send(refusal(request.id, error.code, str(error)))
        except ConnectionError:
            raise  # the peer has gone: there is nobody to tell
        except Exception as error:  # noqa: BLE001 - the peer is told, and the connection goes on
            _log.exception("the call %s met a defect", request.method)
            await self._send(refusal(request.id, RpcCode.INTERNAL, f"{request.method} met a defect: {error!r}"))
        return True

    async def _result(self, request: Request) -> bytes:
        if request.method == "hello":
            greeting = self._methods.hello(request)
            self._greeted, self._name = True, msgspec.json.decode(request.params, type=Hello).name
            return answer(request.id, greeting)
        if not self._greeted:
            raise RpcError(RpcCode.HELLO_FIRST, "the first call of a connection is hello {protocol, name, version}")
        begin = {"subscribe": self._methods.subscribe, "pool.log": self._methods.follow}.get(request.method)
        if request.method == "subscribe":
            await self._methods.worth_following()
        if begin is not None:
            frame, unfollow = begin(request, self._push)
            former = self._follows.pop(request.method, None)
            if former is not None:
                former()
            self._follows[request.method] = unfollow
            return frame
        return await self._methods.call(request)

    async def _send(self, frame: bytes) -> None:
        self._push(frame)
        await self._writer.drain()

    def _push(self, frame: bytes) -> None:
        if self._writer.is_closing():
            return
        self._writer.write(frame)
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            _log.warning("cut off a peer that does not read: more than %d bytes wait for it", MAX_UNSENT_BYTES)
            self._writer.transport.abort()


async def _clear_stale(path: Path) -> None:
    """Remove a socket on which nobody answers. Raises StartupError where somebody does, or it is no socket."""
    if not _is_socket(path):
        return
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError as error:
        if error.errno not in {errno.ECONNREFUSED, errno.ENOENT}:
            raise StartupError(f"cannot tell whether {path} is in use: {error.strerror}", "remove it") from error
        _remove(path)
        return
    writer.close()
    await writer.wait_closed()
    raise already_running(path)


def _is_socket(path: Path) -> bool:
    """Whether there is a socket. Raises StartupError where there is something else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise StartupError(f"{path} is in the way and is no socket", "remove it, or set paths.runtime")
    return True


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
