"""A stream's bytes played to a reader, however they are cut."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from adapters.base import EngineError, Failure, Finished
from adapters.sse import SseParser
from adapters.streaming import Reader

Seen = tuple[str, Finished | None, Failure | None]
"""The whole text, and the end: good or bad."""


def events_of(*data: bytes, start: bytes = b"data: ") -> bytes:
    """The bytes of these events."""
    return b"".join(start + each + b"\n\n" for each in data)


def played(reader: Reader, reads: Sequence[bytes]) -> Seen:
    """What a consumer sees that stops at the end or at a failure."""
    parser, text = SseParser(), ""
    for read in reads:
        events = parser.feed(read)
        batch = reader.batch(events) if events else None
        if batch is not None:
            text += "".join(batch.texts)
            if batch.finished is not None:
                return text, batch.finished, None
        if reader.failure is not None:
            return text, None, reader.failure.failure
    if parser.finish():
        return text, None, Failure.BROKEN
    try:
        finished = reader.at_end()
    except EngineError as error:
        return text, None, error.failure
    return text, finished, Failure.BROKEN if finished is None else None


def cuts(whole: bytes) -> st.SearchStrategy[list[bytes]]:
    """Every way to cut it into reads."""
    places = st.lists(st.integers(0, len(whole)), max_size=8).map(sorted)
    return places.map(lambda at: [whole[a:b] for a, b in zip([0, *at], [*at, len(whole)], strict=True)])
