"""What is foretold of a task, in words for somebody who waits.

Decides the words. Never asks a daemon and never looks at a clock.
"""

from __future__ import annotations

from contracts.events import Metrics
from contracts.tasks import TaskForecast
from llama_orch.amounts import span_text


def waiting_line(told: Metrics) -> str | None:
    """Where a waiting task stands: ``2 tasks go before it; it starts in about 40 s (20 s to 1 min 5 s)``."""
    if not isinstance(told.queue_position, int):
        return None
    parts = [f"waiting: {_before(told.queue_position)}"]
    if isinstance(told.predicted_start_ms, int):
        low, high = told.predicted_start_low_ms, told.predicted_start_high_ms
        parts.append(f"it starts {_in_about(told.predicted_start_ms)}{_band(low, high)}")
    if isinstance(told.on_time_probability, float):
        parts.append(f"in time with {told.on_time_probability:.0%}")
    return "; ".join(parts)


def forecast_lines(found: TaskForecast) -> list[str]:
    """A dry run: when it would start and end, where, and with how many tokens."""
    band = _band(found.predicted_start_low_ms, found.predicted_start_high_ms)
    start = (
        "it would start at once"
        if not found.predicted_start_ms
        else "it would start " + _in_about(found.predicted_start_ms)
    )
    counted = "counted by the engine" if found.prompt_tokens_counted else "estimated"
    cache = ", with a warm cache" if found.kv_warmth else ""
    others = [pool for pool in found.eligible_pools if pool != found.pool_id]
    elsewhere = f"; {', '.join(others)} could run it, too" if others else ""
    lines = [
        f"{start}{band if found.predicted_start_ms else ''}: {_before(found.queue_position)}",
        f"it would end {_in_about(found.predicted_end_ms)}",
        f"in pool {found.pool_id} ({found.replica_id}){cache}{elsewhere}",
        f"{found.prompt_tokens} prompt tokens ({counted}), about {found.new_tokens} new ones",
    ]
    if found.on_time_probability is not None:
        lines.append(f"before its deadline with a probability of {found.on_time_probability:.0%}")
    if found.evicts is not None:
        lines.append(f"task {found.evicts} would have to give way")
    return [*lines, "nothing was sent"]


def _before(position: int) -> str:
    match position:
        case 0:
            return "it is next"
        case 1:
            return "1 task goes before it"
        case _:
            return f"{position} tasks go before it"


def _in_about(ms: int) -> str:
    return f"in about {span_text(ms / 1000)}" if ms >= 1_000 else "in less than a second"


def _band(low: object, high: object) -> str:
    if not isinstance(low, int) or not isinstance(high, int) or high < 1_000:
        return ""
    return f" ({span_text(low / 1000)} to {span_text(high / 1000)})"
