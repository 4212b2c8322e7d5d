"""What the relay should cost beside what it is compared with, and whether it does.

Decides the targets and the verdicts. Measures nothing, and nothing is asserted from it: machines are noisy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

OURS, FLOOR, NGINX, LITELLM, DIRECT = "llama-orch", "floor", "nginx", "LiteLLM", "direct"
Shown = Mapping[str, Mapping[str, float]]
"""The table's values: by row, then by system."""


class Verdict(StrEnum):
    """What became of a target."""

    BEYOND = "beyond"
    MET = "met"
    MISSED = "missed"
    UNKNOWN = "not measured"


@dataclass(frozen=True)
class Bound:
    """At most, or at least, so many times what a system has; without a system so much outright."""

    limit: float
    system: str | None = None
    at_least: bool = False
    key: str | None = None
    """Another row than the target's own."""
    unit: str = ""
    why: str = ""

    def kept(self, value: float) -> bool:
        """Whether a ratio, or a value, is within it."""
        return value >= self.limit if self.at_least else value <= self.limit

    @property
    def text(self) -> str:
        """How it reads in the table."""
        sign = ">=" if self.at_least else "<="
        of = f"x {self.system}" if self.system else self.unit
        return f"{sign} {self.limit:g}{of}{self.why}"


@dataclass(frozen=True)
class Target:
    """One figure of ours, what it must keep to, and what would be better still."""

    key: str
    what: str
    bounds: tuple[Bound, ...]
    beyond: tuple[Bound, ...]


def at_most(limit: float, system: str | None = None, *, key: str | None = None, unit: str = "") -> Bound:
    """Not more than that."""
    return Bound(limit, system, key=key, unit=unit)


def at_least(limit: float, system: str | None = None, *, key: str | None = None, unit: str = "") -> Bound:
    """Not less than that."""
    return Bound(limit, system, key=key, unit=unit, at_least=True)


def swap(ratio: float) -> Bound:
    """llama-swap is not measured here: once, on two cores, it had this share of the floor's."""
    return Bound(ratio, FLOOR, why=" (llama-swap's)")


TARGETS = (
    Target(
        "added_first_token_50", "added first token p50", (at_most(1.5, FLOOR), at_most(0.15, LITELLM)), (swap(0.57),)
    ),
    Target(
        "added_first_token_99",
        "added first token p99",
        (at_most(2, FLOOR), at_most(0.2, LITELLM)),
        (at_most(1.4, FLOOR),),
    ),
    Target("rate_64", "tokens/s, 64 streams", (at_least(0.75, FLOOR), at_least(100, LITELLM)), (at_least(1, NGINX),)),
    Target("paced_cpu", "CPU per token, 200 paced streams", (at_most(1.25, FLOOR), at_most(3, NGINX)), (swap(0.78),)),
    Target("paced_added_50", "added token latency p50, 200 paced", (at_most(1.3, FLOOR),), (at_most(1.6, NGINX),)),
    Target(
        "crowd_rate",
        "600 streams x 50 tokens/s",
        (at_least(0.9, DIRECT), at_most(0, key="crowd_lost", unit=" tokens lost")),
        (at_most(20, key="crowd_99", unit=" ms p99"),),
    ),
    Target("burst_99", "burst of 200, first token p99", (at_most(1.5, FLOOR),), (swap(0.74),)),
    Target(
        "gap_50",
        "gap between two tasks on one slot",
        (at_most(1, unit=" ms"),),
        (at_least(99.5, key="occupancy", unit=" % busy"),),
    ),
    Target(
        "depth",
        "enqueue, dequeue, cancel at any depth",
        (at_most(2, unit="x the flattest"),),
        (at_most(1.2, unit="x the flattest"),),
    ),
    Target("queued_kb", "a queued task with an open stream", (at_most(60, unit=" KB"),), (at_most(25, unit=" KB"),)),
    Target("free_99", "cancel to slot free p99, stand-in", (at_most(20, unit=" ms"),), (at_most(5, unit=" ms"),)),
    Target("free_real_99", "cancel to slot free p99, llama.cpp", (at_most(20, unit=" ms"),), (at_most(5, unit=" ms"),)),
    Target("start", "start to the first 200", (at_most(2, FLOOR),), (at_most(1.5, FLOOR),)),
    Target("rss_after", "RSS after load", (at_most(1.6, FLOOR),), (at_most(1.3, FLOOR),)),
    Target("wait_error", "predicted against true wait", (at_most(20, unit=" %"),), (at_most(10, unit=" %"),)),
)


@dataclass(frozen=True)
class Judged:
    """A bound with what was measured; both None where something is missing."""

    bound: Bound
    ours: float | None
    ratio: float | None
    """Of ours to the bound's system; ours itself where it has none."""
    beyond: bool = False

    @property
    def kept(self) -> bool | None:
        """None where it was not measured."""
        return None if self.ratio is None else self.bound.kept(self.ratio)


def judged(target: Target, shown: Shown, suffix: str = "") -> list[Judged]:
    """Every bound of a target; ``suffix`` names the event loop, which ours and the floor then have in common."""
    pairs = [(bound, False) for bound in target.bounds] + [(bound, True) for bound in target.beyond]
    return [_judge(target, bound, shown, suffix, beyond=beyond) for bound, beyond in pairs]


def _judge(target: Target, bound: Bound, shown: Shown, suffix: str, *, beyond: bool) -> Judged:
    values = shown.get(bound.key or target.key, {})
    mine = values.get(OURS + suffix)
    if bound.system is None:
        return Judged(bound, mine, mine, beyond)
    other = values.get(FLOOR + suffix if bound.system == FLOOR else bound.system)
    ratio = None if mine is None or other is None or other <= 0 else mine / other
    return Judged(bound, mine, ratio, beyond)


def verdict(parts: list[Judged]) -> Verdict:
    """Of all bounds together. What was not measured is neither kept nor broken, as long as anything was."""
    known = [part for part in parts if part.kept is not None]
    required = [part for part in known if not part.beyond]
    if not required:
        return Verdict.UNKNOWN
    if not all(part.kept for part in required):
        return Verdict.MISSED
    better = [part for part in known if part.beyond]
    return Verdict.BEYOND if better and all(part.kept for part in better) else Verdict.MET
