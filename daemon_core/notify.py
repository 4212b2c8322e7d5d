"""What a daemon says to systemd: ready, still alive, reloading, stopping.

Decides nothing: the daemon says when. Outside of systemd every call does nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import sdnotify

PATIENCE_S = 2.0
"""So long what must not be lost may wait for the service manager."""


class Notifier:
    """The notification socket of a unit of Type=notify. It is there when NOTIFY_SOCKET is set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # sdnotify reads the process's own environment; without the variable it would keep a socket for nothing.
        self._systemd = sdnotify.SystemdNotifier() if environ.get("NOTIFY_SOCKET") else None
        self._owes_ready = False
        if self._systemd is not None and self._systemd.socket is not None:
            # A manager that does not read must not stop the daemon: what does not fit is lost, and nothing waits.
            self._systemd.socket.settimeout(0)
            self._systemd.debug = True  # it tells then what was not taken
        self._status = ""
        self._troubles: dict[str, str] = {}

    @property
    def heard(self) -> bool:
        """Whether there is a service manager that listens."""
        return self._systemd is not None

    def ready(self, status: str = "") -> None:
        """The daemon accepts requests; also ends a reload. A start is for nothing where this is lost.

        Where the manager does not take it in time, it is told again beside the watchdog, until it is taken.
        """
        with self._patiently():
            self._owes_ready = not self._send("READY=1", status)

    def status(self, status: str) -> None:
        """The line that ``systemctl --user status`` shows."""
        self._send("", status)

    def trouble(self, about: str, text: str) -> None:
        """What the status line says besides, whatever else it says, until it is over: then ``text`` is empty."""
        if self._troubles.get(about, "") != text:
            self._troubles[about] = text
            self._send("", self._status or "running")

    def watchdog(self) -> None:
        """The event loop turns, and who works in it lives."""
        if self._owes_ready:
            self._owes_ready = not self._send("READY=1", self._status)
        self._send("WATCHDOG=1")

    def watchdog_failed(self) -> None:
        """Do what the watchdog would do, now."""
        self._send("WATCHDOG=trigger")

    def reloading(self) -> None:
        """The configuration is being read again; ``ready`` says when that is over."""
        self._owes_ready = False
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={usec}")

    def stopping(self, status: str = "") -> None:
        """The daemon drains."""
        self._owes_ready = False
        self._send("STOPPING=1", status)

    def extend(self, seconds: float) -> None:
        """What is being done now, a stop for example, may take so long, also where the unit gives it less."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def keep(self, name: str, descriptor: int) -> bool:
        """Have the service manager keep a copy of this descriptor for the next start; False where it does not hear."""
        if self._systemd is None or self._systemd.socket is None:
            return False
        try:
            with self._patiently():
                told = f"FDSTORE=1\nFDNAME={name}".encode("ascii")
                socket.send_fds(self._systemd.socket, [told], [descriptor])
        except OSError:
            return False
        return True

    def let_go(self, name: str) -> None:
        """Have the service manager close what it keeps under this name."""
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def close(self) -> None:
        """Say nothing more."""
        if self._systemd is not None and self._systemd.socket is not None:
            self._systemd.socket.close()
        self._systemd = None

    @contextmanager
    def _patiently(self) -> Iterator[None]:
        """Wait a moment for a manager that is behind."""
        channel = None if self._systemd is None else self._systemd.socket
        if channel is not None:
            channel.settimeout(PATIENCE_S)
        try:
            yield
        finally:
            if channel is not None:
                channel.settimeout(0)

    def _send(self, state: str, status: str = "") -> bool:
        """Whether the manager has it, or there is none."""
        if self._systemd is None:
            return True
        lines = [state] if state else []
        if status:
            self._status = status
            whole = "; ".join([status, *(each for each in self._troubles.values() if each)])
            # sdnotify encodes Latin-1, and a line break would begin another assignment.
            lines.append("STATUS=" + " ".join(whole.split()).encode("ascii", "replace").decode())
        try:
            self._systemd.notify("\n".join(lines))
        except OSError:
            return False
        return True


def watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """How often to feed the watchdog, in seconds: twice in its time; None where no watchdog waits for us."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2 / 1_000_000
