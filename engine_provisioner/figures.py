"""How far a step has come, as the lines tell that programs print.

Decides which lines are figures and not news, and what share of a step they mean: percents of a build, a clone or a
transfer, and the layers of an image. Never decides when a step is done.
"""

from __future__ import annotations

import re

_PERCENT = re.compile(r"\b(\d{1,3}(?:\.\d+)?) ?%")
_COUNT = re.compile(r"\[(\d+)/(\d+)\]")
_LAYER = re.compile(r"^([0-9a-f]{12}): (.*)$")  # docker's
_BLOB = re.compile(r"^Copying (?:blob|config) (?:sha256:)?([0-9a-f]{12})[0-9a-f]*(.*)$")  # podman's
_OTHER = re.compile(r"^downloaded ")
_LAYER_HERE = frozenset({"Pull complete", "Already exists"})
STEP_PERCENT = 10
"""A log gets a figure for each tenth of a step."""


class Meter:
    """One step. Feed it every line."""

    def __init__(self) -> None:
        self.share: float | None = None
        """From 0 to 1; None while nobody has said."""
        self._told = -1
        self._layers: dict[str, bool] = {}

    def take(self, line: str) -> bool:
        """Whether a line is a figure; then ``share`` is up to date."""
        if layer := _LAYER.match(line):
            self._layer(layer[1], here=layer[2] in _LAYER_HERE)
            return True
        if blob := _BLOB.match(line):
            self._layer(blob[1], here="done" in blob[2] or "skipped" in blob[2])
            return True
        if counted := _COUNT.search(line):
            self.share = min(int(counted[1]) / max(int(counted[2]), 1), 1.0)
            return True
        if percent := _PERCENT.search(line):
            self.share = min(float(percent[1]) / 100, 1.0)
            return True
        return _OTHER.match(line) is not None

    def is_worth_a_line(self) -> bool:
        """Whether a log should have the figure that came last."""
        if self.share is None:
            return not self._layers and self._first()
        tenth = int(self.share * 100) // STEP_PERCENT
        if tenth == self._told:
            return False
        self._told = tenth
        return True

    @property
    def layers(self) -> tuple[int, int] | None:
        """How many layers of an image are here, and how many are known of."""
        return (sum(self._layers.values()), len(self._layers)) if self._layers else None

    def _layer(self, name: str, *, here: bool) -> None:
        self._layers[name] = self._layers.get(name, False) or here
        done, known = self.layers or (0, 1)
        self.share = done / known

    def _first(self) -> bool:
        first, self._told = self._told < 0, 0
        return first
