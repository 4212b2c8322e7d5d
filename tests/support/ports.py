"""Ports of the loopback for programs that are told theirs before they listen.

The kernel gives a port that was free a moment ago to whoever asks next for any; one that is held it gives to nobody.
"""

from __future__ import annotations

import contextlib
import socket


class HeldPort:
    """A port that is bound, and at which nobody listens: a server that sets SO_REUSEADDR, as servers do, gets it."""

    def __init__(self) -> None:
        self._socket = _bound()
        self.number = _number_of(self._socket)

    def close(self) -> None:
        """Let it go."""
        self._socket.close()


def free_port() -> int:
    """A port at which nobody listens now; who is to listen there for certain holds one."""
    return free_ports(1)[0]


def free_ports(count: int) -> tuple[int, ...]:
    """So many of them, no two the same."""
    with contextlib.ExitStack() as stack:
        return tuple(_number_of(stack.enter_context(_bound())) for _ in range(count))


def _bound() -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", 0))
    return made


def _number_of(bound: socket.socket) -> int:
    return int(bound.getsockname()[1])
