"""Starts an engine's process, or takes one over, and ends it with everything it started.

An engine runs in a session of its own, and in a scope of its own where one is to be had. It reads nothing, and carries
its key and the path of its handle file in its environment alone. It speaks into a named pipe of which it holds both
ends, so it survives a manager that dies, and the next manager reads what was said meanwhile. Ending means TERM, a wait,
KILL, and a look that nothing is left: the whole session and whatever carries the handle file's path, also when the
leader is long gone. Decides nothing about when that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from contracts.base import Message
from daemon_core import ports
from pool_managerd import proc, scopes
from pool_managerd.diagnosis import Exit
from pool_managerd.engine_log import EngineLog
from pool_managerd.errors import StillRunningError
from pool_managerd.launch import LOOPBACK
from pool_managerd.reconcile import MARKER, ProcessSeen

KILL_WAIT_S = 5.0
"""How long the kernel may take to clear a killed process away."""
_LAST_WORDS_S = 0.5
"""How long the rest of the output may take after the exit."""
_FIRST_LOOK_S = 0.01
_SLOWEST_LOOK_S = 0.2

OUTPUT_BYTES = 1 << 20
"""How much an engine may say while nobody listens, as far as the kernel allows; the rest is lost, never waited for."""


class RunningEngine(Protocol):
    """An engine that runs, whatever it runs in."""

    @property
    def outlives(self) -> bool:
        """Whether it goes on when this manager ends, also by the hand of the service manager."""

    async def wait(self) -> Exit:
        """How it ended, once it has and its last words are in the log."""

    async def end(self, stop_ms: int) -> None:
        """TERM, wait up to ``stop_ms``, KILL: at the end nothing is left. Idempotent. Raises StillRunningError."""

    async def leave(self) -> None:
        """Look after it no more, and let it go on: the next manager takes it over. Only where it outlives us."""

    async def pids(self) -> frozenset[int]:
        """Every process of it, as this machine numbers them."""


class SpawnSpec(Message, frozen=True, kw_only=True):
    """What to start. ``env`` is complete: nothing else reaches the child but the marker. Holds the key.

    ``output`` is the path of the named pipe that is made for it. ``scope`` is what stands before a program that gets a
    scope of its own, and ``environ`` what that needs of the daemon's environment.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    marker: str
    output: str
    workdir: str | None = None
    scope: tuple[str, ...] = ()
    environ: dict[str, str] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"SpawnSpec(argv={self.argv!r}, env={sorted(self.env)!r})"


class EngineProcess:
    """One engine's process, from its start to the end of its last child. A RunningEngine."""

    def __init__(self, leader: _Leader, marker: str, output: _Output, *, outlives: bool) -> None:
        self._leader = leader
        self._marker = marker
        self._output = output
        self._outlives = outlives

    @classmethod
    async def spawn(cls, spec: SpawnSpec, log: EngineLog) -> EngineProcess:
        """Start it. Raises OSError where the program cannot be started."""
        reader, writer = _pipe(Path(spec.output))
        try:
            child = _started(spec, writer)
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        seen = proc.process_of(child.pid)
        leader = _Leader(child.pid, seen.start_time_ticks if seen else 0, child)
        return cls(leader, spec.marker, await _Output.read(reader, log), outlives=bool(spec.scope))

    @classmethod
    async def adopt(cls, seen: ProcessSeen, marker: str, output: str, log: EngineLog) -> EngineProcess:
        """Take over one that a former manager started. Raises OSError where it is gone by now."""
        leader = _Leader(seen.pid, seen.start_time_ticks)
        if not leader.is_there():
            leader.close()
            raise ProcessLookupError(f"process {seen.pid} is gone")
        try:
            reader = os.open(output, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            leader.close()
            raise
        outlives = scopes.is_engines(proc.cgroup_of(seen.pid) or "")
        return cls(leader, marker, await _Output.read(reader, log), outlives=outlives)

    @property
    def outlives(self) -> bool:
        """See RunningEngine."""
        return self._outlives

    @property
    def pid(self) -> int:
        """The leader's pid, which is also the number of its group and session."""
        return self._leader.pid

    @property
    def start_time_ticks(self) -> int:
        """The leader's."""
        return self._leader.start_time_ticks

    async def wait(self) -> Exit:
        """See RunningEngine. Its children may live on, and keep the pipe open: ``end`` sees to them."""
        exited = await self._leader.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._output.over.wait()
        return exited

    async def end(self, stop_ms: int) -> None:
        """See RunningEngine."""
        await end_all(self.members, stop_ms)
        await self._leader.wait()
        self.deafen()

    def deafen(self) -> None:
        """Stop listening to what it says; it goes on."""
        self._output.close()

    async def leave(self) -> None:
        """See RunningEngine."""
        self.deafen()
        self._leader.close()

    async def pids(self) -> frozenset[int]:
        """See RunningEngine."""
        return frozenset(member.pid for member in await asyncio.to_thread(self.members))

    def members(self) -> tuple[ProcessSeen, ...]:
        """What lives of this engine.

        The kernel gives a group's number to nobody else while the group has members; once it has none, the number may
        be somebody else's pid, and group, before we look again.
        """
        seen = tuple(proc.processes())
        reused = any(one.pid == self.pid and one.start_time_ticks != self.start_time_ticks for one in seen)
        return tuple(
            one for one in seen if one.marker == self._marker or (not reused and self.pid in {one.group, one.session})
        )


def _pipe(path: Path) -> tuple[int, int]:
    """A new named pipe: the end that we read, and the one for the engine. Raises OSError."""
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    # The engine is its own reader, too: without one a write would end it. And it never waits: a manager that is away
    # must not bring an engine to a halt.
    try:
        writer = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        os.close(reader)
        raise
    with contextlib.suppress(OSError):
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, OUTPUT_BYTES)
    return reader, writer


