"""A task as it is written down, and a task from what was written.

Decides what has to be kept of a task so that the next run of the daemon can go on with it, or tell of it: all of its
admission, and how far it came. Monotonic moments mean nothing to another process, so spans are kept and moments are
counted from the wall clock. Never keeps an engine's key. Values in, values out.
"""

from __future__ import annotations

import msgspec

from contracts.base import Message
from contracts.events import End, StreamError
from contracts.pools import PoolSnapshot
from contracts.tasks import TaskState
from orchestratord.stream_log import StreamLog
from orchestratord.task import Admission, Keeps, Run, Story, Task


class Entered(Message, frozen=True, kw_only=True):
    """What is written at the admission of a task."""

    admission: Admission
    pools: tuple[str, ...]
    """Those that may run it."""


class Past(Message, frozen=True, kw_only=True):
    """How far a task came. Spans in milliseconds from its admission."""

    run: Run | None = None
    replicas: tuple[str, ...] = ()
    run_after_ms: float | None = None
    first_text_after_ms: float | None = None
    slot_free_ms: float | None = None
    artifact_id: str | None = None
    end: End | None = None
    error: StreamError | None = None


class Moment(msgspec.Struct, frozen=True):
    """Now, by both clocks, in milliseconds."""

    monotonic_ms: float
    unix_ms: int

    def monotonic_of(self, unix_ms: int) -> float:
        """What the monotonic clock would have shown then, had it run already."""
        return self.monotonic_ms - (self.unix_ms - unix_ms)


_encoder = msgspec.json.Encoder()
_entered = msgspec.json.Decoder(Entered)
_past = msgspec.json.Decoder(Past)


def entered(admission: Admission, pools: frozenset[str]) -> bytes:
    """What is written at an admission."""
    return _encoder.encode(Entered(admission=admission, pools=tuple(sorted(pools))))


def past(task: Task, artifact_id: str | None = None) -> bytes:
    """What is written of a task that is about to send its first token, or its terminal event."""
    story, since_ms = task.story, task.admission.at_ms
    run, end = story.run, story.end
    if end is not None and artifact_id is not None:
        end = msgspec.structs.replace(end, artifact_id=artifact_id)
    return _encoder.encode(
        Past(
            run=None if run is None else msgspec.structs.replace(run, served=_without_key(run.served)),
            replicas=story.replicas,
            run_after_ms=None if run is None else run.at_ms - since_ms,
            first_text_after_ms=None if story.first_text_ms is None else story.first_text_ms - since_ms,
            slot_free_ms=story.slot_free_ms,
            artifact_id=artifact_id,
            end=end,
            error=story.error,
        )
    )


def read_entered(data: bytes, now: Moment) -> Entered:
    """An admission, with its moment by this process's clock. Raises msgspec.MsgspecError."""
    found = _entered.decode(data)
    at_ms = now.monotonic_of(found.admission.created_ms)
    return msgspec.structs.replace(found, admission=msgspec.structs.replace(found.admission, at_ms=at_ms))


def read_past(data: bytes) -> Past:
    """How far a task came. Raises msgspec.MsgspecError."""
    return _past.decode(data)


def ended_task(admission: Admission, state: TaskState, found: Past, stream: bytes | None) -> Task:
    """A task that has ended, as it was. Without its stream it tells of itself, and cannot be read."""
    outcome = found.end or found.error
    log = StreamLog.restored(stream or b"", outcome)
    return Task.restored(admission, state, log, _story(admission, found))


def open_task(admission: Admission, found: Past, frames: bytes, keeps: Keeps | None) -> Task:
    """A task that was running, with what it had sent as far as that is known; it may go on, or be ended."""
    log = StreamLog.restored(frames, None)
    return Task.restored(admission, TaskState.RUNNING, log, _story(admission, found), keeps)


def _story(admission: Admission, found: Past) -> Story:
    since_ms, run = admission.at_ms, found.run
    if run is not None and found.run_after_ms is not None:
        run = msgspec.structs.replace(run, at_ms=since_ms + found.run_after_ms)
    first_ms = None if found.first_text_after_ms is None else since_ms + found.first_text_after_ms
    return Story(
        run=run,
        replicas=found.replicas,
        first_text_ms=first_ms,
        slot_free_ms=found.slot_free_ms,
        artifact_id=found.artifact_id,
        end=found.end,
        error=found.error,
    )


def _without_key(served: PoolSnapshot | None) -> PoolSnapshot | None:
    return None if served is None else msgspec.structs.replace(served, endpoint=None)
