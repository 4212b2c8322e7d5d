"""One attempt of a task on one engine, and what it came to.

Decides nothing: it holds together what the runner knows of a run from its start to the moment when its slot is free.
"""

from __future__ import annotations

from adapters.base import Adapter, Finished
from contracts.errors import ErrorCode
from orchestratord.backlog import Entry
from orchestratord.determinism import difference
from orchestratord.occupancy import Hold
from orchestratord.pools import PoolEntry
from orchestratord.relay import Cut
from orchestratord.retry import Failed
from orchestratord.runs import Account, Ended, Seat
from orchestratord.task import Run, Task
from orchestratord.vouched import Vouched, Vouching


class Attempt:
    """A run. Moments in monotonic milliseconds."""

    __slots__ = ("adapter", "ended_ms", "entry", "hold", "outcome", "place", "run", "seat", "sent", "start", "task")

    def __init__(
        self, task: Task, place: Entry, entry: PoolEntry, adapter: Adapter, *, hold: Hold, seat: Seat, run: Run
    ) -> None:
        self.task = task
        self.place = place
        """Where the task stood in the queue, should it have to go back."""
        self.entry = entry
        self.adapter = adapter
        self.start = entry.start
        """Which start of the engine it was."""
        self.hold = hold
        self.seat = seat
        self.run = run
        self.sent = False
        """Whether the engine may have heard of it."""
        self.outcome: Finished | Failed | None = None
        """None while it runs, and for good where it was cancelled."""
        self.ended_ms: float | None = None

    def source(self, vouching: Vouching) -> Adapter | Vouched:
        """What its answer comes from."""
        model = self.entry.model
        return self.adapter if model is None else Vouched(self.adapter, model, vouching)

    @property
    def hopeless(self) -> Failed | None:
        """Why it is not even begun: what follows what was sent may come from the very same engine alone."""
        before, now = self.task.continues, self.run.served
        other = None if before is None or now is None else difference(before, now)
        if other is None:
            return None
        text = f"this task cannot go on after the restart, since its engine is another one: {other}"
        return Failed(code=ErrorCode.WORKER_RESET, message=text, hint="send the task again", may_go_on=False)

    def begun(self) -> None:
        """The engine has answered with something."""
        self.hold.begun = True

    @property
    def may_go_on(self) -> bool:
        """Whether the engine may still be working on it, although nobody reads any more."""
        match self.outcome:
            case None:
                return self.sent
            case Failed(may_go_on=may_go_on):
                return may_go_on
            case Cut(goes_on=goes_on):
                return goes_on
            case Finished():
                return False

    def account(self, now_ms: float) -> Account:
        """What it came to, as far as the engine and our own watch say."""
        done = self.outcome if isinstance(self.outcome, Finished) else None
        first_ms, run = self.task.first_text_ms, self.run
        if first_ms is not None and first_ms < run.at_ms:
            first_ms = None  # of an earlier run, which this one goes on from
        ended_ms = now_ms if self.ended_ms is None else self.ended_ms
        decode_ms = None if done is None else done.decode_ms
        if decode_ms is None and first_ms is not None:
            decode_ms = ended_ms - first_ms
        return Account(
            pool_id=run.pool_id,
            replica_id=run.replica_id,
            engine_version=run.engine_version,
            model_digest=self.entry.snapshot.model_digest,
            seat=self.seat,
            ended=Ended.DONE if done else Ended.CANCELED if self.outcome is None else Ended.FAILED,
            tokens_in=None if done is None else done.tokens_in,
            cached_tokens=None if done is None else done.cached_tokens,
            tokens_out=None if done is None else done.tokens_out,
            pieces=self.task.log.tokens,
            first_token_ms=None if first_ms is None else first_ms - run.at_ms,
            decode_ms=decode_ms,
            busy_ms=ended_ms - run.at_ms,
        )
