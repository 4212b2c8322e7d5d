"""Reads the files of the pools, where there is no journal: what the engines printed, without a time.

Decides nothing but when a file was replaced by a new one, or emptied.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from llama_orch.journal.line import Line, of_a_file
from llama_orch.journal.query import Wanted

LOOK_S = 0.2
"""How often a file that is followed is looked at."""


def pools_of(folder: Path) -> tuple[str, ...]:
    """The pools that have a file."""
    return tuple(sorted(path.stem for path in folder.glob("*.log")))


def read(folder: Path, pools: Sequence[str], wanted: Wanted) -> Generator[Line, None, None]:
    """The lines, pool after pool, the newest ones of each; then, where they are followed, as they come. Blocks."""
    files = [_Followed(folder / f"{pool}.log", pool) for pool in pools]
    try:
        for file in files:
            kept: deque[Line] = deque((line for line in file.all() if _fits(line, wanted)), maxlen=wanted.last)
            yield from kept
        while wanted.follow:
            for file in files:
                yield from (line for line in file.new() if _fits(line, wanted))
            time.sleep(LOOK_S)
    finally:
        for file in files:
            file.close()


def _fits(line: Line, wanted: Wanted) -> bool:
    return wanted.correlation_id is None or wanted.correlation_id in line.correlation_ids


class _Followed:
    """One pool's file, and the one before it."""

    def __init__(self, path: Path, pool_id: str) -> None:
        self._path = path
        self._pool_id = pool_id
        self._file: BinaryIO | None = None
        self._rest = b""

    def all(self) -> Iterator[Line]:
        """What is there already."""
        try:
            with self._path.with_name(f"{self._path.name}.1").open("rb") as file:
                yield from (self._line(data) for data in file)
        except OSError:
            pass
        yield from self.new()

    def new(self) -> Iterator[Line]:
        """What has come since."""
        while True:
            if self._file is None:
                try:
                    self._file = self._path.open("rb")
                except OSError:
                    return
            if os.fstat(self._file.fileno()).st_size < self._file.tell():  # somebody has emptied it
                self._file.seek(0)
                self._rest = b""
            yield from self._whole_lines(self._file)
            if not self._was_replaced(self._file):
                return
            yield from self._whole_lines(self._file)  # what came before it was
            self.close()

    def close(self) -> None:
        """Read no more."""
        if self._file is not None:
            self._file.close()
        self._file, self._rest = None, b""

    def _whole_lines(self, file: BinaryIO) -> Iterator[Line]:
        *lines, self._rest = (self._rest + file.read()).split(b"\n")
        yield from map(self._line, lines)

    def _was_replaced(self, file: BinaryIO) -> bool:
        try:
            now = self._path.stat()
        except OSError:
            return False  # in a moment there is another one
        then = os.fstat(file.fileno())
        return (now.st_dev, now.st_ino) != (then.st_dev, then.st_ino)

    def _line(self, data: bytes) -> Line:
        return of_a_file(data.decode(errors="replace").rstrip("\n"), self._pool_id)
