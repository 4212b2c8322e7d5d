"""Asks the kernel whether a server could listen on an address of this machine.

Decides nothing, and keeps nothing open: a moment later it may be otherwise.
"""

from __future__ import annotations

import socket


def refusal(host: str, port: int) -> OSError | None:
    """Why a server could not listen on this IP address, or this name's IPv4 address, and port; None where it could."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            # As servers do: connections that linger from an earlier listener are no obstacle.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
    except OSError as error:
        return error
    return None
