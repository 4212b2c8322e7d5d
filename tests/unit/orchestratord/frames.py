"""Server-sent events read the slow, literal way, as a client would."""

from typing import Any

import msgspec

from contracts.events import Token


class Frame(msgspec.Struct, frozen=True):
    """One event. ``number``: its SSE id; ``raw``: its data before decoding."""

    event: str
    number: int | None
    raw: str

    @property
    def data(self) -> Any:  # noqa: ANN401 - each event has fields of its own
        return msgspec.json.decode(self.raw)


def frames_of(stream: bytes) -> list[Frame]:
    """Every complete event; comments are left out. Lines end as the SSE standard says: CRLF, LF or CR."""
    lines = stream.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")
    frames = []
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif fields:
            number = int(fields["id"]) if "id" in fields else None
            frames.append(Frame(event=fields["event"], number=number, raw=fields["data"]))
            fields = {}
    assert not fields, f"the stream breaks off inside an event: {fields}"
    return frames


def events_of(stream: bytes) -> list[str]:
    """The names of the events, in order."""
    return [frame.event for frame in frames_of(stream)]


def tokens_of(stream: bytes) -> list[Token]:
    """The token events."""
    return [msgspec.json.decode(frame.raw, type=Token) for frame in frames_of(stream) if frame.event == "token"]


def text_of(stream: bytes) -> str:
    """The text that was generated."""
    return "".join(token.t for token in tokens_of(stream))
