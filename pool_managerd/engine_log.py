"""Keeps what an engine prints: a bounded file per pool, the daemon's own log, and the last lines for error messages.

Decides how much is kept. Every line is redacted before it goes anywhere, carries the correlation ids of the jobs that
the engine works for, and has in the daemon's log the level that it shows. Never fails its caller: a full disk costs log
lines, not the engine.
"""

from __future__ import annotations

import logging
import os
import re
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol

from daemon_core.journal_entry import ENGINE_SOURCE
from pool_managerd.engine_levels import level_of
from pool_managerd.engine_marks import Mark, marks_in
from pool_managerd.log_feed import LogFeed, marked

_log = logging.getLogger(__name__)

MAX_FILE_BYTES = 8 << 20
"""The size at which the file becomes ``<pool>.log.1``, in place of the former one."""
MAX_LINE_CHARS = 8192
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
"""What moves a terminal's cursor and colours its text; in a file it is noise."""
_MAX_PENDING_BYTES = 1 << 16
MAX_TAIL_CHARS = 4096
"""They travel in every report on the pool, which must fit into a frame however many pools there are."""
TAIL_LINES = 8
MAX_READ_BYTES = 128 * 1024
"""Of a file, for who asks what an engine said last."""


class Redacts(Protocol):
    """Takes secrets out of text; more can be registered."""

    def register(self, secret: str) -> None:
        """From now on this value appears in no text."""

    def text(self, text: str) -> str:
        """The text without secrets."""


class EngineLog:
    """What one engine of a pool says. All engines of a pool write to the same file: ``another`` is for the next one."""

    def __init__(
        self,
        path: Path,
        pool_id: str,
        redactor: Redacts,
        max_bytes: int = MAX_FILE_BYTES,
        *,
        feed: LogFeed | None = None,
        engine: str | None = None,
    ) -> None:
        self._file = _File(path, pool_id, max_bytes)
        self._pool_id = pool_id
        self._known_by = {"pool_id": pool_id, "source": ENGINE_SOURCE} | ({} if engine is None else {"engine": engine})
        self._redactor = redactor
        self._feed = feed
        self._pending = b""
        self._cutting = False
        self._held: deque[str] = deque()
        """Lines that wait a moment for the news whose work they are about: that comes by another way."""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._marks: set[Mark] = set()

    def another(self) -> EngineLog:
        """For an engine that runs beside this one: the same file, but last lines of its own."""
        log = EngineLog(self._file.path, self._pool_id, self._redactor, feed=self._feed)
        log._file, log._known_by = self._file, self._known_by
        return log

    @property
    def pool_id(self) -> str:
        """Whose lines they are."""
        return self._pool_id

    @property
    def path(self) -> Path:
        """Where the lines are."""
        return self._file.path

    def begin(self, headline: str) -> None:
        """A new engine starts: its lines are the ones that error messages quote from now on."""
        self._release()
        self._pending, self._cutting = b"", False
        self._tail.clear()
        self._marks.clear()
        self._file.write(f"--- {self._redactor.text(headline)}")

    def feed(self, data: bytes) -> None:
        """Take output as it comes: any bytes, cut anywhere."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            if self._cutting:
                self._cutting = False  # the rest of a line whose beginning is in the log
            else:
                self._take(line)
        if len(self._pending) > _MAX_PENDING_BYTES:
            if not self._cutting:
                self._take(self._pending)
            self._pending, self._cutting = b"", True

    def end(self) -> None:
        """The engine is gone: its last line may have had no end."""
        if self._pending and not self._cutting:
            self._take(self._pending)
        self._pending, self._cutting = b"", False
        self._release()
        self._file.close()

    def tail(self) -> str:
        """The last lines of the engine, redacted; empty when it printed nothing."""
        return "\n".join(self._tail)[-MAX_TAIL_CHARS:]

    @property
    def marks(self) -> frozenset[Mark]:
        """What the engine's lines have shown, since it began or since that was overcome."""
        return frozenset(self._marks)

    def overcome(self) -> None:
        """The engine works, whatever it has said so far: that explains no later failure."""
        self._marks.clear()

    def _take(self, raw: bytes) -> None:
        # Without colours, which would hide the beginning of a word. Redacted whole, then cut: a secret across the cut
        # must not leave its first half behind.
        line = self._redactor.text(_COLOURS.sub("", raw.decode(errors="replace")).rstrip("\r"))
        if len(line) > MAX_LINE_CHARS:
            line = f"{line[:MAX_LINE_CHARS]} [cut]"
        self._tail.append(line)
        self._marks |= marks_in(line)
        if self._feed is None:
            self._write(line)
            return
        self._held.append(line)
        if len(self._held) == 1:
            self._feed.later(self._release)

    def _write(self, line: str) -> None:
        extra: dict[str, object] = {**self._known_by}
        jobs = () if self._feed is None else self._feed.jobs(self._pool_id)
        if jobs:
            extra["correlation_ids"] = jobs
        self._file.write(marked(line, jobs))
        _log.log(level_of(line), "%s", line, extra=extra)
        if self._feed is not None:
            self._feed.said(self._pool_id, line)

    def _release(self) -> None:
        """Write what was held back."""
        while self._held:
            self._write(self._held.popleft())


def latest(path: Path, lines: int) -> list[str]:
    """The last lines of a pool's file, oldest first; empty where there is none, or it cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MAX_READ_BYTES))
            read = file.read(MAX_READ_BYTES)
    except OSError:
        return []
    found = read.decode(errors="replace").splitlines()
    if size > MAX_READ_BYTES:
        del found[0]  # cut in two
    return found[-lines:] if lines > 0 else []


class _File:
    """A pool's file and the one before it."""

    def __init__(self, path: Path, pool_id: str, max_bytes: int) -> None:
        self.path = path
        self._pool_id = pool_id
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._failing = False

    def write(self, line: str) -> None:
        """Append a line; after a close the file is opened anew."""
        try:
            if self._file is None:
                self._file = self.path.open("ab")
            if self._file.tell() >= self._max_bytes:
                self._rotate()
            self._file.write(line.encode(errors="backslashreplace") + b"\n")
            self._file.flush()
            self._failing = False
        except OSError as error:
            if not self._failing:
                _log.warning("cannot write %s: %s", self.path, error, extra={"pool_id": self._pool_id})
            self._failing = True

    def close(self) -> None:
        """Nothing is written for now."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # a line that did not fit on the disk, which has been said
                file.close()

    def _rotate(self) -> None:
        self.close()
        self.path.replace(self.path.with_name(f"{self.path.name}.1"))
        self._file = self.path.open("ab")
