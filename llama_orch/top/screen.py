"""A snapshot as rows on a terminal, or as plain lines for a pipe.

Decides what gives way where there is no room: columns first, then streams, then pools and GPUs, each with a word on how
many are not shown. What an engine or a client calls itself never drives the terminal. Never asks the daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.console import Group, JustifyMethod, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from contracts.pools import PoolState
from contracts.tasks import Priority, TaskState
from llama_orch.amounts import amount_text, span_text
from llama_orch.output import clean
from llama_orch.top.snapshot import Counts, Gpu, PoolRow, Snapshot, Stream

Row = TypeVar("Row")

_GOOD, _BAD, _BUSY = "green", "red", "yellow"
_COLOURS = {
    PoolState.READY: _GOOD,
    PoolState.STOPPED: "",
    PoolState.FAILED: _BAD,
    PoolState.BROKEN: _BAD,
    PoolState.QUARANTINED: _BAD,
    PoolState.BACKOFF: _BAD,
}
_LEAST_ROWS = 2
_REASONS = 4
"""So many reasons are named; the rest is a number."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What is to be drawn: the last snapshot, and what has kept a newer one from coming."""

    url: str
    clock: str
    """The time of day, for people."""
    snapshot: Snapshot | None = None
    trouble: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Column(Generic[Row]):
    title: str
    cell: Callable[[Row], RenderableType]
    right: bool = False
    share: int = 0
    """Of the room that is left; 0 for a column that is as wide as what is in it."""
    from_width: int = 0
    """Columns of the terminal from which on there is room for it."""


def screen(view: View, width: int, height: int) -> RenderableType:
    """All that fits into a terminal of this size."""
    head, foot = list(_head(view)), [] if view.snapshot is None else list(_foot(view.snapshot.counts))
    rows: list[RenderableType] = [*head]
    if view.snapshot is not None:
        rows += _body(view.snapshot, width, height - len(head) - len(foot))
    return Group(*rows, *foot)


def plain(shown: Snapshot) -> Iterator[str]:
    """The same as lines with tabs between the columns, for a pipe."""
    if shown.gpus:
        yield from _plain(_GPUS, shown.gpus)
        yield ""
    yield from _plain(_POOLS, shown.pools)
    yield ""
    if shown.running or shown.queued:
        yield from _plain(_STREAMS, (*shown.running, *shown.queued))
        yield ""
    yield from (line.plain for line in _foot(shown.counts) if line.plain)


# --- the parts --------------------------------------------------------------------------------------------------------


def _head(view: View) -> Iterator[Text]:
    shown = view.snapshot
    parts = [f"llama-orch {view.clock}"]
    if shown is not None:
        parts += [f"{shown.ready}/{len(shown.pools)} pools ready", f"{len(shown.running)} running"]
        parts += [f"{shown.queue_depth} queued", f"{shown.tokens_per_s:.0f} tokens/s"]
    parts += [view.url, "q quits"]
    yield _line("  ".join(parts), "bold")
    if view.trouble is not None:
        yield _line(view.trouble, _BAD)
    elif shown is None:
        yield _line("asking...")
    if shown is not None and not shown.managed:
        yield _line("pool-managerd cannot be reached: these are the last known states", _BAD)
    for notice in () if shown is None else shown.notices[:1]:
        yield _line(notice, _BUSY)


