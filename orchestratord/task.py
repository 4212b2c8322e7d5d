"""One admitted task: what was asked, where it stands, and its stream.

Decides the order of a task's life (queued, running, and queued again where its replica died before its first token;
then exactly one of done, canceled and failed) and what its terminal event says. Never reads a clock: every moment is an
argument, in monotonic milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import UNSET

from contracts.errors import RETRIABLE, ErrorCode
from contracts.events import End, FinishReason, Metrics, Started, StreamError
from contracts.pools import PoolSnapshot
from contracts.receipts import SlotUse
from contracts.tasks import OnDisconnect, Priority, StreamLinks, TaskAccepted, TaskRequest, TaskState, TaskStatus
from orchestratord.continuation import Continuation
from orchestratord.demand import UNKNOWN, Demand
from orchestratord.determinism import ReplicaSet
from orchestratord.standing import Standing
from orchestratord.stream_log import StreamLog, pieces_of

if TYPE_CHECKING:
    from adapters.base import Finished


class Caller(msgspec.Struct, frozen=True):
    """Who asked, and under which id it is followed through the logs."""

    correlation_id: str
    identity: str


class Admission(msgspec.Struct, frozen=True, kw_only=True):
    """What was settled when the task entered: spans in milliseconds, ``created_ms`` in Unix milliseconds."""

    task_id: str
    job_id: str
    request: TaskRequest
    seed: int
    caller: Caller
    created_ms: int
    at_ms: float
    queue_position: int
    predicted_start_ms: int
    backoff_ms: int
    predicted_low_ms: int = 0
    predicted_high_ms: int = 0
    on_time_probability: float | None = None
    """That the answer is complete before the deadline; None without one."""
    demand: Demand = UNKNOWN
    replica_set: ReplicaSet | None = None
    """The only one whose pools may run it, where it is strict; None where none was known yet, or any pool may."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """Where a task runs, and since when."""

    pool_id: str
    replica_id: str
    engine: str
    engine_version: str
    at_ms: float
    served: PoolSnapshot | None = None
    """The pool as it was then."""
    use: SlotUse | None = None
    """Where in its engine, as it was told."""


class Keeps(Protocol):
    """Writes down what a task must not lose, before anybody is told of it."""

    def speaks(self, task: Task) -> None:
        """It is about to send its first token."""

    def grows(self, task: Task) -> int:
        """Its stream has become long; answers with the length at which to say so again."""

    def sends(self, task: Task) -> Callable[[bytes], None] | None:
        """What is told of every frame before it is sent; None where the task is not written down ahead."""

    def ends(self, task: Task, event: End | StreamError) -> str | None:
        """It is about to send its terminal event; answers with the id of its receipt, where it leaves one."""

    def freed(self, task: Task) -> None:
        """Its engine has let go of it."""

    def told(self, tell: Callable[[], None]) -> None:
        """Have this called when what was written is as durable as was configured; at once, where it is."""

    def settled(self) -> Coroutine[None, None, None]:
        """What is over then."""


class Story(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of a task so far. Moments in monotonic milliseconds."""

    run: Run | None = None
    replicas: tuple[str, ...] = ()
    first_text_ms: float | None = None
    slot_free_ms: float | None = None
    artifact_id: str | None = None
    end: End | None = None
    error: StreamError | None = None
    sent: bytes | None = None