def _started(spec: SpawnSpec, output: int) -> subprocess.Popen[bytes]:
    """Its process. Raises OSError.

    Not by way of asyncio, which kills whatever it started when its loop ends, and an engine is to go on.
    """
    env = {**spec.env, MARKER: spec.marker}
    argv, given = spec.argv, env
    if spec.scope:
        _require_program(spec)
        given = scopes.with_bus(env, spec.environ)
        argv = (*spec.scope, *scopes.as_it_was(env, given, spec.argv[0]), *spec.argv)
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd=spec.workdir,
        env=given,
        start_new_session=True,
    )


def _require_program(spec: SpawnSpec) -> None:
    """Say what the kernel would say of a program that is not there: systemd-run would say it in the engine's log."""
    program = spec.argv[0]
    path = str(Path(spec.workdir or ".") / program) if "/" in program else program
    if shutil.which(path, path=spec.env.get("PATH")) is None:
        number = errno.EACCES if Path(path).exists() else errno.ENOENT
        raise OSError(number, os.strerror(number), program)


class _Leader:
    """The process that was started as the engine: our child, or one that a former manager started.

    Of somebody else's child the kernel tells that it ended, and to its parent alone how.
    """

    def __init__(self, pid: int, start_time_ticks: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.start_time_ticks = start_time_ticks
        self._child = child
        self._exit = Exit()
        self._gone = asyncio.Event()
        self._descriptor = os.pidfd_open(pid)  # also of a child that has ended, as long as nobody has asked how
        asyncio.get_running_loop().add_reader(self._descriptor, self._ended)

    async def wait(self) -> Exit:
        """How it ended."""
        await self._gone.wait()
        return self._exit

    def is_there(self) -> bool:
        """Whether the pid is still its own: the descriptor stands for whoever had it when it was opened."""
        current = proc.process_of(self.pid)
        return current is not None and current.start_time_ticks == self.start_time_ticks

    def close(self) -> None:
        """Look no more."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        if self._child is not None and self._child.returncode is None:
            self._child.returncode = 0  # its destructor would complain of a child that goes on

    def _ended(self) -> None:
        if self._child is not None:
            self._exit = Exit.of(self._child.wait())
        self.close()
        self._gone.set()


class _Output(asyncio.Protocol):
    """Hands what comes through the pipe to the log."""

    def __init__(self, log: EngineLog) -> None:
        self._log = log
        self._transport: asyncio.BaseTransport | None = None
        self.over = asyncio.Event()

    @classmethod
    async def read(cls, reader: int, log: EngineLog) -> _Output:
        """Read from this end of a pipe on."""
        output = cls(log)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: output, os.fdopen(reader, "rb", buffering=0))
        return output

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The pipe is open."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's name
        """Nobody holds the other end any more."""
        self._log.end()
        self.over.set()

    def close(self) -> None:
        """Read no more."""
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Some bytes."""
        self._log.feed(data)


def marked(marker: str) -> tuple[ProcessSeen, ...]:
    """Every process that carries this handle file's path in its environment."""
    return tuple(seen for seen in proc.processes() if seen.marker == marker)


def remains(first: tuple[ProcessSeen, ...], marker: str) -> tuple[ProcessSeen, ...]:
    """What is left of an engine: those of its processes that were seen at first, and whatever carries its marker."""
    known = {(seen.pid, seen.start_time_ticks) for seen in first}
    return tuple(
        seen for seen in proc.processes() if seen.marker == marker or (seen.pid, seen.start_time_ticks) in known
    )


async def end_all(members: Callable[[], tuple[ProcessSeen, ...]], stop_ms: int) -> None:
    """TERM to all members, a wait of up to ``stop_ms``, then KILL until none is left. Raises StillRunningError."""
    if await _signal_until_gone(members, signal.SIGTERM, stop_ms / 1000):
        return
    if await _signal_until_gone(members, signal.SIGKILL, KILL_WAIT_S):
        return
    raise StillRunningError(tuple(process.pid for process in members()))


def kill_now(members: tuple[ProcessSeen, ...]) -> None:
    """KILL without waiting: for the way out, when nobody waits any more."""
    for process in members:
        proc.send(process, signal.SIGKILL)


async def _signal_until_gone(
    members: Callable[[], tuple[ProcessSeen, ...]], number: signal.Signals, patience_s: float
) -> bool:
    """Signal every member once, those that appear later too, until there is none or the time is over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    told: set[tuple[int, int]] = set()
    pause = _FIRST_LOOK_S
    while found := await asyncio.to_thread(members):
        for process in found:
            key = (process.pid, process.start_time_ticks)
            if key not in told:
                told.add(key)
                proc.send(process, number)
        left = deadline - loop.time()
        if left <= 0:
            return False
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, _SLOWEST_LOOK_S)
    return True


def free_port() -> int:
    """A loopback port that was free a moment ago; one stolen in between shows as the engine's early exit."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port


def port_taken(port: int) -> bool:
    """Whether somebody listens on this loopback port."""
    return ports.refusal(LOOPBACK, port) is not None
