"""Starts an engine's process and ends it with everything it started.

An engine runs in a session of its own, reads nothing, and carries its key and the path of its handle file in its
environment alone. Ending means TERM, a wait, KILL, and a look that nothing is left: the whole session and whatever
carries the handle file's path, also when the leader is long gone. Decides nothing about when that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import socket
from collections.abc import Callable, Mapping

from contracts.base import Message
from pool_managerd import proc
from pool_managerd.engine_log import EngineLog
from pool_managerd.errors import StillRunningError
from pool_managerd.reconcile import MARKER, ProcessSeen

LOOPBACK = "127.0.0.1"
KILL_WAIT_S = 5.0
"""How long the kernel may take to clear a killed process away."""
_LAST_WORDS_S = 0.5
"""How long the rest of the output may take after the exit."""
_FIRST_LOOK_S = 0.01
_SLOWEST_LOOK_S = 0.2

# What this daemon was given for itself and no engine needs: secrets, flags, and what its service manager told it.
_PRIVATE = re.compile(
    r".*(TOKEN|SECRET|PASSWORD|API_KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS)(_.*)?$"
    r"|LLAMA_ARG_.*"  # llama-server reads flags from these, beside the argument vector that we chose
    r"|CREDENTIALS_DIRECTORY$|NOTIFY_SOCKET$|WATCHDOG_.*|LISTEN_.*|INVOCATION_ID$|JOURNAL_STREAM$|SYSTEMD_.*"
)


class Exit(Message, frozen=True, kw_only=True):
    """How a process ended: with a status of its own, or by a signal."""

    status: int | None = None
    signal: int | None = None

    @classmethod
    def of(cls, returncode: int) -> Exit:
        """As the standard library counts: negative numbers are signals."""
        return cls(signal=-returncode) if returncode < 0 else cls(status=returncode)

    def __str__(self) -> str:
        if self.signal is None:
            return f"exited with status {self.status}"
        try:
            return f"was ended by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"was ended by signal {self.signal}"


class SpawnSpec(Message, frozen=True, kw_only=True):
    """What to start. ``env`` is complete: nothing else reaches the child but the marker. Holds the key."""

    argv: tuple[str, ...]
    env: dict[str, str]
    marker: str
    workdir: str | None = None

    def __repr__(self) -> str:
        return f"SpawnSpec(argv={self.argv!r}, env={sorted(self.env)!r})"

    @property
    def argv_hash(self) -> str:
        """Tells command lines apart."""
        return hashlib.sha256("\0".join(self.argv).encode()).hexdigest()


class EngineProcess:
    """One engine's process, from its start to the end of its last child."""

    def __init__(self, process: asyncio.subprocess.Process, spec: SpawnSpec, output: _Output, start_ticks: int) -> None:
        self._process = process
        self._spec = spec
        self._output = output
        self.start_time_ticks = start_ticks

    @classmethod
    async def spawn(cls, spec: SpawnSpec, log: EngineLog) -> EngineProcess:
        """Start it. Raises OSError where the program cannot be started."""
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                cwd=spec.workdir,
                env={**spec.env, MARKER: spec.marker},
                start_new_session=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        # A pipe of our own: asyncio's would make wait() hang on to children that keep it open.
        output = _Output(log)
        await loop.connect_read_pipe(lambda: output, os.fdopen(reader, "rb", buffering=0))
        seen = proc.process_of(process.pid)
        return cls(process, spec, output, seen.start_time_ticks if seen else 0)

    @property
    def pid(self) -> int:
        """The leader's pid, which is also the number of its group and session."""
        return self._process.pid

    async def wait(self) -> Exit:
        """How the leader ended, once it has and its last words are in the log.

        Its children may live on, and keep the pipe open: ``end`` sees to them.
        """
        returncode = await self._process.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._output.over.wait()
        return Exit.of(returncode)

    async def end(self, stop_ms: int) -> None:
        """TERM, wait up to ``stop_ms``, KILL: at the end nothing is left. Idempotent. Raises StillRunningError."""
        await end_all(self.members, stop_ms)
        await self._process.wait()
        self._output.close()

    def members(self) -> tuple[ProcessSeen, ...]:
        """What lives of this engine. The kernel gives a group's number to nobody else while the group has members."""
        return tuple(
            process
            for process in proc.processes()
            if process.marker == self._spec.marker or self.pid in {process.group, process.session}
        )


class _Output(asyncio.Protocol):
    """Hands what comes through the pipe to the log."""

    def __init__(self, log: EngineLog) -> None:
        self._log = log
        self._transport: asyncio.BaseTransport | None = None
        self.over = asyncio.Event()

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


# --- what a child gets ------------------------------------------------------------------------------------------------

_PLACEHOLDER = re.compile(r"\{(model|host|port)\}")


def fill(args: tuple[str, ...], *, model: str, host: str, port: int) -> tuple[str, ...]:
    """The arguments with ``{model}``, ``{host}`` and ``{port}`` filled in; other braces stay as they are."""
    values = {"model": model, "host": host, "port": str(port)}
    return tuple(_PLACEHOLDER.sub(lambda found: values[found[1]], arg) for arg in args)


def child_env(environ: Mapping[str, str], *layers: Mapping[str, str]) -> dict[str, str]:
    """The daemon's environment without what is the daemon's alone, under the layers given; the last one wins."""
    env = {name: value for name, value in environ.items() if not _PRIVATE.match(name)}
    for layer in layers:
        env.update(layer)
    return env


def free_port() -> int:
    """A loopback port that was free a moment ago; one stolen in between shows as the engine's early exit."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
        listener.bind((LOOPBACK, 0))
        port: int = listener.getsockname()[1]
        return port


def port_taken(port: int) -> bool:
    """Whether somebody listens on this loopback port."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
        # As servers do: connections that linger from an earlier listener are no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return True
        return False
