"""Sizes, speeds, spans of time and names that are too long, in as few signs as a person needs.

Decides the words. Never looks at a clock: now is an argument.
"""

from __future__ import annotations

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SPANS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_THOUSAND = 1024
LEAST_SHOWN = 4
"""Columns below which a cut name says nothing."""


def size_text(size: int) -> str:
    """``4.4 GiB``, ``512 B``."""
    unit = _unit_of(size)
    return f"{_in_unit(size, unit)} {_UNITS[unit]}"


def amount_text(done: int, total: int | None) -> str:
    """``1.9/4.4 GiB``, or what has come where nobody says how much there is."""
    if total is None:
        return size_text(done)
    unit = _unit_of(total)
    return f"{_in_unit(done, unit)}/{_in_unit(total, unit)} {_UNITS[unit]}"


def rate_text(bytes_per_s: float) -> str:
    """``48.1 MiB/s``."""
    return f"{size_text(round(bytes_per_s))}/s"


def span_text(seconds: float) -> str:
    """``1 min 32 s``, ``2 h 5 min``, ``0 s``: two units at most."""
    left = round(seconds)
    parts: list[str] = []
    for length, name in _SPANS:
        count, left = divmod(left, length)
        if count and len(parts) < 2:
            parts.append(f"{count} {name}")
        elif parts:
            break
    return " ".join(parts) or "0 s"


def ago_text(then_ms: int, now_ms: int) -> str:
    """``3 d ago``, in one unit; what lies ahead is just now, as far as anybody can tell."""
    seconds = (now_ms - then_ms) // 1000
    for length, name in _SPANS[:-1]:
        if seconds >= length:
            return f"{seconds // length} {name} ago"
    return "just now"


def tokens_text(count: int) -> str:
    """A length of context: ``128k``, ``8k``, ``1000``."""
    return f"{count // _THOUSAND}k" if count and count % _THOUSAND == 0 else str(count)


def percent(done: int, total: int | None) -> int | None:
    """Whole percent, rounded down, so that 100 is the end; None where nobody says how much there is."""
    if total is None:
        return None
    return min(100 * done // total, 100) if total else 100


def shortened(text: str, width: int) -> str:
    """A name in at most ``width`` columns, cut before its last two thirds: they tell files of one model apart."""
    if len(text) <= width or width < LEAST_SHOWN:
        return text[: max(width, 0)]
    tail = 2 * (width - 1) // 3
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def _unit_of(size: int) -> int:
    unit = 0
    # What would be shown as 1024.0 of a unit is 1.0 of the next.
    while unit + 1 < len(_UNITS) and size / _THOUSAND**unit >= (_THOUSAND if unit == 0 else _THOUSAND - 0.05):
        unit += 1
    return unit


def _in_unit(size: int, unit: int) -> str:
    return str(size) if unit == 0 else f"{size / _THOUSAND**unit:.1f}"
