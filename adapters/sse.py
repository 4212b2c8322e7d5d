"""Server-sent events out of the bytes that an engine sends, whatever the cuts between reads.

Decides where an event begins and ends, what its data is, and when it is too large. Works on bytes, so a character that
is cut in two is no concern. Never decides what an event means.
"""

from __future__ import annotations

from adapters.base import EngineError, Failure

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""No engine sends an event that long; one that does is not speaking this protocol."""
_DATA = b"data: "
_BETWEEN = b"\n\ndata: "


class SseParser:
    """Feed it the reads of one stream; it answers with the data of the events that they complete.

    Lines end in LF, CRLF or CR; comments and the fields ``event``, ``id`` and ``retry`` are passed over.
    ``max_event_bytes`` bounds one event, and with it what is kept between two reads.
    """

    __slots__ = ("_after_cr", "_max_event_bytes", "_pending")

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that ends in this read, in order.

        Raises EngineError (protocol) for an event that is too large, complete or not.
        """
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_line_feeds(chunk)
        pending = self._pending
        if not pending and chunk.endswith(b"\n\n") and len(chunk) <= self._max_event_bytes:
            return _data_of(chunk[:-2])  # whole events: what one write of an engine nearly always is
        unseen = max(len(pending) - 1, 0)
        pending += chunk
        end = pending.rfind(b"\n\n", unseen)
        if end < 0:
            # One byte less: behind a full event the first of its two line feeds may already stand.
            self._check_size(len(pending) - 1)
            return []
        blocks = bytes(pending[:end])
        del pending[: end + 2]
        if len(blocks) > self._max_event_bytes:
            self._check_size(max(map(len, blocks.split(b"\n\n"))))
        self._check_size(len(pending) - 1)
        return _data_of(blocks)

    def finish(self) -> bool:
        """At the end of the stream: whether it ended inside an event."""
        return bool(self._pending.strip(b"\n"))

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        """The same lines with LF alone; a CRLF may lie across two reads."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _check_size(self, size: int) -> None:
        if size > self._max_event_bytes:
            raise EngineError(Failure.PROTOCOL, f"the engine sent an event of more than {self._max_event_bytes} bytes")


def _data_of(blocks: bytes) -> list[bytes]:
    """The data of events that are separated by an empty line."""
    if blocks.startswith(_DATA):
        # What engines send nearly always, one ``data: `` line an event, costs no Python per event. That no line feed
        # is left over after the cut proves that there was nothing else.
        events = blocks[len(_DATA) :].split(_BETWEEN)
        if blocks.count(b"\n") == 2 * (len(events) - 1):
            return events
    found = (_event_data(block) for block in blocks.split(b"\n\n"))
    return [data for data in found if data is not None]


def _event_data(block: bytes) -> bytes | None:
    """The data of one event; None where it has none, such as a comment that keeps the connection alive."""
    lines: list[bytes] = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            lines.append(value)
        elif name == b"error":
            # Older builds of llama-server report a failure in a field of this name instead of in the data.
            lines.append(b'{"error":' + value + b"}")
    return b"\n".join(lines) if lines else None
