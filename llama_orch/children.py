"""Both daemons as children of this program, from their start to the certainty that nothing of them is left.

Decides the order: pool-managerd first up and last down. Each runs in a session of its own, so that Ctrl-C reaches this
program alone, and is told to stop when this program dies. What a daemon leaves behind becomes our child (we are the
subreaper), is ended, and is reported. Never restarts anything: a service manager does.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import cast

from daemon_core import procfs
from daemon_core.logs import FORMAT_VARIABLE
from llama_orch.client import ApiClient

DAEMONS = (("pool-managerd", "pool_managerd"), ("orchestratord", "orchestratord"))
"""Name and package, in the order of their start."""

OnLine = Callable[[str, str], None]
KEPT_LINES = 40
POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# What systemd said to us is not meant for them.
_NOT_INHERITED = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"})


class Child(asyncio.SubprocessProtocol):
    """One daemon: its output line by line, and its end."""

    def __init__(self, name: str, on_line: OnLine, changed: asyncio.Event) -> None:
        self.name = name
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.exited = asyncio.Event()
        self.status: int | None = None
        """The exit status; negative for a signal's number."""
        self._on_line = on_line
        self._changed = changed
        self._rest: dict[int, bytes] = {}
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process runs."""
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """It said something."""
        *lines, self._rest[fd] = (self._rest.get(fd, b"") + data).split(b"\n")
        for line in lines:
            self._say(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """It says no more."""
        if rest := self._rest.pop(fd, b""):
            self._say(rest)

    def process_exited(self) -> None:
        """It ended."""
        self.status = self._transport.get_returncode() if self._transport else None
        self.exited.set()
        self._changed.set()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it has ended."""
        if self._transport is not None and not self.exited.is_set():
            with suppress(ProcessLookupError):
                self._transport.send_signal(number)

    @property
    def last_words(self) -> list[str]:
        """What it said of its end, for people, after all that it had to log."""
        said = list(self.lines)
        starts = [number for number, line in enumerate(said) if line.startswith(f"{self.name}: ")]
        return said[starts[-1] :] if starts else []

    def close(self) -> None:
        """Let go of its pipes, which a grandchild may hold open."""
        if self._transport is not None:
            self._transport.close()

    def _say(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        self.lines.append(text)
        self._on_line(self.name, text)


class Daemons:
    """Both daemons on one configuration."""

    def __init__(
        self,
        config_path: Path,
        environ: Mapping[str, str],
        on_line: OnLine,
        *,
        readable_logs: bool,
        programs: Sequence[tuple[str, str]] = DAEMONS,
    ) -> None:
        self.children: list[Child] = []
        self.changed = asyncio.Event()
        """Set when a daemon ended; whoever waits for something else too may set it."""
        self._config_path = config_path
        self._environ = child_environment(environ, readable_logs=readable_logs)
        self._on_line = on_line
        self._programs = programs
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._before: frozenset[int] = frozenset()
        self._hurried = False

    @property
    def dead(self) -> Child | None:
        """The first daemon that has ended, if one has."""
        return next((child for child in self.children if child.exited.is_set()), None)

    async def start(self) -> None:
        """Start both, without waiting for them to be ready."""
        self._before = frozenset(children_of(os.getpid()))
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        loop = asyncio.get_running_loop()
        for name, package in self._programs:
            child = Child(name, self._on_line, self.changed)
            await loop.subprocess_exec(
                lambda child=child: child,  # type: ignore[misc] # mypy cannot infer a lambda with a default
                *(sys.executable, "-m", package, "--config", str(self._config_path)),
                stdin=asyncio.subprocess.DEVNULL,
                env=self._environ,
                start_new_session=True,
                preexec_fn=self._die_with_parent,  # there is no other way to ask for it, and no thread runs here
            )
            self.children.append(child)

    async def stop(self, *, grace_s: float) -> dict[int, str]:
        """Stop both, orchestratord first, each with so many seconds to drain.

        The answer is what they left running (pid to command line), which is killed by now; normally nothing.
        """
        for child in reversed(self.children):
            child.signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(child.exited.wait(), grace_s)
            except TimeoutError:
                child.signal(signal.SIGKILL)
                await child.exited.wait()
            child.close()
        left = self._end_leftovers()
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        return left

    def hurry(self) -> None:
        """Make a stop that is under way a short one: streams are ended in order; when asked again, nothing is."""
        for child in self.children:
            child.signal(signal.SIGKILL if self._hurried else signal.SIGTERM)
        self._hurried = True

    def last_lines(self, count: int) -> list[str]:
        """What each daemon said last."""
        return [f"{child.name} | {line}" for child in self.children for line in list(child.lines)[-count:]]

    def _die_with_parent(self) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    def _end_leftovers(self) -> dict[int, str]:
        """End what the daemons left behind, generation after generation."""
        left: dict[int, str] = {}
        while found := {pid: text for pid, text in children_of(os.getpid()).items() if pid not in self._before}:
            for pid, command in found.items():
                if command:  # a zombie has no command line: it ended in time and only waits to be reaped
                    left[pid] = command
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
        return left


async def until_up(client: ApiClient, daemons: Daemons) -> bool:
    """Wait until orchestratord answers; False when ``daemons.changed`` is set before that."""
    while not await client.is_up():
        with suppress(TimeoutError):
            await asyncio.wait_for(daemons.changed.wait(), POLL_S)
        if daemons.changed.is_set():
            return False
    return True


def child_environment(environ: Mapping[str, str], *, readable_logs: bool) -> dict[str, str]:
    """The environment of a daemon that we start: ours, the way to our packages, and how it shall log."""
    result = {name: value for name, value in environ.items() if name not in _NOT_INHERITED}
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():
        # A checkout that is not installed: another working directory must find the packages too.
        result["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [environ.get("PYTHONPATH")])])
    result[FORMAT_VARIABLE] = "text" if readable_logs else "json"
    return result


def children_of(parent: int) -> dict[int, str]:
    """The living children of a process: pid to command line; an empty one means a zombie."""
    found = {}
    for stat in procfs.stats():
        if stat.parent == parent:
            with suppress(OSError):  # it ended meanwhile
                command = Path("/proc", str(stat.pid), "cmdline").read_bytes().replace(b"\0", b" ")
                found[stat.pid] = command.decode(errors="replace").strip()
    return found
