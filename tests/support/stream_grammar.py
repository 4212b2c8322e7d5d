"""What a task's stream may look like, checked as a client with a rule book would.

``check`` answers with what the stream said, or raises StreamWrongError with the first rule that it breaks. Every test
that reads a stream may use it; ``tests/contract/test_stream_grammar.py`` feeds it streams that break each rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from contracts import events

KINDS: dict[str, type[msgspec.Struct]] = {
    "started": events.Started,
    "token": events.Token,
    "metrics": events.Metrics,
    "end": events.End,
    "error": events.StreamError,
}
TERMINAL = ("end", "error")


class StreamWrongError(AssertionError):
    """The stream breaks a rule."""


class Said(msgspec.Struct, frozen=True):
    """What a stream said."""

    names: list[str]
    """The events in order."""
    started: events.Started | None
    tokens: list[events.Token]
    metrics: list[events.Metrics]
    end: events.End | None
    error: events.StreamError | None

    @property
    def text(self) -> str:
        """The text that was generated."""
        return "".join(token.t for token in self.tokens)

    @property
    def terminal(self) -> events.End | events.StreamError:
        """How it ended."""
        found = self.end or self.error
        assert found is not None
        return found


def check(stream: bytes, *, after: int = -1, whole: bool = True) -> Said:
    """Hold a stream to the grammar: started?, token*, metrics anywhere, exactly one end or error, then nothing.

    ``after``: the reader had asked for what is behind this token. ``whole``: it read to the end of the body.
    """
    said = _Reader(after)
    for block in _blocks(stream, whole=whole):
        said.take(*_event(block))
    if whole:
        said.ended()
    return said.said


def _blocks(stream: bytes, *, whole: bool) -> list[str]:
    try:
        text = stream.decode()
    except UnicodeDecodeError as error:
        if whole:
            raise StreamWrongError(f"it is not UTF-8: {error}") from error
        text = stream[: stream.rfind(b"\n\n") + 2].decode()
    _rule("\r" not in text, "a line ends in more than a line feed")
    *blocks, rest = text.split("\n\n")
    _rule(not rest or not whole, f"it breaks off inside an event: {rest!r}")
    return [block for block in blocks if not all(line.startswith(":") for line in block.split("\n"))]


def _event(block: str) -> tuple[str, int | None, msgspec.Struct]:
    fields: dict[str, str] = {}
    for line in block.split("\n"):
        if line.startswith(":"):
            continue
        name, colon, value = line.partition(": ")
        _rule(bool(colon) and name in {"event", "id", "data"}, f"no field of ours: {line!r}")
        _rule(name not in fields, f"the field {name} comes twice in one event")
        fields[name] = value
    kind = KINDS.get(fields.get("event", ""))
    _rule(kind is not None and "data" in fields, f"no event of ours: {block!r}")
    assert kind is not None
    try:
        data = msgspec.json.decode(fields["data"], type=kind)
        plain: dict[str, Any] = msgspec.json.decode(fields["data"])
    except (msgspec.DecodeError, RecursionError) as error:
        raise StreamWrongError(f"{fields['event']} has no data of its type: {error}") from error
    unknown = plain.keys() - set(kind.__struct_fields__)
    _rule(not unknown, f"{fields['event']} has undocumented fields: {sorted(unknown)}")
    _rule(None not in (plain[name] for name in plain if _never_null(kind, name)), f"null in {plain}")
    number = fields.get("id")
    _rule(number is None or number.isdecimal(), f"an id that is no number: {number!r}")
    return fields["event"], None if number is None else int(number), data


def _never_null(kind: type[msgspec.Struct], name: str) -> bool:
    info = next(field for field in msgspec.structs.fields(kind) if field.name == name)
    return info.default is UNSET


class _Reader:
    """Where a stream stands."""

    def __init__(self, after: int) -> None:
        self._resumed = after >= 0
        self._next = after + 1
        self._take: dict[str, Callable[[Any], None]] = {
            "started": self._started,
            "token": self._token,
            "metrics": lambda _: None,
            "end": self._end,
            "error": lambda _: None,
        }
        self.said = Said([], None, [], [], None, None)

    def take(self, name: str, number: int | None, data: msgspec.Struct) -> None:
        names = self.said.names
        _rule(not names or names[-1] not in TERMINAL, f"{name} comes after {names[-1] if names else ''}")
        _rule((number is None) == (name != "token"), f"{name} with the id {number}")
        _rule(number is None or number == getattr(data, "i", None), f"the id {number} is not the token's number")
        self._take[name](data)
        names.append(name)
        changes: dict[str, Any] = {}
        if name == "token":
            changes["tokens"] = [*self.said.tokens, data]
        elif name == "metrics":
            changes["metrics"] = [*self.said.metrics, data]
        else:
            changes[name] = data
        self.said = msgspec.structs.replace(self.said, **changes)

    def ended(self) -> None:
        names = self.said.names
        _rule(bool(names) and names[-1] in TERMINAL, f"it ends without end or error, after {names[-1:]}")

    def _started(self, _: events.Started) -> None:
        _rule("started" not in self.said.names, "started comes twice")
        _rule("token" not in self.said.names, "started comes after a token")

    def _token(self, token: events.Token) -> None:
        _rule(self._resumed or "started" in self.said.names, "a token comes before started")
        _rule(token.i == self._next, f"token {token.i} comes where {self._next} is due")
        self._next += 1

    def _end(self, end: events.End) -> None:
        cancelled = end.finish_reason is events.FinishReason.CANCELED
        _rule(cancelled or self._resumed or "started" in self.said.names, f"{end.finish_reason} of what never started")
        _rule(end.decode_ms == end.decode_time_ms, f"decode_ms {end.decode_ms} is not {end.decode_time_ms}")
        if not self._resumed:
            found = hashlib.sha256(self.said.text.encode()).hexdigest()
            _rule(end.stream_sha256 == found, f"stream_sha256 {end.stream_sha256} is not {found}")
            _rule(bool(self.said.text) or end.first_token_ms is None, "first_token_ms without a token")


def _rule(holds: bool, broken: str) -> None:
    if not holds:
        raise StreamWrongError(broken)
