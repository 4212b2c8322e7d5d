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
    found: dict[str, float] = {}
    for name, said in _SAMPLE.findall(exposition):
        if name in names:
            found[name] = found.get(name, 0.0) + _number(said)
    told = next((found[name] for name in names if name in found), math.nan)
    return round(told) if math.isfinite(told) and told >= 0 else None


def _number(said: str) -> float:
    try:
        return float(said)
    except ValueError:
        return math.nan
