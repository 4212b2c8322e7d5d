"""Asks a recorded request again and gathers what a comparison needs.

Decides when enough has come: the second run of an answer that broke off is canceled once it has gone as far. What is
compared, and how, is ``compare``'s and ``facts``'s.
"""

from __future__ import annotations

from contextlib import aclosing

from contracts.artifacts import Artifact
from contracts.errors import ErrorCode
from contracts.events import End, FinishReason, Metrics, Started, StreamError, Token
from contracts.pools import Capabilities
from contracts.receipts import Receipt
from contracts.tasks import TaskRequest
from daemon_core.redaction import MASK
from llama_orch.client import ApiClient, new_task_id
from llama_orch.errors import ApiError
from llama_orch.receipt_chain import receipt_of
from llama_orch.replay import facts
from llama_orch.replay.compare import Outcome, Run, Sameness, compare, grade, sha256_of
from llama_orch.replay.report import Answer, Report
from llama_orch.replay.request import (
    CannotAskError,
    Place,
    asked_again,
    gives_results,
    notes_of,
    place_of,
    recorded_request,
)


async def replay(client: ApiClient, artifact: Artifact, pool: str | None, *, local: bool) -> Report:
    """Ask it again and compare. ``local``: the daemon is the one that recorded it, and may have its stream.

    Raises ApiError where it cannot be asked, or the new run fails.
    """
    receipt = receipt_of(artifact)
    try:
        request = recorded_request(receipt)
        told = await client.capabilities()
        place = place_of(receipt, request, told.pools, pool)
        again = asked_again(request, receipt, place, new_task_id())
    except CannotAskError as error:
        raise ApiError(ErrorCode.INVALID_PARAMS, error.message, hint=error.hint) from error
    kept = await kept_pieces(client, receipt) if local else None
    recorded = _recorded(receipt, kept)
    came = await _ask(client, again, recorded)
    left = await _receipt_of(client, came.task_id)
    then, now = facts.facts_of(receipt), _now(left, told, came)
    outcome = compare(recorded, came.run, results=gives_results(request))
    notes = [*_notes(place, receipt, request, left), *_other_end(receipt, came, outcome)]
    return _report(
        artifact=artifact, receipt=receipt, came=came, left=left, outcome=outcome, then=then, now=now, notes=notes
    )


async def kept_pieces(client: ApiClient, receipt: Receipt) -> tuple[str, ...] | None:
    """The stream of a task as it was cut, where it is still kept and is the one that the receipt is of."""
    try:
        async with aclosing(client.stream(receipt.task_id)) as events:
            pieces = [event.t async for event in events if isinstance(event, Token)]
    except ApiError as error:
        if error.code == ErrorCode.NOT_FOUND:
            return None
        raise
    return tuple(pieces) if sha256_of("".join(pieces)) == receipt.stream_sha256 else None


