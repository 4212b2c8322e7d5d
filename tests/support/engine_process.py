"""A real engine as a child of the tests: what it says is kept and can be waited for, and nothing of it stays behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ENVIRONMENTS = Path(__file__).parents[2] / ".cache" / "engines"
"""Where ``make engines`` makes them."""
SHARED_MEMORY = Path("/dev/shm")
MAPPED = re.compile(r" (\d+) +/dev/shm/")
KEPT = ("PATH", "LANG", "LLAMA_ORCH_TEST_RUN")


class EngineProcess:
    """One program with its children, as a context manager. Its environment is what is given, and what finds programs.

    Its methods wait: a coroutine calls them with ``asyncio.to_thread``.
    """

    def __init__(
        self, argv: Sequence[str | Path], environ: Mapping[str, str | Path], *, cwd: Path, keep: int | None = None
    ) -> None:
        self.lines: list[str] = []
        self._memory: set[int] = set()
        self._news = threading.Condition()
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        self.process = subprocess.Popen(
            [str(part) for part in argv],
            cwd=cwd,
            env=kept | {name: str(value) for name, value in environ.items()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=() if keep is None else (keep,),
            start_new_session=True,  # so that all of it can be ended at once
        )
        self._reader = threading.Thread(target=self._read, name=f"lines of {self.process.pid}")
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The program itself."""
        return self.process.pid

    def said(self, *words: str, within_s: float) -> str:
        """The first line with all these words, waited for while the program runs."""

        def found() -> str | None:
            return next((line for line in self.lines if all(word in line for word in words)), None)

        with self._news:
            self._news.wait_for(lambda: found() is not None or not self._reader.is_alive(), within_s)
            line = found()
        assert line is not None, f"it did not say {words} within {within_s:.0f} s:\n" + "\n".join(self.lines[-60:])
        return line

    def listens(self, port: int, *, within_s: float) -> None:
        """Wait until it takes connections: some say that they are ready a moment before."""
        end = time.monotonic() + within_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                assert self.process.poll() is None, "it ended:\n" + "\n".join(self.lines[-60:])
                assert time.monotonic() < end, f"it does not listen at {port}:\n" + "\n".join(self.lines[-60:])
            else:
                return

    def send(self, number: signal.Signals) -> None:
        """A signal for the program alone."""
        self.process.send_signal(number)

    def ended(self, within_s: float) -> int:
        """Wait for its end; the answer is its exit status."""
        return self.process.wait(within_s)

    def kill(self) -> None:
        """End the program and every process of its group, and remove the shared memory that they had."""
        self.note_memory()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        for file in SHARED_MEMORY.iterdir():
            with contextlib.suppress(FileNotFoundError):  # others have files there too, which come and go
                if file.lstat().st_ino in self._memory:
                    file.unlink()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def children(self, command: str) -> list[int]:
        """The processes of its group whose command line has this in it."""
        found = {pid: _read(pid, "cmdline").replace("\0", " ") for pid in self._group() if pid != self.pid}
        return [pid for pid, line in found.items() if command in line]

    def note_memory(self) -> None:
        """Remember which shared memory its processes have: one that dies at once leaves it behind."""
        for pid in self._group():
            # By inode: a semaphore's file is mapped under another name than it has.
            self._memory |= {int(inode) for inode in MAPPED.findall(_read(pid, "maps"))}

    def _group(self) -> list[int]:
        running = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        stats = {pid: _read(pid, "stat").rpartition(")")[2].split() for pid in running}
        return [pid for pid, stat in stats.items() if stat and int(stat[2]) == self.pid]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.decode(errors="replace").rstrip())
                self._news.notify_all()
        with self._news:
            self._news.notify_all()


def _read(pid: int, name: str) -> str:
    """What /proc tells of a process; nothing of one that ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
