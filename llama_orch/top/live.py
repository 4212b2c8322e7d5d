"""Keeps asking the daemon and drawing what it says, until a key or a signal ends it.

Decides that a daemon that goes away is waited for, with what it said last still on the screen, and that the terminal is
given back as it was: after q, Ctrl-C, SIGTERM, an error, and while Ctrl-Z has the program stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

from rich.console import Console
from rich.live import Live

from contracts.tasks import TaskState
from llama_orch.amounts import span_text
from llama_orch.client import ApiClient
from llama_orch.errors import EXIT_INTERRUPTED, ApiError
from llama_orch.session import Session
from llama_orch.top.screen import View, screen
from llama_orch.top.snapshot import Answers, Snapshot, snapshot

MOST_TASKS = 1000
"""The most that the daemon tells at once."""
LIMIT_S = 5.0
"""For all answers together."""
_CLOCK_S = 1.0
_QUIT = frozenset(b"qQ\x03\x04")


async def ask(client: ApiClient, before: Snapshot | None = None) -> Snapshot:
    """One look. Raises ApiError."""
    try:
        async with asyncio.timeout(LIMIT_S):
            pools, capabilities, running, queued, failed, metrics = await asyncio.gather(
                client.pools(),
                client.capabilities(),
                client.tasks(TaskState.RUNNING, MOST_TASKS),
                client.tasks(TaskState.QUEUED, MOST_TASKS),
                client.tasks(TaskState.FAILED, MOST_TASKS),
                client.metrics(),
            )
    except TimeoutError:
        raise ApiError("UNREACHABLE", f"no answer in {LIMIT_S:g} s", retriable=True) from None
    answers = Answers(
        pools=pools,
        capabilities=capabilities,
        running=running.tasks,
        queued=queued.tasks,
        failed=failed.tasks,
        metrics=metrics,
    )
    return snapshot(answers, time.time_ns() // 1_000_000, before)


class Watcher:
    """One live view."""

    def __init__(self, daemon: Session, console: Console, interval_s: float) -> None:
        self._daemon = daemon
        self._console = console
        self._interval_s = interval_s
        self._wake = asyncio.Event()
        self._status: int | None = None
        self._stopped = False
        self._snapshot: Snapshot | None = None
        self._trouble: ApiError | None = None
        self._trouble_since = 0.0

    async def run(self) -> int:
        """Watch until it is ended; the answer is the exit status. Raises ApiError for what waiting does not mend."""
        with self._signals():
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(self._keep_asking(), name="ask")
                try:
                    while self._status is None:
                        await self._on_screen()
                        if self._stopped:
                            self._stopped = False
                            os.kill(os.getpid(), signal.SIGSTOP)  # until somebody says fg
                finally:
                    asking.cancel()
        if self._trouble is not None and not self._waits:
            raise self._trouble
        return self._status

    async def _on_screen(self) -> None:
        """Draw until it is ended or stopped; afterwards the terminal is as before."""
        live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        with keys(self._key), live:
            while self._status is None and not self._stopped:
                width, height = self._console.size
                live.update(screen(self._view(), width, height), refresh=True)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CLOCK_S):
                        await self._wake.wait()
                self._wake.clear()

    async def _keep_asking(self) -> None:
        async with self._daemon.client() as client:
            while self._status is None:
                try:
                    self._snapshot, self._trouble = await ask(client, self._snapshot), None
                except ApiError as error:
                    self._troubled(error)
                self._wake.set()
                await asyncio.sleep(self._interval_s)

    def _troubled(self, error: ApiError) -> None:
        if self._trouble is None:
            self._trouble_since = asyncio.get_running_loop().time()
        self._trouble = error
        if not self._waits:
            self._status = error.exit_code

    @property
    def _waits(self) -> bool:
        """Whether what is wrong may pass: the daemon is away, or was there and is another now."""
        return self._trouble is None or self._trouble.retriable or self._snapshot is not None

    def _view(self) -> View:
        trouble = None
        if self._trouble is not None:
            since = asyncio.get_running_loop().time() - self._trouble_since
            trouble = f"{self._trouble.message} (for {span_text(since)}; trying again)"
        return View(
            url=self._daemon.url,
            clock=datetime.now().astimezone().strftime("%H:%M:%S"),
            snapshot=self._snapshot,
            trouble=trouble,
        )

    def _key(self, typed: bytes) -> None:
        if not typed or not _QUIT.isdisjoint(typed):  # nothing: whoever typed has gone
            self._end(0)

    def _end(self, status: int) -> None:
        self._status = status if self._status is None else self._status
        self._wake.set()

    def _stop(self) -> None:
        self._stopped = True
        self._wake.set()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGWINCH: self._wake.set,
            signal.SIGTSTP: self._stop,
            **{
                number: lambda: self._end(EXIT_INTERRUPTED) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            },
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)


@contextmanager
def keys(on_typed: Callable[[bytes], None]) -> Iterator[None]:
    """Hand over what is typed, as it is typed and without showing it; signals stay signals."""
    descriptor = sys.stdin.fileno()
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()
    tty.setcbreak(descriptor, termios.TCSADRAIN)
    loop.add_reader(descriptor, lambda: on_typed(_read(descriptor)))
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1024)
    except OSError:
        return b""