class _Came:
    """What comes of the second run, as it comes."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.started: Started | None = None
        self.pieces: list[str] = []
        self.last: End | StreamError | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def run(self) -> Run:
        whole = isinstance(self.last, End) and self.last.finish_reason is not FinishReason.CANCELED
        return Run(sha256=sha256_of(self.text), text=self.text, pieces=tuple(self.pieces), whole=whole)

    @property
    def ended(self) -> str:
        match self.last:
            case End():
                return str(self.last.finish_reason)
            case StreamError():
                return str(self.last.code)
            case None:
                return "without an end"


async def _ask(client: ApiClient, request: TaskRequest, recorded: Run) -> _Came:
    came, canceled = _Came(request.task_id or ""), False
    length = 0
    async with aclosing(client.run(request)) as events:
        async for event in events:
            match event:
                case Started():
                    came.started = event
                case Metrics():
                    came.started = came.started and came.started.since(event)
                case Token(t=text):
                    came.pieces.append(text)
                    length += len(text)
                    if not canceled and _is_enough(recorded, length, len(came.pieces)):
                        canceled = True
                        await client.cancel(came.task_id)
                case End() | StreamError():
                    came.last = event
    if isinstance(came.last, StreamError) and recorded.whole:
        error = came.last
        hint = error.hint if isinstance(error.hint, str) else None
        after = error.retry_after_ms if isinstance(error.retry_after_ms, int) else None
        raise ApiError(error.code, error.message, hint=hint, retriable=error.retriable, retry_after_ms=after)
    return came


def _is_enough(recorded: Run, length: int, pieces: int) -> bool:
    """Whether an answer that broke off has all been answered again, and one piece more."""
    if recorded.whole:
        return False
    return length > len(recorded.text) if recorded.text is not None else pieces > len(recorded.pieces or ())


def _recorded(receipt: Receipt, kept: tuple[str, ...] | None) -> Run:
    whole = receipt.end is not None and receipt.end.finish_reason is not FinishReason.CANCELED
    whole = whole and not receipt.interrupted
    if kept is not None:
        return Run(sha256=receipt.stream_sha256, text="".join(kept), pieces=kept, whole=whole)
    text = receipt.transcript
    altered = receipt.redacted and text is not None and sha256_of(text) != receipt.stream_sha256
    return Run(sha256=receipt.stream_sha256, text=text, whole=whole, masked=altered and MASK in (text or ""))


async def _receipt_of(client: ApiClient, task_id: str) -> Artifact | None:
    """What the second run left; None where tasks leave no receipts, or it is gone."""
    status = await client.task(task_id)
    return None if status.artifact_id is None else await client.artifact(status.artifact_id)


def _now(left: Artifact | None, told: Capabilities, came: _Came) -> dict[str, object]:
    if left is not None:
        return facts.facts_of(receipt_of(left))
    served = None if came.started is None else came.started.pool_id
    pool = next((each for each in told.pools if each.pool_id == served), None)
    return {} if pool is None else facts.facts_of_pool(pool, str(told.profile))


def _notes(place: Place, receipt: Receipt, request: TaskRequest, left: Artifact | None) -> list[str]:
    found = [] if place.note is None else [place.note]
    found += notes_of(receipt, request)
    if left is None:
        found.append("the second run left no receipt: what served it is what GET /v1/capabilities tells")
    return found


def _report(
    *,
    artifact: Artifact,
    receipt: Receipt,
    came: _Came,
    left: Artifact | None,
    outcome: Outcome,
    then: dict[str, object],
    now: dict[str, object],
    notes: list[str],
) -> Report:
    return Report(
        grade=grade(outcome, same_identity=facts.same_identity(then, now)),
        same=outcome.same,
        difference=outcome.difference,
        why=outcome.why,
        changes=facts.changes(then, now),
        unknown=facts.unknown(then, now),
        recorded=Answer(
            task_id=receipt.task_id,
            artifact_id=artifact.id,
            pieces=receipt.pieces,
            stream_sha256=receipt.stream_sha256,
            ended=_end_of(receipt),
        ),
        now=Answer(
            task_id=came.task_id,
            artifact_id=None if left is None else left.id,
            pieces=len(came.pieces),
            stream_sha256=came.run.sha256,
            ended=came.ended,
        ),
        seed=receipt.seed,
        pool_id=None if came.started is None else came.started.pool_id,
        notes=tuple(notes),
    )


def _other_end(receipt: Receipt, came: _Came, outcome: Outcome) -> list[str]:
    """The same text may have another end."""
    if outcome.same is not Sameness.IDENTICAL or _end_of(receipt) == came.ended:
        return []
    return [f"it ended otherwise: {_end_of(receipt)} then, {came.ended} now"]


def _end_of(receipt: Receipt) -> str:
    if receipt.interrupted:
        return "interrupted"
    if receipt.end is not None:
        return str(receipt.end.finish_reason)
    return "without an end" if receipt.error is None else str(receipt.error.code)
