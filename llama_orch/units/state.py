"""What the service manager says of our units and of the engines' scopes, as values and as words.

Decides what of it an operator wants to see. Never asks: it is given the text, and now.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from contracts.base import Message
from llama_orch.amounts import size_text, span_text

PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "ExecMainStatus",
    "UnitFileState",
    "FragmentPath",
    "StateChangeTimestampMonotonic",
    "ActiveEnterTimestampMonotonic",
    "MainPID",
    "NRestarts",
    "WatchdogUSec",
    "WatchdogTimestampMonotonic",
    "MemoryCurrent",
    "TasksCurrent",
    "StatusText",
    "NeedDaemonReload",
    "ControlGroup",
)
ENGINES = "llama-orch-engines.slice"
_UNITS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|min|h|d)\b")


class UnitState(Message, frozen=True, kw_only=True):
    """A unit as the service manager has it. Spans are milliseconds; None for what a unit of its kind does not have."""

    name: str
    loaded: str
    active: str
    sub: str
    result: str | None = None
    exit_status: int | None = None
    enabled: str | None = None
    path: str | None = None
    since_ms: int | None = None
    """How long it has been in this state; a reload does not count as another one."""
    pid: int | None = None
    restarts: int | None = None
    watchdog_ms: int | None = None
    fed_ms: int | None = None
    """How long ago it last said that it lives."""
    memory_bytes: int | None = None
    tasks: int | None = None
    status: str | None = None
    """What it says of itself."""
    needs_reload: bool = False
    """Its file has changed since the service manager read it."""
    group: str | None = None

    @property
    def failed(self) -> bool:
        """Whether it is given up."""
        return self.active == "failed"


def read_states(text: str, now_us: int) -> tuple[UnitState, ...]:
    """What ``systemctl show`` printed; ``now_us`` is the monotonic clock."""
    return tuple(_state(fields, now_us) for fields in _paragraphs(text) if fields.get("Id"))


def engines_of(states: Sequence[UnitState]) -> tuple[UnitState, ...]:
    """The scopes in which engines run."""
    return tuple(state for state in states if state.group is not None and f"/{ENGINES}/" in state.group)


def state_text(state: UnitState) -> str:
    """``running``, ``failed: exit status 78``, ``not found``."""
    if state.loaded in {"not-found", "masked", "error", "bad-setting"}:
        return state.loaded.replace("-", " ")
    if state.failed:
        why = f"exit status {state.exit_status}" if state.result == "exit-code" else state.result or "failed"
        return f"failed: {why}"
    if state.active in {"active", "inactive"}:
        return state.active if state.sub in {"dead", "active"} else state.sub
    return f"{state.active} ({state.sub})"


def row(state: UnitState) -> tuple[object, ...]:
    """A unit as a line of the table."""
    runs = state.active == "active"
    fed = "" if state.fed_ms is None else f", fed {span_text(state.fed_ms / 1000)} ago"
    return (
        state.name.removesuffix(".service"),
        state_text(state),
        None if state.since_ms is None else span_text(state.since_ms / 1000),
        state.pid,
        None if state.memory_bytes is None else size_text(state.memory_bytes),
        state.restarts,
        f"{span_text(state.watchdog_ms / 1000)}{fed}" if state.watchdog_ms and runs else None,
    )


def _state(fields: Mapping[str, str], now_us: int) -> UnitState:
    watchdog = _span_us(fields.get("WatchdogUSec", ""))
    return UnitState(
        name=fields["Id"],
        loaded=fields.get("LoadState", ""),
        active=fields.get("ActiveState", ""),
        sub=fields.get("SubState", ""),
        result=fields.get("Result") or None,
        exit_status=_number(fields.get("ExecMainStatus")),
        enabled=fields.get("UnitFileState") or None,
        path=fields.get("FragmentPath") or None,
        since_ms=_ago_ms(fields.get(_since(fields.get("ActiveState", ""))), now_us),
        pid=_number(fields.get("MainPID")) or None,
        restarts=_number(fields.get("NRestarts")),
        watchdog_ms=watchdog // 1000 if watchdog else None,
        fed_ms=_ago_ms(fields.get("WatchdogTimestampMonotonic"), now_us) if watchdog else None,
        memory_bytes=_number(fields.get("MemoryCurrent")),
        tasks=_number(fields.get("TasksCurrent")),
        status=fields.get("StatusText") or None,
        needs_reload=fields.get("NeedDaemonReload") == "yes",
        group=fields.get("ControlGroup") or None,
    )


def _since(active: str) -> str:
    """The moment that counts: a reload is a change of state, and what runs does not begin anew by it."""
    return f"{'ActiveEnter' if active in {'active', 'reloading'} else 'StateChange'}TimestampMonotonic"


def _paragraphs(text: str) -> Iterator[dict[str, str]]:
    for paragraph in text.split("\n\n"):
        yield dict(line.split("=", 1) for line in paragraph.splitlines() if "=" in line)


def _number(text: str | None) -> int | None:
    """A figure; systemd writes the greatest one, or words, where it has none."""
    if text is None or not text.isdecimal():
        return None
    return None if int(text) == (1 << 64) - 1 else int(text)


def _ago_ms(moment: str | None, now_us: int) -> int | None:
    then = _number(moment)
    return max(now_us - then, 0) // 1000 if then else None


def _span_us(text: str) -> int:
    """``1min 30s``; 0 for ``infinity`` and for nothing."""
    return round(sum(float(count) * _UNITS_US[unit] for count, unit in _SPAN.findall(text)))
