"""The machine as a provider sees it: programs on PATH, commands bounded in time, the GPUs, the clock, the catalog.

Decides nothing. All that it is made of is an argument, so a test gives it another environment and the same real tools.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from catalog_core.engines import EngineCatalogStore
from contracts.base import Message
from contracts.config import Policy
from contracts.pools import Cause, Gpu
from daemon_core import procfs
from daemon_core.child_environment import child_env
from engine_provisioner.cuda import Driver
from engine_provisioner.end_with_us import ends_with_us
from engine_provisioner.errors import ProvisionError
from engine_provisioner.gpus import visible_driver, visible_gpus
from model_provisioner.errors import FetchError
from model_provisioner.outbound_gate import OutboundGate

OUTPUT_LIMIT = 1024 * 1024
"""Bytes of a command's output that are kept."""

DRAIN_S = 2.0
"""How long a pipe may stay open after its command, where somebody left the session with it."""
LINE_LIMIT = 4096
"""Bytes of a line that a reader of lines gets to see."""


class CommandError(Exception):
    """A command could not be run to its end. The text is one line."""


class CommandResult(Message, frozen=True, kw_only=True):
    """How a command ended: its exit status (negative: the signal) and its output, both streams together."""

    status: int
    output: str

    @property
    def last_line(self) -> str:
        """The last line that says something: most programs put their reason there."""
        return next((line.strip() for line in reversed(self.output.splitlines()) if line.strip()), "(it said nothing)")


class Resources(Message, frozen=True, kw_only=True):
    """What a build may use: processors, and bytes of memory that are free (None: not known)."""

    cores: int
    memory_bytes: int | None