class Task:
    """A task from admission to its last reader."""

    def __init__(self, admission: Admission, keeps: Keeps | None = None) -> None:
        self.admission = admission
        self._keeps = keeps
        self.state = TaskState.QUEUED
        self.replica_set = admission.replica_set
        """As admitted, or as the first of its pools showed that was ready."""
        self.log = StreamLog()
        self.log.ahead = None if keeps is None else keeps.sends(self)
        self._long: float = math.inf if keeps is None else keeps.grows(self)
        """How long its stream becomes before that is said."""
        self.run: Run | None = None
        self.opening: Started | None = None
        """What its stream began with, where that was told by this run of the daemon."""
        self.queue_position: int | None = admission.queue_position
        self.standing: Standing | None = None
        """What was last told of where it stands."""
        self.replicas: list[str] = []
        """The replicas that were given it, in order."""
        self.tried: set[tuple[str, int]] = set()
        """The pools that have failed it, each with the number of the engine's start."""
        self.slot_free_ms: float | None = None
        """What the engine took to let go of a run that it did not end itself."""
        self.artifact_id: str | None = None
        self.first_text_ms: float | None = None
        self.sent: bytes | None = None
        """What its engine was asked for, without the texts (``adapters.body``); None where nothing was sent."""
        self.cached_tokens: int | None = None
        """What of its prompt the engine had already, by its own count."""
        self._end: End | None = None
        self._error: StreamError | None = None
        self._continued: Continuation | None = None
        """What it had sent before it was run again."""
        self.continues: PoolSnapshot | None = None
        """The engine of which alone it may take what follows; None where any will do."""
        self.followed = False
        """Whether somebody has read its stream."""
        self.veil: str | None = None
        """Set where the request was read again without a secret in it: what it is known by."""
        self.interrupted = False
        """The daemon ended while it ran."""

    @property
    def known_by(self) -> dict[str, object]:
        """What a log line about it carries, so that it is found."""
        return {"task_id": self.id, "correlation_id": self.admission.caller.correlation_id}

    @classmethod
    def restored(
        cls, admission: Admission, state: TaskState, log: StreamLog, story: Story, keeps: Keeps | None = None
    ) -> Task:
        """A task as it was written down."""
        task = cls(admission, keeps)
        log.ahead = task.log.ahead
        task.state, task.log = state, log
        task.run, task.replicas = story.run, list(story.replicas)
        task.first_text_ms, task.slot_free_ms = story.first_text_ms, story.slot_free_ms
        task.artifact_id, task._end, task._error = story.artifact_id, story.end, story.error
        task.sent = story.sent
        task.interrupted = state is TaskState.RUNNING
        return task

    @property
    def id(self) -> str:
        """The task's id."""
        return self.admission.task_id

    @property
    def request(self) -> TaskRequest:
        """What was asked."""
        return self.admission.request

    @property
    def attempts(self) -> int:
        """How many replicas were given it."""
        return len(self.replicas)

    @property
    def finished(self) -> bool:
        """Whether it has had its end, though nobody may have been told yet."""
        return self._end is not None or self._error is not None

    @property
    def kept_bytes(self) -> int:
        """About what remembering it costs: its stream and the text of its request."""
        request = self.request
        texts = [
            request.prompt or "",
            *(request.inputs or ()),
            *(message.content for message in request.messages or ()),
        ]
        return len(self.log) + sum(map(len, texts))

    @property
    def on_disconnect(self) -> OnDisconnect:
        """What becomes of it when its last reader leaves."""
        if self.request.on_disconnect is not None:
            return self.request.on_disconnect
        return OnDisconnect.CANCEL if self.request.priority is Priority.INTERACTIVE else OnDisconnect.CONTINUE

    # --- its life -----------------------------------------------------------------------------------------------------

    def moved(self, to: Standing) -> None:
        """The task waits at another place in the queue, or more or less time is foretold of it."""
        self.queue_position, self.standing = to.position, to
        self.log.metrics(
            Metrics(
                queue_position=to.position,
                queue_depth=to.queue_depth,
                predicted_start_ms=to.start_ms,
                predicted_start_low_ms=to.low_ms,
                predicted_start_high_ms=to.high_ms,
                on_time_probability=UNSET if to.on_time_probability is None else to.on_time_probability,
            )
        )

    def start(self, run: Run, event: Started) -> None:
        """The task has a slot."""
        self._run(run)
        self.opening = event
        self.log.started(event)

    def start_again(self, run: Run, event: Metrics) -> None:
        """The task has another slot, after the replica that had it died before its first token."""
        self._run(run)
        self.log.metrics(event)

    def wait_again(self) -> None:
        """Its replica died before its first token: the task is in the queue once more, at its old place."""
        self.state = TaskState.QUEUED
        self.queue_position = 0

    def run_again(self) -> None:
        """It waits for the engine that it ran on, to go on behind what it has sent; see ``continues``."""
        self._continued = Continuation(pieces_of(self.log.read(0)))
        self.continues = None if self.run is None else self.run.served
        self.state = TaskState.QUEUED
        self.queue_position = 0

    def tell(self, event: Metrics) -> None:
        """Something is worth saying; behind the terminal event nothing is."""
        if not self.finished:
            self.log.metrics(event)

    def asked(self, settings: bytes) -> None:
        """Its engine is about to be sent this."""
        self.sent = settings

    def speaks(self, now_ms: float) -> Coroutine[None, None, None] | None:
        """It is about to send its first token, when what is answered is over: then that it speaks is durable."""
        self.first_text_ms = now_ms
        if self._keeps is None:
            return None
        self._keeps.speaks(self)
        return self._keeps.settled()

    def texts(self, texts: list[str], now_ms: float) -> None:
        """Everything that one engine read brought. Raises DiffersError where it contradicts what was sent before."""
        if self._continued is not None:
            texts = self._continued.take(texts)
            if not texts:
                return
        if self.first_text_ms is None:
            self.first_text_ms = now_ms
            if self._keeps is not None:
                self._keeps.speaks(self)
        self.log.texts(texts)
        if self._keeps is not None and len(self.log) >= self._long:
            self._long = self._keeps.grows(self)

    def said(self) -> None:
        """The engine has nothing more to say. Raises DiffersError where that is less than was sent before."""
        if self._continued is not None:
            self._continued.end()

    def done(self, finished: Finished, now_ms: float) -> None:
        """The engine ended well."""
        self.state = TaskState.DONE
        self.cached_tokens = finished.cached_tokens
        self._close(finished.reason, finished.tokens_in, finished.tokens_out, finished.decode_ms, now_ms)

    def let_go(self, took_ms: float) -> None:
        """Its engine took so long to let go of a run that it did not end itself."""
        self.slot_free_ms = took_ms
        if self._keeps is not None:
            self._keeps.freed(self)

    def cancel(self, now_ms: float) -> None:
        """The client has had enough: no token follows."""
        self.state = TaskState.CANCELED
        self._close(FinishReason.CANCELED, None, None, None, now_ms)

    def fail(
        self,
        code: ErrorCode,
        message: str,
        hint: str | None = None,
        retry_after_ms: int | None = None,
        *,
        retriable: bool | None = None,
    ) -> None:
        """The task cannot be brought to a good end; ``retriable`` where that is not as its code says."""
        self.state = TaskState.FAILED
        self._error = StreamError(
            code=code,
            message=message,
            retriable=code in RETRIABLE if retriable is None else retriable,
            hint=UNSET if hint is None else hint,
            retry_after_ms=UNSET if retry_after_ms is None else retry_after_ms,
            engine=UNSET if self.run is None else self.run.engine,
        )
        self._end_with(self._error)

    # --- what it tells ------------------------------------------------------------------------------------------------

    @property
    def links(self) -> StreamLinks:
        """Where its stream can be read."""
        return StreamLinks(sse=f"/v1/tasks/{self.id}/stream")

    @property
    def accepted(self) -> TaskAccepted:
        """The answer to its admission, the same every time."""
        entered = self.admission
        return TaskAccepted(
            task_id=entered.task_id,
            job_id=entered.job_id,
            queue_position=entered.queue_position,
            predicted_start_ms=entered.predicted_start_ms,
            backoff_ms=entered.backoff_ms,
            streams=self.links,
            predicted_start_low_ms=entered.predicted_low_ms,
            predicted_start_high_ms=entered.predicted_high_ms,
            on_time_probability=entered.on_time_probability,
        )

    @property
    def status(self) -> TaskStatus:
        """Where it stands right now."""
        entered, run, end = self.admission, self.run, self._end
        return TaskStatus(
            task_id=entered.task_id,
            job_id=entered.job_id,
            state=self.state,
            priority=self.request.priority,
            workload=self.request.workload,
            model_ref=self.request.model_ref,
            created_ms=entered.created_ms,
            queue_position=self.queue_position if self.state is TaskState.QUEUED else None,
            pool_id=run.pool_id if run else None,
            replica_id=run.replica_id if run else None,
            seed=entered.seed,
            queue_time_ms=self.since_admission(self._waited_until),
            first_token_ms=self.since_admission(self.first_text_ms),
            decode_time_ms=end.decode_time_ms if end else None,
            tokens_in=end.tokens_in if end else None,
            tokens_out=end.tokens_out if end else self.log.tokens if self.state is TaskState.RUNNING else None,
            finish_reason=end.finish_reason if end else None,
            stream_sha256=end.stream_sha256 if end else None,
            error_code=self._error.code if self._error else None,
            streams=self.links,
            session_id=self.request.session_id,
            attempts=self.attempts,
            slot_free_ms=None if self.slot_free_ms is None else round(self.slot_free_ms),
            artifact_id=self.artifact_id,
        )

    @property
    def _waited_until(self) -> float | None:
        """Of several runs the last: it had the others' waits. Of one that goes on behind a token, that token."""
        if self.run is None or self.first_text_ms is None:
            return None if self.run is None else self.run.at_ms
        return min(self.run.at_ms, self.first_text_ms)

    def since_admission(self, moment_ms: float | None) -> int | None:
        """How long after its admission that was, in milliseconds."""
        return None if moment_ms is None else max(0, round(moment_ms - self.admission.at_ms))

    @property
    def story(self) -> Story:
        """What has become of it so far."""
        return Story(
            run=self.run,
            replicas=tuple(self.replicas),
            first_text_ms=self.first_text_ms,
            slot_free_ms=self.slot_free_ms,
            artifact_id=self.artifact_id,
            end=self._end,
            error=self._error,
            sent=self.sent,
        )

    @property
    def outcome(self) -> End | StreamError | None:
        """Its terminal event, once there is one."""
        return self._end or self._error

    # --- inside -------------------------------------------------------------------------------------------------------

    def _run(self, run: Run) -> None:
        self.state = TaskState.RUNNING
        self.run = run
        self.sent = None
        self.queue_position = None
        self.replicas.append(run.replica_id)

    def _close(
        self,
        reason: FinishReason,
        tokens_in: int | None,
        tokens_out: int | None,
        decode_ms: float | None,
        now_ms: float,
    ) -> None:
        """Close with ``end``; what the engine did not say is what was seen here."""
        if decode_ms is None or not 0 <= decode_ms < math.inf:
            decode_ms = 0.0 if self.first_text_ms is None else now_ms - self.first_text_ms
        waited_until = now_ms if self._waited_until is None else self._waited_until
        self._end = End(
            tokens_in=self._counted if tokens_in is None else max(0, tokens_in),  # an engine may say anything
            tokens_out=self.log.tokens if tokens_out is None else max(0, tokens_out),
            decode_time_ms=round(decode_ms),
            decode_ms=round(decode_ms),
            first_token_ms=self.since_admission(self.first_text_ms),
            queue_time_ms=self.since_admission(waited_until) or 0,
            finish_reason=reason,
            stream_sha256=self.log.text_sha256,
        )
        self._end_with(self._end)

    @property
    def _counted(self) -> int:
        """The tokens of the prompt that an engine was given, where one counted them before."""
        demand = self.admission.demand
        return round(demand.prompt) if demand.counted and self.run is not None else 0

    def _end_with(self, event: End | StreamError) -> None:
        """Write the end down, and then tell of it."""
        if self._keeps is None:
            self.log.finish(event)
            return
        self.artifact_id = self._keeps.ends(self, event)
        if isinstance(event, End) and self.artifact_id is not None:
            self._end = event = msgspec.structs.replace(event, artifact_id=self.artifact_id)
        self._keeps.told(partial(self.log.finish, event))
