"""A connected socket under a protocol: an asyncio transport without what a connection for one answer never uses.

Decides how much one read takes. Reading begins with the making of it, and closing is done when it was asked for: no
turn of the loop lies between. Never connects, knows no TLS, and calls nothing of the protocol once it was aborted.
"""

from __future__ import annotations

import asyncio
import socket

READ_BYTES = 64 * 1024


class PlainSocket:
    """The part of ``asyncio.Transport`` that an ``EngineConnection`` uses."""

    __slots__ = ("_loop", "_protocol", "_socket", "_unsent")

    def __init__(self, loop: asyncio.AbstractEventLoop, connected: socket.socket, protocol: asyncio.Protocol) -> None:
        self._loop = loop
        self._protocol = protocol
        self._socket: socket.socket | None = connected
        """None once it is closed."""
        self._unsent = b""
        loop.add_reader(connected, self._read)

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._socket is None

    def write(self, data: bytes) -> None:
        """Send, now or as soon as the kernel takes it."""
        if self._socket is None:
            return
        if self._unsent:
            self._unsent += data
            return
        self._unsent = data
        self._loop.add_writer(self._socket, self._send)
        self._send()

    def pause_reading(self) -> None:
        """Let the other side wait."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)

    def resume_reading(self) -> None:
        """Go on."""
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._read)

    def abort(self) -> None:
        """Close now, whatever is on its way."""
        connected, self._socket = self._socket, None
        if connected is not None:
            self._loop.remove_reader(connected)
            if self._unsent:
                self._loop.remove_writer(connected)
            connected.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        if self._socket is None:  # it was closed in the turn in which it became readable
            return
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lose(error)
            return
        if data:
            self._protocol.data_received(data)
        else:
            self._lose(None)

    def _send(self) -> None:
        if self._socket is None:
            return
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # What the other side said before it left is still to be read, and then why it left.
            self._unsent = b""
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _lose(self, error: OSError | None) -> None:
        self.abort()
        self._protocol.connection_lost(error)
