"""Reads one figure out of what an engine tells Prometheus.

Decides that a figure which is not there, or is no number, has not been told. Knows no engine.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{.*\})?[ \t]+(\S+)", re.MULTILINE)


def figure(exposition: str, names: Sequence[str]) -> int | None:
    """The sum of a gauge over all its labels, under the first of ``names`` that is there; None where none is."""
    told = math.fsum(_told(exposition, names) or [math.nan])
    return round(told) if math.isfinite(told) and told >= 0 else None


def ratio(exposition: str, names: Sequence[str]) -> float | None:
    """The greatest value of a gauge from 0 to 1, under the first of ``names`` that is there; None where none is."""
    told = _told(exposition, names)
    return max(told) if told and all(0.0 <= each <= 1.0 for each in told) else None


def _told(exposition: str, names: Sequence[str]) -> list[float]:
    """The values of the first of these names that is there, one for each set of labels."""
    found: dict[str, list[float]] = {}
    for name, said in _SAMPLE.findall(exposition):
        if name in names:
            found.setdefault(name, []).append(_number(said))
    return next((found[name] for name in names if name in found), [])


def _number(said: str) -> float:
    try:
        return float(said)
    except ValueError:
        return math.nan
