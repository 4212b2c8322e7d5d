"""The answer to one HTTP/1.1 request, out of the bytes that an engine sends, whatever the cuts between reads.

Decides where its head and its body end, and what is no HTTP: a framing that two readers could read in two ways is
refused, never guessed at. Never decides what a status or a body means.
"""

from __future__ import annotations

import re

import msgspec

MAX_HEAD_BYTES = 64 * 1024
"""Of status line and headers, and again of the trailers; interim answers share the first."""
MAX_HEADERS = 128
MAX_SIZE_LINE = 4 * 1024
"""Of the line that says how long a chunk is."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNKS = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n")
_NAME = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*"'
_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})(?:;%b(?:=(?:%b|%b))?)*\r\n" % (_NAME, _NAME, _QUOTED))
_SIZE_BEGUN = re.compile(rb"(?:\r(?:\n(?:[0-9A-Fa-f]{1,15}(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r?)?)?)?")
_LAST = b"\r\n0\r\n\r\n"
"""The line end behind the last chunk that has something in it, and the end of a body without trailers."""
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_BODILESS = frozenset({204, 304})
_LAST_INTERIM = 199
_SWITCHING = 101


class Head(msgspec.Struct, frozen=True):
    """What came before the body."""

    status: int
    content_type: str
    """In lower case and without its parameters; empty where none was given."""
    keeps: bool = False
    """Whether the engine leaves the connection open for another request."""


class NotHttpError(ValueError):
    """The bytes are no answer that HTTP/1.1 allows."""


class AnswerParser:
    """Feed it the reads of one connection on which one request was sent.

    ``feed`` gives the part of the body that a read brought, also where the read goes wrong behind it: what went wrong
    then stands in ``fault``, and nothing more is read. What comes after a whole answer is passed over, and noted.
    """

    __slots__ = ("_chunked", "_left", "_pending", "_room", "begun", "complete", "excess", "fault", "head")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.begun = False
        """Something of it has come."""
        self.complete = False
        """The whole answer was there."""
        self.excess = False
        """Something came behind it, which nobody has asked for."""
        self.fault: NotHttpError | None = None
        self._chunked = False
        self._left: int | None = 0
        """Of the body, or of the present chunk; None where the body ends with the connection."""
        self._pending = b""
        """A part of the head, of the line before a chunk, or of the trailers, that is not whole."""
        self._room = MAX_HEAD_BYTES

    def feed(self, data: bytes) -> bytes:
        """The part of the body that this read brought."""
        pieces: list[bytes] = []
        self.begun = True
        if self.fault is not None:
            return b""
        try:
            if self.head is None:
                data = self._after_head(data)
            if self.head is not None:
                if self.complete:
                    self.excess = self.excess or bool(data)
                elif self._chunked:
                    self._take_chunks(data, pieces)
                else:
                    self._take_plain(data, pieces)
        except NotHttpError as error:
            self.fault = error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def finish(self) -> bool:
        """The connection has ended: whether the answer is whole."""
        if self.head is not None and not self._chunked and self._left is None:
            self.complete = True
        return self.complete

    # --- the head -----------------------------------------------------------------------------------------------------

    def _after_head(self, data: bytes) -> bytes:
        """Read heads until the final one; what stands behind it."""
        while self.head is None:
            lines, data = self._lines(data)
            if lines is None:
                if not self._pending.startswith(b"HTTP/1."[: len(self._pending)]):
                    raise NotHttpError("no status line")  # somebody who speaks otherwise may never end a line
                return b""
            self._read_head(lines)
        return data

    def _lines(self, data: bytes) -> tuple[list[bytes] | None, bytes]:
        """The lines before the empty one, and what stands behind it; None while it has not come."""
        seen, data = self._pending, self._pending + data
        end = data.find(b"\r\n\r\n", max(len(seen) - 3, 0))
        if (len(data) if end < 0 else end) > self._room:
            raise NotHttpError(f"more than {MAX_HEAD_BYTES} bytes around the body")
        if end < 0:
            _check_line_ends(data[max(len(seen) - 1, 0) :], inside=seen.endswith(b"\n"))
            self._pending = data
            return None, b""
        self._pending = b""
        self._room -= end
        return data[:end].split(b"\r\n"), data[end + 4 :]

    def _read_head(self, lines: list[bytes]) -> None:
        found = _STATUS_LINE.fullmatch(lines[0])
        if found is None:
            raise NotHttpError("no status line")
        headers = _headers(lines[1:])
        status = int(found[2])
        if status == _SWITCHING:
            raise NotHttpError("a change of protocol that nobody asked for")
        if status <= _LAST_INTERIM:
            return
        self._frame(status, headers, old=found[1] == b"0")
        kind = b"".join(headers.get(b"content-type", [])[:1])
        keeps = found[1] == b"1" and self._left is not None and not _closing(headers)
        self.head = Head(status, kind.partition(b";")[0].strip().lower().decode("latin-1"), keeps)

    def _frame(self, status: int, headers: dict[bytes, list[bytes]], *, old: bool) -> None:
        """How the end of the body is known."""
        coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        if coding is not None:
            if length is not None or old or [each.lower() for each in coding] != [b"chunked"]:
                raise NotHttpError("a transfer coding that cannot be read")
            self._chunked, self._pending = True, b"\r\n"
        elif length is not None:
            if len(length) > 1 or _LENGTH.fullmatch(length[0]) is None:
                raise NotHttpError("a length that is none")
            self._left = int(length[0])
        else:
            self._left = None
        if status in _BODILESS:
            self._chunked, self._left = False, 0
        self.complete = not self._chunked and self._left == 0

    # --- the body -----------------------------------------------------------------------------------------------------

    def _take_plain(self, data: bytes, pieces: list[bytes]) -> None:
        if self._left is not None:
            self.excess = len(data) > self._left
            data = data[: self._left]
            self._left -= len(data)
            self.complete = not self._left
        if data:
            pieces.append(data)

    def _take_chunks(self, data: bytes, pieces: list[bytes]) -> None:
        """Read whole and begun chunks. The line end behind a chunk counts to the line of the next one's size."""
        left = self._left
        if left is None:  # within the trailers
            self._skip_trailers(data)
            return
        if left:
            pieces.append(data[:left])
            self._left = left = left - len(pieces[-1])
            if left:
                return
            data = data[len(pieces[-1]) :]
        if self._pending:
            data, self._pending = self._pending + data, b""
        if data.endswith(_LAST) and _take_whole_chunks(data[: 2 - len(_LAST)], pieces):
            self.complete = True
        elif not _take_whole_chunks(data, pieces):
            self._take_each_chunk(data, pieces)
        elif data:
            self._pending = b"\r\n"

    def _take_each_chunk(self, data: bytes, pieces: list[bytes]) -> None:
        at = 0
        while line := _SIZE.match(data, at):
            if line.end() - at > MAX_SIZE_LINE:
                break
            size, at = int(line[1], 16), line.end()
            if not size:
                self._left = None
                self._skip_trailers(b"\r\n" + data[at:])
                return
            piece = data[at : at + size]
            at += len(piece)
            if piece:
                pieces.append(piece)
            self._left = size - len(piece)
            if self._left:
                return
        rest = data[at:]
        if len(rest) > MAX_SIZE_LINE or _SIZE_BEGUN.fullmatch(rest) is None:
            raise NotHttpError("a chunk whose size cannot be read")
        self._pending = rest

    def _skip_trailers(self, data: bytes) -> None:
        """Headers behind the body say nothing to us; their end is the end of the answer."""
        lines, behind = self._lines(data)
        if lines is not None:
            if _headers(lines[1:]).keys() & _FRAMING:
                raise NotHttpError("a framing behind the body")
            self.complete, self.excess = True, bool(behind)


