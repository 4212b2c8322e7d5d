"""How the figures are laid out: what was aimed at with its verdict, all figures, and what a reader must know."""

from __future__ import annotations

from rich.table import Table

from bench.figures import Figures
from bench.rows import ROWS, STREAMS, shown
from bench.setup import WITH_UVLOOP
from bench.targets import OURS, TARGETS, Judged, Shown, Verdict, judged, verdict

COLOURS = {Verdict.BEYOND: "bold green", Verdict.MET: "green", Verdict.MISSED: "bold red", Verdict.UNKNOWN: "dim"}


def targets_table(values: Shown) -> Table:
    """A line a bound: ours, its ratio to what it is compared with, and the target beside it."""
    table = Table(title="targets: read the ratios, not the numbers", title_justify="left")
    for name in ("what", OURS, "ratio", "target", "verdict", f"ratio{WITH_UVLOOP}"):
        table.add_column(name, no_wrap=True, justify="left" if name in {"what", "target", "verdict"} else "right")
    for target in TARGETS:
        parts, others = judged(target, values), judged(target, values, WITH_UVLOOP)
        end = verdict(parts)
        for number, (part, other) in enumerate(zip(parts, others, strict=True)):
            first = number == 0
            aim = f"beyond: {part.bound.text}" if part.beyond else part.bound.text
            table.add_row(
                target.what if first else "",
                _number(part.ours),
                "" if part.bound.system is None else _number(part.ratio),
                f"[{'green' if part.kept else 'dim' if part.beyond or part.kept is None else 'red'}]{aim}[/]",
                f"[{COLOURS[end]}]{end}[/]" if first else "",
                _number(other.ratio),
            )
    return table


def figures_table(figures: Figures, systems: list[str]) -> Table:
    """A column a system."""
    table = Table(title="all figures: medians of one interleaved run", title_justify="left")
    table.add_column("what", no_wrap=True)
    for name in systems:
        table.add_column(name, justify="right")
    for row in ROWS:
        if values := row.values(figures):
            cells = [f"{values[name]:.{row.digits}f}" if name in values else "-" for name in systems]
            table.add_row(row.label, *cells)
    return table


def notes(figures: Figures, systems: list[str]) -> list[str]:
    """Whether anything but the process measured was the limit, and what is missing."""
    said = list(figures.remarks)
    for name in systems:
        busy = {key: [figures.medians(f"{key}_{n}").get(name) for n in STREAMS] for key in BUSY}
        if any(value is not None for value in busy["busy"]):
            parts = [f"{what} {', '.join(map(_number, busy[key]))}" for key, what in BUSY.items()]
            said.append(f"{name}, cores busy at {', '.join(map(str, STREAMS))} streams: {'; '.join(parts)}")
    return said


BUSY = {"busy": "itself", "engine_busy": "the engine", "client_busy": "the client"}


def as_json(figures: Figures) -> dict[str, object]:
    """Everything, for a program."""
    values = shown(figures)
    verdicts = {target.key: verdict(judged(target, values)) for target in TARGETS}
    ratios = {target.key: [_part(part) for part in judged(target, values)] for target in TARGETS}
    return {"rows": values, "targets": ratios, "verdicts": verdicts, "samples": figures.samples}


def _part(part: Judged) -> dict[str, object]:
    return {"target": part.bound.text, "ratio": part.ratio, "kept": part.kept, "beyond": part.beyond}


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}"
