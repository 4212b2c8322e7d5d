"""What was measured: samples by figure and system, and how they become one number. Measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Figures:
    """All samples of a run, under the figure's key and the system's name."""

    samples: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    """What a reader must know to trust the table."""

    failures: list[str] = field(default_factory=list)
    """Rounds that came to no figure."""

    def add(self, key: str, system: str, *values: float) -> None:
        """One more round's worth."""
        self.samples.setdefault(key, {}).setdefault(system, []).extend(values)

    def remark(self, text: str) -> None:
        """Say something once."""
        if text not in self.remarks:
            self.remarks.append(text)

    def medians(self, key: str) -> dict[str, float]:
        """By system."""
        return {system: statistics.median(values) for system, values in self.samples.get(key, {}).items()}

    def percentiles(self, key: str, share: float) -> dict[str, float]:
        """By system, over the samples of all rounds together."""
        return {system: percentile(values, share) for system, values in self.samples.get(key, {}).items()}


def percentile(values: Iterable[float], share: float) -> float:
    """The value that ``share`` of a hundred do not pass."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share / 100))]
