"""Whether a task can be in time.

Decides when a deadline is worth trying: at the entrance, and again while the task waits. One that the run alone would
pass is told apart from one that only the queue makes late: there it does not help to wait.
"""

from __future__ import annotations

from contracts.errors import ErrorCode
from contracts.labels import PolicyLabel
from contracts.tasks import TaskRequest
from orchestratord.admission import Refusal
from orchestratord.prediction import TOO_LATE, Forecast


def too_late(request: TaskRequest, forecast: Forecast) -> Refusal | None:
    """Why a task is not let in: its answer would hardly be complete in time (less often than ``TOO_LATE``)."""
    if request.deadline_ms is None or forecast.on_time(request.deadline_ms) >= TOO_LATE:
        return None
    if _endless(request, forecast):
        return _by_itself(request, forecast)
    text = f"the task would start in about {forecast.start_ms} ms and be done in about {forecast.end_ms} ms"
    return Refusal(
        code=ErrorCode.ADMISSION_REJECT,
        message=f"{text}, after its deadline of {request.deadline_ms} ms",
        hint="try again later, allow a later deadline_ms, or ask for fewer tokens",
        retry_after_ms=max(1, forecast.start_ms),
        policy_label=PolicyLabel.DEADLINE,
    )


def hopeless(request: TaskRequest, forecast: Forecast, left_ms: float) -> Refusal | None:
    """Why a waiting task is ended before its deadline, with ``left_ms`` to go: it will hardly be in time any more."""
    if forecast.on_time(left_ms) >= TOO_LATE:
        return None
    if _endless(request, forecast):
        return _by_itself(request, forecast)
    text = f"the deadline of {request.deadline_ms} ms cannot be met any more: the answer would come"
    return Refusal(
        code=ErrorCode.ADMISSION_REJECT,
        message=f"{text} {max(1, round(forecast.end_ms - left_ms))} ms too late",
        hint="allow a later deadline_ms, or send it when less is queued",
        retry_after_ms=max(1, forecast.start_ms),
        policy_label=PolicyLabel.DEADLINE,
    )


def _endless(request: TaskRequest, forecast: Forecast) -> bool:
    """Whether the run alone would hardly end before the deadline: then it does not help to wait."""
    return request.deadline_ms is not None and forecast.in_time_alone(request.deadline_ms) < TOO_LATE


def _by_itself(request: TaskRequest, forecast: Forecast) -> Refusal:
    return Refusal(
        code=ErrorCode.ADMISSION_REJECT,
        message=f"a task like this takes about {forecast.run_ms} ms by itself, and its deadline is "
        f"{request.deadline_ms} ms",
        hint=f"allow at least {forecast.run_ms} ms, or ask for fewer tokens",
        retry_after_ms=forecast.run_ms,
        policy_label=PolicyLabel.DEADLINE,
        retriable=False,
    )
