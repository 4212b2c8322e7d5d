"""What a daemon's service manager kept for it over a restart: open sockets, each under a name.

Decides what such a name looks like, and which descriptors are ours. A descriptor that nobody asks for is closed: a port
that the configuration no longer names must not stay open.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

FIRST = 3
"""systemd passes descriptors from here on."""
MOST_NAME = 255


def name_of(purpose: str, address: str) -> str:
    """The name of a socket that listens on ``address``: printable ASCII without the colon, which separates names."""
    told = "".join(each if "!" <= each <= "~" and each != ":" else "_" for each in f"{purpose}-{address}")
    return told[:MOST_NAME]


def passed(environ: Mapping[str, str], pid: int) -> tuple[tuple[str, int], ...]:
    """Names and numbers of the descriptors that this process was passed."""
    count, names = environ.get("LISTEN_FDS", ""), environ.get("LISTEN_FDNAMES", "").split(":")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdecimal():
        return ()
    named = [*names, *[""] * int(count)][: int(count)]
    return tuple((name, FIRST + number) for number, name in enumerate(named))


class KeptSockets:
    """The sockets that were passed to this process. Each is given out once; ``close_rest`` closes the others."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._left = list(passed(environ, os.getpid()))
        for _, descriptor in self._left:
            os.set_inheritable(descriptor, False)  # noqa: FBT003 - the standard library's own signature

    def take(self, name: str) -> socket.socket | None:
        """The listening socket of this name, where it was kept."""
        for each in self._left:
            if each[0] == name:
                self._left.remove(each)
                return _listening(each[1])
        return None

    def close_rest(self) -> tuple[str, ...]:
        """Close what nobody took, also the service manager's copy of it; the answer names it."""
        gone, self._left = self._left, []
        for _, descriptor in gone:
            if (found := _listening(descriptor)) is not None:
                with found, suppress(OSError):
                    found.shutdown(socket.SHUT_RDWR)  # a copy that listens would keep the address from us
        return tuple(name for name, _ in gone)


def _listening(descriptor: int) -> socket.socket | None:
    """The socket behind a descriptor; None for anything else, which is closed."""
    try:
        found = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None
    if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        found.close()
        return None
    found.setblocking(False)  # noqa: FBT003 - as above
    return found
