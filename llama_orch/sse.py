"""Server-sent events out of the pieces in which they arrive.

Decides where an event ends and which of ours it is. Comments and kinds of event that this version does not know are
passed over, so a newer server can say more. Never reads a socket.
"""

from __future__ import annotations

from types import MappingProxyType

import msgspec

from contracts.events import End, Metrics, Started, StreamError, Token

StreamEvent = Started | Token | Metrics | End | StreamError

MAX_EVENT_BYTES = 8 << 20
_DECODERS: MappingProxyType[bytes, msgspec.json.Decoder[StreamEvent]] = MappingProxyType(
    {
        b"started": msgspec.json.Decoder(Started),
        b"token": msgspec.json.Decoder(Token),
        b"metrics": msgspec.json.Decoder(Metrics),
        b"end": msgspec.json.Decoder(End),
        b"error": msgspec.json.Decoder(StreamError),
    }
)


class SseError(Exception):
    """What arrives is no stream of ours."""


class SseParser:
    """Takes bytes in any cut and gives whole events in their order."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[StreamEvent]:
        """The events that these bytes complete. Raises SseError where they are none of ours."""
        self._buffer += data
        if b"\r" in self._buffer:
            self._buffer = self._buffer.replace(b"\r\n", b"\n")
        *blocks, self._buffer = self._buffer.split(b"\n\n")
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise SseError(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return [event for block in blocks if (event := _event(block)) is not None]


def _event(block: bytes) -> StreamEvent | None:
    kind, data = b"message", []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            kind = value
        elif name == b"data":
            data.append(value)
    decoder = _DECODERS.get(kind)
    if decoder is None or not data:
        return None
    try:
        return decoder.decode(b"\n".join(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SseError(f"the event {kind.decode(errors='replace')!r} cannot be read: {error}") from error