def _body(shown: Snapshot, width: int, height: int) -> Iterator[RenderableType]:
    """GPUs, pools and streams, each with a line for its heading and one that is empty before it."""
    left = height

    def part(
        columns: Sequence[_Column[Row]], rows: Sequence[Row], most: int, total: int | None = None
    ) -> Iterator[RenderableType]:
        nonlocal left
        total = len(rows) if total is None else total
        lines = min(total, most, left - 2)
        if lines < min(total, _LEAST_ROWS) or not rows:
            return
        left -= lines + 2
        yield Text("")
        yield _table(columns, rows, width, lines, total)

    yield from part(_GPUS, shown.gpus, max(left // 2 - 2, _LEAST_ROWS))
    yield from part(_POOLS, shown.pools, max(left // 2 - 2, _LEAST_ROWS))
    errors = [pool for pool in shown.pools if pool.error is not None and pool.state is not PoolState.READY]
    for pool in errors[: left // 4]:
        yield _line(f"{pool.pool_id}: {pool.error}", _BAD)
        left -= 1
    yield from part(_STREAMS, (*shown.running, *shown.queued), left, len(shown.running) + shown.queue_depth)


def _foot(counts: Counts) -> Iterator[Text]:
    """What has gone wrong since the daemon started."""
    parts = [f"tokens {counts.tokens_out}"]
    for name, reasons in (
        ("refused", counts.refused),
        ("failed", counts.failed),
        ("canceled", counts.canceled),
        ("engine restarts", counts.engine_restarts),
    ):
        parts.append(f"{name} {_by_reason(reasons)}")
    yield Text("")
    yield _line("  ".join(parts))


def _by_reason(reasons: dict[str, int]) -> str:
    total = sum(reasons.values())
    if not total:
        return "0"
    named = [f"{reason or 'unknown'} {count}" for reason, count in list(reasons.items())[:_REASONS]]
    return f"{total} ({', '.join(named)}{', ...' if len(reasons) > _REASONS else ''})"


def _table(columns: Sequence[_Column[Row]], rows: Sequence[Row], width: int, lines: int, total: int) -> RenderableType:
    """So many lines below their heading; the last one counts what there is no room for."""
    shown = [column for column in columns if width >= column.from_width]
    table = Table(box=None, pad_edge=False, header_style="bold", expand=any(column.share for column in shown))
    for column in shown:
        justify: JustifyMethod = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, no_wrap=True, overflow="ellipsis", ratio=column.share or None)
    fitting = rows if total <= lines and total == len(rows) else rows[: lines - 1]
    for row in fitting:
        table.add_row(*(column.cell(row) for column in shown))
    more = total - len(fitting)
    return Group(table, _line(f"... and {more} more", "dim")) if more > 0 else table


def _plain(columns: Sequence[_Column[Row]], rows: Sequence[Row]) -> Iterator[str]:
    shown = [column for column in columns if column.title]
    yield "\t".join(column.title for column in shown)
    for row in rows:
        cells = (column.cell(row) for column in shown)
        yield "\t".join(cell.plain if isinstance(cell, Text) else str(cell) for cell in cells)


def _line(text: str, style: str = "") -> Text:
    return Text(_flat(text), style=style, no_wrap=True, overflow="ellipsis")


def _flat(text: str) -> str:
    return clean(text).replace("\n", " ").replace("\t", " ")


def _text(value: object, style: str = "") -> Text:
    return Text("-" if value is None or value == "" else _flat(str(value)), style=style)


# --- columns ----------------------------------------------------------------------------------------------------------


def _utilization(gpu: Gpu) -> RenderableType:
    return _text(None if gpu.utilization is None else f"{100 * gpu.utilization:.0f} %")


def _bar(share: float | None) -> RenderableType:
    if share is None:
        return Text("")
    style = _BAD if share > 0.95 else _BUSY if share > 0.8 else _GOOD
    return ProgressBar(total=1.0, completed=min(max(share, 0.0), 1.0), complete_style=style, finished_style=style)


def _vram(gpu: Gpu) -> RenderableType:
    return _text(amount_text(gpu.vram_used_bytes, gpu.vram_total_bytes or None))


def _vram_share(gpu: Gpu) -> float | None:
    return gpu.vram_used_bytes / gpu.vram_total_bytes if gpu.vram_total_bytes else None


def _queue(pool: PoolRow) -> RenderableType:
    style = _BAD if pool.capacity is not None and pool.queued >= pool.capacity > 0 else ""
    return _text(pool.queued if pool.capacity is None else f"{pool.queued}/{pool.capacity}", style)


def _model(pool: PoolRow) -> RenderableType:
    return _text(pool.model if pool.next_model is None else f"{pool.model} -> {pool.next_model}")


def _state(stream: Stream) -> RenderableType:
    if stream.state is TaskState.QUEUED:
        return _text("queued" if stream.position is None else f"queued {stream.position}", _BUSY)
    return _text(stream.state, _GOOD)


def _speed(stream: Stream) -> RenderableType:
    return _text(None if stream.tokens_per_s is None else f"{stream.tokens_per_s:.0f}")


_GPUS: tuple[_Column[Gpu], ...] = (
    _Column(title="GPU", cell=lambda gpu: _text(gpu.device), share=3),
    _Column(title="POOLS", cell=lambda gpu: _text(", ".join(gpu.pools)), share=2, from_width=60),
    _Column(title="UTIL", cell=_utilization, right=True),
    _Column(title="", cell=lambda gpu: _bar(gpu.utilization), share=2, from_width=100),
    _Column(title="VRAM", cell=_vram, right=True),
    _Column(title="", cell=lambda gpu: _bar(_vram_share(gpu)), share=3, from_width=50),
)
_POOLS: tuple[_Column[PoolRow], ...] = (
    _Column(title="POOL", cell=lambda pool: _text(pool.pool_id), share=3),
    _Column(title="STATE", cell=lambda pool: _text(pool.state, _COLOURS.get(pool.state, _BUSY))),
    _Column(title="ENGINE", cell=lambda pool: _text(pool.engine), share=3, from_width=90),
    _Column(title="MODEL", cell=_model, share=3, from_width=60),
    _Column(title="ACTIVE", cell=lambda pool: _text(f"{pool.active}/{pool.slots}"), right=True),
    _Column(title="QUEUED", cell=_queue, right=True),
    _Column(title="RESTARTS", cell=lambda pool: _text(pool.restarts), right=True, from_width=70),
)
_STREAMS: tuple[_Column[Stream], ...] = (
    _Column(title="TASK", cell=lambda stream: _text(stream.task_id), share=3),
    _Column(
        title="STATE",
        cell=_state,
    ),
    _Column(title="POOL", cell=lambda stream: _text(stream.pool_id), share=1, from_width=60),
    _Column(
        title="PRIORITY",
        cell=lambda stream: _text(stream.priority, "" if stream.priority is Priority.INTERACTIVE else "dim"),
        from_width=100,
    ),
    _Column(title="MODEL", cell=lambda stream: _text(stream.model), share=2, from_width=100),
    _Column(title="AGE", cell=lambda stream: _text(span_text(stream.age_ms / 1000)), right=True),
    _Column(title="TOKENS", cell=lambda stream: _text(stream.tokens), right=True),
    _Column(title="TOKENS/S", cell=_speed, right=True),
)
