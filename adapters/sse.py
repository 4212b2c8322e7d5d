"""Server-sent events out of the bytes that an engine sends, whatever the cuts between reads.

Decides where an event begins and ends and what its data is. Works on bytes, so a character that is cut in two is no
concern; comments (pings) and fields other than ``data`` are passed over. Never decides what an event means.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""No engine sends an event that long; one that does is not speaking this protocol."""


class EventTooLongError(ValueError):
    """An event passed the limit before its end came."""


class SseParser:
    """Feed it reads; it answers with the data of the events that are complete."""

    __slots__ = ("_limit", "_rest")

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._rest = b""
        self._limit = limit

    @property
    def pending(self) -> bool:
        """Whether an event has begun and not ended."""
        return bool(self._rest.strip(b"\r\n"))

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that ends in this read, in order; events without data are passed over.

        Raises EventTooLongError.
        """
        text = self._rest + chunk if self._rest else chunk
        if b"\r" in text:
            text = self._unify(text)
        blocks = text.split(b"\n\n")
        self._rest = blocks.pop()
        if len(self._rest) > self._limit:
            message = f"an event of more than {self._limit} bytes"
            raise EventTooLongError(message)
        return [data for block in blocks if (data := _data(block)) is not None]

    def _unify(self, text: bytes) -> bytes:
        """Every line end as LF; a CR at the very end may be half of a CRLF and is judged with the next read."""
        held = text.endswith(b"\r")
        body = text[:-1] if held else text
        return body.replace(b"\r\n", b"\n").replace(b"\r", b"\n") + (b"\r" if held else b"")


def _data(block: bytes) -> bytes | None:
    """The data of one event. Nearly always the block is one line that begins with ``data: ``."""
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
