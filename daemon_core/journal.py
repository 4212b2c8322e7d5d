"""The way into systemd's journal: datagrams of its native protocol, which keep a line's fields apart.

Decides what happens where the journal does not take an entry at once. It never makes its caller wait: while the journal
is busy, entries queue here, up to a bound, and a thread sends them; what finds no room is counted, and the journal is
told. A journal that is not there at all is said to the caller, who has other ways. At the end it waits a moment for the
journal to have read what was sent: whose an entry is, the journal asks when it reads it, and of a process that is gone
by then it learns no user and no unit, so that nobody finds its last lines.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import termios
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

ADDRESS = "/run/systemd/journal/socket"
STREAM_VARIABLE = "JOURNAL_STREAM"
"""Device and inode of the socket that the service manager gave as standard output and error."""
MAX_DATAGRAM_BYTES = 128 << 10
"""The kernel takes longer ones on most machines; how long depends on the machine."""
MAX_WAITING_BYTES = 8 << 20
PATIENCE_S = 1
"""How long the end of a program waits for a journal that is busy."""
_LOOK_S = 0.002
"""How often it looks meanwhile: nothing tells it."""
_SEND_BUFFER = 8 << 20
_TOO_LONG = frozenset({errno.EMSGSIZE, errno.ENOBUFS})
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def reads(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether what is written to this descriptor goes to the journal."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get(STREAM_VARIABLE) == f"{found.st_dev}:{found.st_ino}"


class Journal:
    """Sends entries. ``about_loss`` makes the entry that says how many were lost."""

    def __init__(self, about_loss: Callable[[int], bytes], address: Path | str = ADDRESS) -> None:
        self._about_loss = about_loss
        self._address = str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)  # as much as the kernel gives
        # For the thread alone: all others say MSG_DONTWAIT.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", PATIENCE_S, 0))
        self._changed = threading.Condition()
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._waiting_bytes = 0
        self._lost = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def send(self, entry: bytes) -> bool:
        """Hand over an entry, now or a moment later; False where there is no journal. Never waits, never raises."""
        with self._changed:
            if self._closed:
                return False
            if not self._waiting:
                try:
                    self._put(entry, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pass
                except OSError:
                    return False
                else:
                    self._tell_of_loss()
                    return True
            if self._waiting_bytes + len(entry) > MAX_WAITING_BYTES:
                self._lost += 1
            else:
                self._keep(entry)
            return True

    def lose(self) -> None:
        """Count a line that had no other way either."""
        with self._changed:
            self._lost += 1

    def flush(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait until nothing waits any more, but not for ever; whether that came."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, patience_s)

    def close(self) -> None:
        """Send what waits, as far as the journal takes and reads it in time, and nothing after that."""
        with self._changed:
            if self._closed:
                return
        if self.flush():
            self._until_read()
        with self._changed:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join(2 * PATIENCE_S)
        self._socket.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _until_read(self) -> None:
        due = time.monotonic() + PATIENCE_S
        while self._unread() and time.monotonic() < due:
            time.sleep(_LOOK_S)

    def _unread(self) -> int:
        """Bytes that were sent, which the journal has not read."""
        return int.from_bytes(fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def _keep(self, entry: bytes, lines: int = 1) -> None:
        """Queue an entry for the thread; so many lines are lost where it is."""
        self._waiting.append((entry, lines))
        self._waiting_bytes += len(entry)
        if self._thread is None:
            self._thread = threading.Thread(target=self._drain, name="journal", daemon=True)
            self._thread.start()

    def _tell_of_loss(self) -> None:
        if self._lost:
            self._keep(self._about_loss(self._lost), self._lost)
            self._lost = 0

    def _drain(self) -> None:
        while (entry := self._next()) is not None:
            try:
                self._put(entry, 0)
            except BlockingIOError:
                continue  # PATIENCE_S have passed, and the journal is still busy
            except OSError:
                self._done(went=False)
            else:
                self._done(went=True)

    def _next(self) -> bytes | None:
        with self._changed:
            if self._closed or not self._waiting:
                self._thread = None
                return None
            return self._waiting[0][0]

    def _done(self, *, went: bool) -> None:
        with self._changed:
            entry, lines = self._waiting.popleft()
            self._waiting_bytes -= len(entry)
            if not went:
                self._lost += lines
            elif not self._waiting:
                self._tell_of_loss()
            if not self._waiting:
                self._changed.notify_all()

    def _put(self, entry: bytes, flags: int) -> None:
        if len(entry) <= MAX_DATAGRAM_BYTES:
            try:
                self._socket.sendto(entry, flags, self._address)
                return
            except OSError as error:
                if error.errno not in _TOO_LONG:
                    raise
        self._put_file(entry, flags)

    def _put_file(self, entry: bytes, flags: int) -> None:
        """What is too long for a datagram goes as a sealed file in memory, whose descriptor the datagram carries."""
        descriptor = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(entry)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", descriptor))
            self._socket.sendmsg([b""], [rights], flags, self._address)
        finally:
            os.close(descriptor)