def _take_whole_chunks(data: bytes, pieces: list[bytes]) -> bool:
    """Where a read ends with a chunk, as nearly every read does: all chunks at once, at no cost in Python for each.

    That every piece between what looks like two sizes has the size before it proves that all of them were sizes.
    """
    if not data.endswith(b"\r\n"):
        return False
    parts = _CHUNKS.split(data[:-2])
    found = parts[2::2]
    if parts[0] or not found or 0 in (sizes := [int(size, 16) for size in parts[1::2]]):
        return False
    if [*map(len, found)] != sizes:
        return False
    pieces += found
    return True


def _closing(headers: dict[bytes, list[bytes]]) -> bool:
    """Whether the connection ends with this answer."""
    return any(b"close" in map(bytes.strip, each.lower().split(b",")) for each in headers.get(b"connection", []))


def _headers(lines: list[bytes]) -> dict[bytes, list[bytes]]:
    if len(lines) > MAX_HEADERS:
        raise NotHttpError(f"more than {MAX_HEADERS} headers")
    headers: dict[bytes, list[bytes]] = {}
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            raise NotHttpError("a header that is none")
        headers.setdefault(found[1].lower(), []).append(found[2].rstrip(b" \t"))
    return headers


def _check_line_ends(data: bytes, *, inside: bool) -> None:
    """Refuse other line ends as soon as they come: the empty line may never. ``inside``: it begins with half of one."""
    whole = data.count(b"\r\n")
    if data.count(b"\n") - inside != whole or data.count(b"\r") - data.endswith(b"\r") != whole:
        raise NotHttpError("a line that ends otherwise than HTTP's")