def resources() -> Resources:
    """The processors that this process may run on, and the memory that is available without swapping."""
    memory = None
    with suppress(OSError, ValueError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        memory = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:"))
    return Resources(cores=len(os.sched_getaffinity(0)), memory_bytes=memory)


def free_bytes(path: Path) -> int:
    """What the disk that a path is on, or will be, has free. Raises OSError."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(there).free


def unix_ms() -> int:
    """Wall-clock time in Unix milliseconds: a person reads it in the catalog."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Host:
    """What providers need from the machine."""

    environ: Mapping[str, str]
    catalog: EngineCatalogStore
    cache: Path
    """Below it every engine has a directory of its own: sources, builds, downloads."""
    policy: Policy = field(default_factory=Policy)
    workdir: Path | None = None
    """Where engines run; None leaves it to whoever starts them."""
    now_ms: Callable[[], int] = unix_ms
    gpus: Callable[[], tuple[Gpu, ...]] = visible_gpus
    """Raises GpuUnavailable. Called in a thread."""
    driver: Callable[[], Driver | None] = visible_driver
    """None where it does not answer. Called in a thread."""
    python: Path = field(default_factory=lambda: Path(sys.executable))
    os_release: Path = Path("/etc/os-release")
    resources: Callable[[], Resources] = resources
    free_bytes: Callable[[Path], int] = free_bytes
    """Raises OSError."""

    @property
    def gate(self) -> OutboundGate:
        """The way out for what the operator wrote down as a URL of its own; private addresses are their affair."""
        return OutboundGate(policy=self.policy, environ=self.environ, action="engine", anywhere=True)

    async def require_outbound(self, url: str) -> None:
        """See that policy and its hook let an address be reached; every ruling is logged. Raises ProvisionError."""
        try:
            await asyncio.to_thread(self.gate.require_name, url)
        except FetchError as error:
            raise ProvisionError(Cause.POLICY_DENIED, error.message, error.hint or "see policy") from error

    def which(self, name: str) -> Path | None:
        """The executable of this name on PATH."""
        found = shutil.which(name, path=self.environ.get("PATH", os.defpath))
        return Path(found) if found else None

    async def run(
        self,
        argv: tuple[str, ...],
        *,
        timeout_s: float,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        log: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        line_limit: int = LINE_LIMIT,
        keep_open: tuple[int, ...] = (),
    ) -> CommandResult:
        """Run a command to its end without input. It and its children are gone afterwards, whatever happens.

        The environment is ours without what is ours alone (``child_env``); ``env`` is added to it, and None takes a
        variable out. ``log`` is a file to which all output is appended, ``on_line`` takes each line as it comes,
        and no more than ``line_limit`` bytes of it, ``keep_open`` are descriptors that the command inherits; one that
        holds a lock so also ends when we are killed.
        Raises CommandError where it cannot be started or takes longer than ``timeout_s``.
        """
        chosen = {**child_env(self.environ), **(env or {})}
        with ExitStack() as stack:
            file = stack.enter_context(log.open("ab")) if log else None
            starting = asyncio.get_running_loop().create_task(
                asyncio.create_subprocess_exec(
                    *argv,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env={name: value for name, value in chosen.items() if value is not None},
                    cwd=cwd,
                    start_new_session=True,
                    pass_fds=keep_open,
                )
            )
            try:
                process = await asyncio.shield(starting)
            except asyncio.CancelledError:
                await _end_started(starting)
                raise
            except OSError as error:
                raise CommandError(f"{argv[0]} cannot be started: {error.strerror}") from error
            try:
                stack.enter_context(_ending(process))
                async with ends_with_us(process.pid) if keep_open else nullcontext(), asyncio.timeout(timeout_s):
                    output = await _bounded(process.stdout, file, on_line, line_limit)
                    status = await process.wait()
            except TimeoutError as error:
                raise CommandError(f"{argv[0]} did not answer within {timeout_s:g} s") from error
            finally:
                _end_session(process.pid)
                await _let_go(process)
        return CommandResult(status=status, output=output)

    def distribution(self) -> Mapping[str, str]:
        """The fields of os-release; empty where there is none."""
        try:
            text = self.os_release.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return {}
        pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
        return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


async def _bounded(
    stream: asyncio.StreamReader | None,
    log: IO[bytes] | None,
    on_line: Callable[[str], None] | None,
    line_limit: int,
) -> str:
    """All of a stream, of which the first OUTPUT_LIMIT bytes are kept: who reads no further blocks the writer."""
    kept = bytearray()
    line = b""
    while stream is not None and (chunk := await stream.read(65_536)):
        kept += chunk[: OUTPUT_LIMIT - len(kept)]
        if log is not None:
            log.write(chunk)
            log.flush()
        if on_line is not None:
            *whole, line = (line + chunk).split(b"\n")
            line = line[:line_limit]
            for each in whole:
                on_line(each[:line_limit].decode(errors="replace").rstrip("\r"))
    if on_line is not None and line:
        on_line(line.decode(errors="replace"))
    return kept.decode(errors="replace")


async def _end_started(starting: asyncio.Task[asyncio.subprocess.Process]) -> None:
    """End a command whose start was given up: the event loop alone would end its first process and no other."""
    with suppress(OSError):
        process = await starting
        _end_session(process.pid)
        await _let_go(process)


@contextmanager
def _ending(process: asyncio.subprocess.Process) -> Iterator[None]:
    """End what a command leaves behind as soon as it has ended itself, and soon no longer listen to what got away.

    On uvloop even a child that speaks elsewhere has inherited the pipe, which would be open for as long as it runs.
    """
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:

        def ended() -> None:
            stack.close()
            _end_session(process.pid)
            stack.callback(loop.call_later(DRAIN_S, _close, process).cancel)

        try:
            leader = os.pidfd_open(process.pid)
        except ProcessLookupError:  # it has ended already
            ended()
        else:
            stack.callback(os.close, leader)
            loop.add_reader(leader, ended)
            stack.callback(loop.remove_reader, leader)
        yield


async def _let_go(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a process that was killed.

    asyncio's wait() ends only when the pipe has, and a pipe that brought too much at once is paused until it is read.
    """
    try:
        async with asyncio.timeout(DRAIN_S):
            while process.stdout is not None and await process.stdout.read(65_536):
                pass
    except TimeoutError:  # somebody has left the session with the pipe
        _close(process)
    await process.wait()


def _close(process: asyncio.subprocess.Process) -> None:
    """Let go of a process's pipe."""
    process._transport.close()  # type: ignore[attr-defined] # noqa: SLF001 - there is no other way


def _end_session(leader: int) -> None:
    """Kill the processes that a command started, also those in groups of their own: ninja gives each job one."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    killed = {leader}
    while found := set(_session(leader)) - killed:  # again, for what was started meanwhile
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= found


def _session(leader: int) -> Iterator[int]:
    """The processes of a session that have not ended."""
    return (stat.pid for stat in procfs.stats() if stat.session == leader and stat.alive)


async def sha256_of(path: Path) -> str:
    """``sha256:<hex>`` of a file. Raises OSError."""
    return await asyncio.to_thread(_sha256_of, path)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
