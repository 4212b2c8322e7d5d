"""The rows of the table: which figure of which samples each one shows. Decides nothing else; measures nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.figures import Figures

STREAMS = (1, 8, 64, 256)
DIRECT = {"LiteLLM": "direct, OpenAI"}
"""What stands before an engine of another wire than the usual one is compared with that engine."""
Values = dict[str, float]


@dataclass(frozen=True)
class Row:
    """One line: values by system."""

    key: str
    label: str
    values: Callable[[Figures], Values]
    digits: int = 0


def added(values: Values) -> Values:
    """What each adds to the engine alone."""
    bare = {"direct", *DIRECT.values()}
    return {
        name: value - values[DIRECT.get(name, "direct")]
        for name, value in values.items()
        if name not in bare and DIRECT.get(name, "direct") in values
    }


def _median(key: str) -> Callable[[Figures], Values]:
    return lambda figures: figures.medians(key)


def _at(key: str, share: float) -> Callable[[Figures], Values]:
    return lambda figures: figures.percentiles(key, share)


def _added_at(key: str, share: float) -> Callable[[Figures], Values]:
    return lambda figures: added(figures.percentiles(key, share))


def _added(key: str) -> Callable[[Figures], Values]:
    return lambda figures: added(figures.medians(key))


def _streams(count: int) -> str:
    return f"{count} stream" if count == 1 else f"{count} streams"


ROWS = (
    Row("first_token_50", "first token p50, us", _at("first_token_us", 50)),
    Row("first_token_99", "first token p99, us", _at("first_token_us", 99)),
    Row("added_first_token_50", "added to first token p50, us", _added_at("first_token_us", 50)),
    Row("added_first_token_99", "added to first token p99, us", _added_at("first_token_us", 99)),
    *(Row(f"rate_{n}", f"k tokens/s, {_streams(n)}", _median(f"rate_{n}"), 1) for n in STREAMS),
    *(Row(f"cpu_{n}", f"CPU s per M tokens, {_streams(n)}", _median(f"cpu_{n}"), 2) for n in STREAMS),
)


def shown(figures: Figures) -> dict[str, Values]:
    """Every row's values by its key; of rows that were not measured there are none."""
    return {row.key: values for row in ROWS if (values := row.values(figures))}
