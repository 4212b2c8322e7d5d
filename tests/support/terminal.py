"""A program on a terminal of its own: a pseudo terminal of a given size, which is its controlling one."""

from __future__ import annotations

import asyncio
import codecs
import fcntl
import os
import pty
import re
import struct
import termios
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

LIMIT_S = 40.0
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b\][^\x07]*\x07|\x07")


class Terminal:
    """What a program writes to its terminal, and what a person types."""

    def __init__(self, process: asyncio.subprocess.Process, master: int, given: list[Any]) -> None:
        self.process = process
        self.given = given
        """The settings of the terminal before the program began."""
        self.written = ""
        self.master = master
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        """A read may end within a character."""
        self._news = asyncio.Event()
        self._closed = asyncio.Event()
        asyncio.get_running_loop().add_reader(master, self._read)

    def type(self, text: str) -> None:
        """What a person types."""
        os.write(self.master, text.encode())

    def resize(self, columns: int, rows: int = 24) -> None:
        """Give the terminal another size; the program is told."""
        _resize(self.master, columns, rows)

    async def shows(self, words: str) -> None:
        """Wait until something was written, with or without what moves the cursor: an editor of lines mixes that in."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while words not in self.written and words not in _CONTROL.sub("", self.written):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{words!r} was not shown within {LIMIT_S:.0f} s: {self.written!r}") from None

    async def news(self) -> None:
        """Wait until anything is written."""
        self._news.clear()
        await self._news.wait()

    async def ended(self) -> int:
        """Wait for the program's end, and for the last of what it wrote; the answer is its exit status."""
        async with asyncio.timeout(LIMIT_S):
            status = await self.process.wait()
            await self._closed.wait()  # it ends before all that it wrote was read
            return status

    async def all_written(self) -> str:
        """Wait for the end of all that writes; the answer is what they wrote, without what moves the cursor."""
        async with asyncio.timeout(LIMIT_S):
            await self._closed.wait()
        return _CONTROL.sub("", self.written).replace("\r\n", "\n")

    @property
    def lines(self) -> list[str]:
        """All that was ever written, by lines, without what moves the cursor."""
        return [line.rstrip() for line in re.split(r"[\r\n]+", _CONTROL.sub("", self.written))]

    def _read(self) -> None:
        try:
            self.written += self._decoder.decode(os.read(self.master, 65_536))
        except OSError:  # the program has closed its side
            asyncio.get_running_loop().remove_reader(self.master)
            self._closed.set()
        self._news.set()


@asynccontextmanager
async def terminal(
    command: Sequence[str], environ: Mapping[str, str], cwd: Path, *, columns: int = 80
) -> AsyncIterator[Terminal]:
    """A program that runs on a terminal; what is left of it at the end is killed."""
    master, slave = pty.openpty()
    _resize(master, columns, 24)
    given = termios.tcgetattr(master)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={"TERM": "xterm", **environ},
        cwd=cwd,
        start_new_session=True,
        preexec_fn=_take_terminal,
    )
    os.close(slave)
    running = Terminal(process, master, given)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)


def _take_terminal() -> None:
    """In the child: standard input is the terminal whose Ctrl-C reaches it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _resize(master: int, columns: int, rows: int) -> None:
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
