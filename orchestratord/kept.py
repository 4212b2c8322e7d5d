"""A task as it is written down, and a task from what was written.

Decides what has to be kept of a task so that the next run of the daemon can go on with it, or tell of it: all of its
admission, and how far it came. Monotonic moments mean nothing to another process, so spans are kept and moments are
counted from the wall clock. Never keeps an engine's key, nor a secret that a client has sent: a request that holds one
is kept without it, under a *veil*, the hash of what it was, by which the same request is known again; and so is a text.
Values in, values out.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import Raw

from contracts.artifacts import canonical
from contracts.base import Message
from contracts.events import End, Started, StreamError
from contracts.pools import PoolSnapshot
from contracts.tasks import Placement, Sampling, TaskRequest, TaskState
from daemon_core.redaction import Redactor
from daemon_core.steps import Steps
from orchestratord.stream_log import StreamLog, pieces_of, with_pieces
from orchestratord.task import Admission, Keeps, Run, Story, Task


class Entered(Message, frozen=True, kw_only=True):
    """What is written at the admission of a task."""

    admission: Admission
    pools: tuple[str, ...]
    """Those that may run it."""
    veil: str | None = None
    """Set where the request held a secret, which is not in it any more."""


class Shown(msgspec.Struct, frozen=True):
    """A request as it may be written down."""

    request: TaskRequest
    veil: str | None = None
    """What it is known by, where it held a secret."""


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
    started: Started | None = None
    """What its stream began with, until the task has ended: then it stands there."""
    sent: Any = None
    """What its engine was asked for, without texts, until the task has ended: then its receipt says it."""
    brief: Admission | None = None
    """The admission without the texts of its request, once the task has ended: enough to tell of it."""


class Moment(msgspec.Struct, frozen=True):
    """Now, by both clocks, in milliseconds."""

    monotonic_ms: float
    unix_ms: int

    def monotonic_of(self, unix_ms: int) -> float:
        """What the monotonic clock would have shown then, had it run already."""
        return self.monotonic_ms - max(0, self.unix_ms - unix_ms)  # the wall clock may have been set back


_encoder = msgspec.json.Encoder()
SHORT = 16_384
"""A request of so many bytes is looked at once as a whole, which most come through."""
_INNOCENT = (b'"max_tokens":', b'"expected_tokens":', b'"first_token_ms":', b'"kv_bytes_per_token":')
_entered = msgspec.json.Decoder(Entered)
_past = msgspec.json.Decoder(Past)


def veil_of(request: TaskRequest) -> str:
    """What a request is known by."""
    return hashlib.sha256(_encoder.encode(request)).hexdigest()


def asks_the_same(task: Task, request: TaskRequest) -> bool:
    """Whether a request is the one that a task was made of."""
    return task.request == request if task.veil is None else task.veil == veil_of(request)


def shown(request: TaskRequest, redactor: Redactor) -> Steps[Shown]:
    """How a request may be written down; a long one is looked at in steps."""
    encoded = _encoder.encode(request)
    if len(encoded) <= SHORT and redactor.harmless(_values(encoded)):
        return Shown(request)
    plain = msgspec.json.decode(encoded)
    clean = yield from redactor.in_steps(plain)
    return Shown(request) if clean == plain else Shown(msgspec.convert(clean, TaskRequest), veil_of(request))


def entered(admission: Admission, pools: frozenset[str], shown: Shown) -> Entered:
    """What is written at an admission."""
    if shown.veil is not None:
        admission = msgspec.structs.replace(admission, request=shown.request)
    return Entered(admission=admission, pools=tuple(sorted(pools)), veil=shown.veil)


def without_names(past: bytes, redactor: Redactor) -> bytes:
    """A past without the secrets that others may have put into names and messages."""
    text = _values(past)
    if redactor.harmless(text) or redactor.text(text) == text:
        return past
    return _encoder.encode(redactor.value(msgspec.json.decode(past)))


def _values(encoded: bytes) -> str:
    """JSON of ours without those names of fields that look as if a secret followed. In a text they are escaped."""
    for name in _INNOCENT:
        encoded = encoded.replace(name, b"")
    return encoded.decode()


def written(entered: Entered) -> bytes:
    """As it stands in the file."""
    return _encoder.encode(entered)


def past(
    task: Task,
    artifact_id: str | None = None,
    brief: Admission | None = None,
    *,
    served: PoolSnapshot | None = None,
) -> bytes:
    """What is written of a task that is about to send its first token, or its terminal event.

    ``served``: what is kept of who served it, where somebody has looked at that before.
    """
    story, since_ms = task.story, task.admission.at_ms
    run, end = story.run, story.end
    if run is not None:
        run = msgspec.structs.replace(run, served=served or _bare(run.served))
    ended = end is not None or story.error is not None
    if end is not None and artifact_id is not None:
        end = msgspec.structs.replace(end, artifact_id=artifact_id)
    return _encoder.encode(
        Past(
            run=run,
            replicas=story.replicas,
            run_after_ms=None if run is None else run.at_ms - since_ms,
            first_text_after_ms=None if story.first_text_ms is None else story.first_text_ms - since_ms,
            slot_free_ms=story.slot_free_ms,
            artifact_id=artifact_id,
            end=end,
            error=story.error,
            started=None if ended else task.opening,
            sent=None if story.sent is None or ended else Raw(story.sent),
            brief=brief,
        )
    )


def brief(admission: Admission) -> Admission:
    """An admission without what may be long."""
    request = msgspec.structs.replace(
        admission.request, prompt=None, inputs=None, messages=None, sampling=Sampling(), placement=Placement()
    )
    return msgspec.structs.replace(admission, request=request)


def without_secrets(frames: bytes, redactor: Redactor) -> bytes:
    """A stream as it may be written.

    A secret may reach over several pieces: where there is one, the first piece has the whole text without it, and the
    others are empty, so that their numbers stay.
    """
    pieces = pieces_of(frames)
    text = "".join(pieces)
    clean = redactor.text(text)
    return frames if clean == text else with_pieces(frames, [clean, *[""] * (len(pieces) - 1)])


def read_entered(data: bytes, now: Moment) -> Entered:
    """An admission, with its moment by this process's clock. Raises msgspec.MsgspecError."""
    found = _entered.decode(data)
    return msgspec.structs.replace(found, admission=since(found.admission, now))


def since(admission: Admission, now: Moment) -> Admission:
    """An admission of a former run, with its moment by this process's clock."""
    return msgspec.structs.replace(admission, at_ms=now.monotonic_of(admission.created_ms))


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
    if not frames and found.started is not None:
        log.started(found.started)
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
        sent=None if found.sent is None else canonical(found.sent),
    )


def lasting(served: PoolSnapshot, redactor: Redactor) -> PoolSnapshot:
    """What is kept of an engine: not its key, nor what was measured, nor a secret in the name of its model."""
    bare = _bare(served) or served
    plain = _encoder.encode(bare)
    clean = without_names(plain, redactor)
    return bare if clean is plain else msgspec.json.decode(clean, type=PoolSnapshot)


def _bare(served: PoolSnapshot | None) -> PoolSnapshot | None:
    return None if served is None else msgspec.structs.replace(served, endpoint=None, device_use=(), last_error=None)
