"""A task's stream: every event in order, already encoded, for any number of readers.

Decides order, framing and numbering: once closed by its one terminal event a log takes nothing more, token numbers have
no gaps, and the hash covers exactly the text that was framed. Never waits and never writes to a socket: a reader keeps
its own offset into the bytes and is woken when there is more, so a slow one slows nobody.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

import msgspec

from contracts.base import Message
from contracts.events import End, Metrics, Started, StreamError

PARTING = b": orchestratord is stopping; come back with Last-Event-ID and nothing is lost\n\n"

_encoder = msgspec.json.Encoder()
_encode = _encoder.encode


class StreamClosedError(RuntimeError):
    """Something was appended after the terminal event: a mistake in the caller."""


class StreamLog:
    """The encoded stream of one task.

    The SSE frames stand in one growing buffer. JSON escapes every line break, so a line ``id: N`` can only be framing,
    and a returning reader's place is found by searching for it.
    """

    __slots__ = ("_buffer", "_hash", "_wakers", "ahead", "closed", "parted", "tokens")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._hash: hashlib._Hash | None = hashlib.sha256()
        """None for one that was read again and has ended: it will take nothing more, and nearly nobody asks."""
        self._wakers: list[Callable[[], None]] = []
        self.tokens = 0
        """How many token events there are: the number of the next one."""
        self.closed = False
        self.parted = False
        """The daemon ends before the task does: readers are let go without a terminal event, and may come back."""
        self.ahead: Callable[[bytes], None] | None = None
        """Told of every frame but the last before any reader is."""

    @classmethod
    def restored(cls, frames: bytes, outcome: End | StreamError | None) -> StreamLog:
        """A log from its frames; with an outcome it has ended, and that is its last frame."""
        log = cls()
        log._buffer += frames
        log.tokens = frames.count(b"event: token\nid: ")
        if outcome is None:
            log._hash = hashlib.sha256(text_of(frames).encode())
        else:
            log._hash = None
            log.finish(outcome)
        return log

    @property
    def over(self) -> bool:
        """Whether nothing will be appended any more."""
        return self.closed or self.parted

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def text_sha256(self) -> str:
        """Over the concatenated UTF-8 of every token's text so far."""
        known = self._hash or hashlib.sha256(text_of(self._buffer).encode())
        return known.hexdigest()

    @property
    def readers(self) -> int:
        """How many readers are subscribed right now."""
        return len(self._wakers)

    def started(self, event: Started) -> None:
        """The task has a slot."""
        self._append(_frame(b"started", event))

    def metrics(self, event: Metrics) -> None:
        """Something is worth saying while the task waits or runs."""
        self._append(_frame(b"metrics", event))

    def texts(self, texts: list[str]) -> None:
        """Everything one engine read brought, as numbered token events, in one pass."""
        frames = [
            b'event: token\nid: %d\ndata: {"t":%b,"i":%d}\n\n' % (number, _encode(text), number)
            for number, text in enumerate(texts, self.tokens)
        ]
        self._append(b"".join(frames), tokens=len(texts))
        if self._hash is not None:
            self._hash.update("".join(texts).encode())

    def finish(self, event: End | StreamError) -> None:
        """Close with the one terminal event."""
        self._append(_frame(b"end" if isinstance(event, End) else b"error", event), last=True)

    def part(self) -> None:
        """Let the readers go: this daemon has nothing more to say, and the next one may have."""
        self.parted = True
        self._buffer += PARTING
        for wake in self._wakers:
            wake()

    def read(self, offset: int, limit: int | None = None) -> bytes:
        """Everything from ``offset`` on; empty when there is nothing new.

        No more than ``limit`` bytes, cut between two frames; a frame that is larger comes alone.
        """
        if limit is None:
            return memoryview(self._buffer)[offset:].tobytes()  # copied once
        if len(self._buffer) - offset <= limit:
            return bytes(self._buffer[offset:])
        end = self._buffer.rfind(b"\n\n", offset, offset + limit)
        if end < 0:
            end = self._buffer.index(b"\n\n", offset)
        return bytes(self._buffer[offset : end + 2])

    def offset_after(self, number: int) -> int:
        """Where a reader goes on that has seen the token ``number``; 0 for -1, the last token's end for a later one.

        Where the tokens are lost, that is behind ``started``: who has seen one has seen that.
        """
        seen = min(number, self.tokens - 1)
        if number < 0:
            return 0
        start = self._buffer.find(b"event: started\n") if seen < 0 else self._buffer.index(b"\nid: %d\n" % seen)
        return 0 if start < 0 else self._buffer.index(b"\n\n", start) + 2

    def subscribe(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Have ``wake`` called after every append; answers with what ends that."""
        self._wakers.append(wake)
        return lambda: self._wakers.remove(wake)

    def _append(self, frames: bytes, *, tokens: int = 0, last: bool = False) -> None:
        if self.closed:
            message = "the stream has had its terminal event"
            raise StreamClosedError(message)
        if self.ahead is not None and not last:
            self.ahead(frames)
        self._buffer += frames
        self.tokens += tokens  # before anybody looks: a token goes out at once, all else has time
        self.closed = last
        for wake in self._wakers:
            wake()


_PIECE = re.compile(rb'\ndata: \{"t":"(.*)","i":')
"""A ``token`` event. A quotation mark inside a text is escaped, so a bare one ends it, and a line holds one event."""


def text_of(frames: bytes | bytearray) -> str:
    """The text of a stream: that of all its ``token`` events."""
    # JSON escapes each character by itself, so the escaped pieces together are the whole text escaped.
    return msgspec.json.decode(b'"%b"' % b"".join(_PIECE.findall(frames)), type=str)


def pieces_of(frames: bytes) -> list[str]:
    """The texts of a stream's ``token`` events."""
    return [msgspec.json.decode(b'"%b"' % piece, type=str) for piece in _PIECE.findall(frames)]


def with_pieces(frames: bytes, pieces: Sequence[str]) -> bytes:
    """A stream with other texts in its ``token`` events."""
    texts = iter(pieces)
    return _PIECE.sub(lambda _: b'\ndata: {"t":%b,"i":' % _encode(next(texts)), frames)


def _frame(name: bytes, event: Message) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, _encode(event))
