"""A line of the log, as the journal's JSON has it and as the files of the pools do.

Decides which fields of an entry are ours and what they are called then. Values in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from msgspec import field

from contracts.base import Message
from daemon_core.journal_entry import CORRELATION_ID, ENGINE_SOURCE, POOL, PREFIX, SOURCE, TASK_ID, TIME_MS
from llama_orch.proof.log_lines import MARK

INFO = 6
LEVELS = ("critical", "critical", "critical", "error", "warning", "info", "info", "debug")
"""By the journal's priority."""
_SHOWN = frozenset({POOL, CORRELATION_ID, TASK_ID, SOURCE, TIME_MS})

Values = Mapping[str, tuple[str, ...]]


class Line(Message, frozen=True, kw_only=True):
    """One line, whatever it came from."""

    message: str
    source: str
    """``orchestratord``, ``pool-managerd``, ``engine``; or who else spoke of them, as ``systemd``."""
    priority: int = INFO
    time_ms: int | None = None
    logger: str | None = None
    pool_id: str | None = None
    task_id: str | None = None
    correlation_ids: tuple[str, ...] = ()
    more: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    """The other fields of ours, by the names that log lines give them."""

    def as_object(self) -> dict[str, object]:
        """For programs, by the names of a JSON log line; what is not known is not there."""
        moment = None if self.time_ms is None else datetime.fromtimestamp(self.time_ms / 1000, tz=UTC)
        known: dict[str, object] = {
            "time": None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": LEVELS[self.priority],
            "logger": self.logger,
            "message": self.message,
            "service": self.source,
            "pool_id": self.pool_id,
            "task_id": self.task_id,
            "correlation_ids": self.correlation_ids or None,
            **self.more,
        }
        return {name: value for name, value in known.items() if value is not None}


def of_the_journal(data: bytes | str) -> Line | None:
    """A line of ``journalctl --output=json``; None where it is none."""
    try:
        raw = msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    values = {name: _values(value) for name, value in raw.items()}
    message = _first(values, "MESSAGE")
    if message is None:
        return None
    identifier = _first(values, "SYSLOG_IDENTIFIER") or _first(values, "_COMM") or "?"
    time_ms = _number(_first(values, TIME_MS))
    written_us = _number(_first(values, "__REALTIME_TIMESTAMP"))
    ours = {name: each for name, each in values.items() if name.startswith(PREFIX) and name not in _SHOWN}
    return Line(
        message=_sentence(message),
        source=_first(values, SOURCE) or identifier,
        priority=min(7, max(0, _number(_first(values, "PRIORITY"), INFO) or 0)),
        time_ms=time_ms if time_ms is not None or written_us is None else written_us // 1000,
        logger=_first(values, "LOGGER"),
        pool_id=_first(values, POOL),
        task_id=_first(values, TASK_ID),
        correlation_ids=values.get(CORRELATION_ID, ()),
        more={
            name.removeprefix(PREFIX).lower(): each[0] if len(each) == 1 else each
            for name, each in ours.items()
            if each
        },
    )


def of_a_file(text: str, pool_id: str) -> Line:
    """A line of a pool's file."""
    said, mark, ids = text.rpartition(MARK)
    correlation_ids = tuple(each for each in ids.split(",") if not each.startswith("+")) if mark else ()
    return Line(message=said if mark else text, source=ENGINE_SOURCE, pool_id=pool_id, correlation_ids=correlation_ids)


def _values(value: object) -> tuple[str, ...]:
    """A field is text, or the bytes of a text that is none, or several of them; null where it was too long."""
    match value:
        case str():
            return (value,)
        case list() if value and all(isinstance(each, int) for each in value):
            return (bytes(each & 0xFF for each in value).decode(errors="replace"),)
        case list():
            return tuple(text for each in value for text in _values(each))
        case _:
            return ()


def _first(values: Values, name: str) -> str | None:
    found = values.get(name, ())
    return found[0] if found else None


def _number(text: str | None, default: int | None = None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text, re.ASCII) else default


def _sentence(message: str) -> str:
    """What was said, where the daemons write JSON lines (``logging.format``)."""
    if not message.startswith('{"time":'):
        return message
    try:
        line = msgspec.json.decode(message, type=dict[str, object])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return message
    parts = (line.get("message"), line.get("exception"), line.get("stack"))
    return "\n".join(part for part in parts if isinstance(part, str)) or message
