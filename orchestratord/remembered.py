"""What the rows of the task store tell: tasks that have ended, and receipts.

Decides what is said of a row that nobody can read: of a task nothing, of a receipt its place alone. Whoever may write
the file may write anything into it, so nothing in it is taken for granted. Never writes.
"""

from __future__ import annotations

import logging

import msgspec

from contracts.artifacts import ArtifactKind
from contracts.receipts import Link
from contracts.tasks import TaskState
from orchestratord import kept
from orchestratord.database import ReceiptRow, Row
from orchestratord.kept import Moment
from orchestratord.records import TAGS
from orchestratord.shelf import Head, Sealed
from orchestratord.task import Task

log = logging.getLogger(__name__)


class _Numbered(msgspec.Struct):
    number: int


def ended_task(row: Row, now: Moment) -> Task | None:
    """The task of a row, where it has ended; one that lives is its owner's to tell of."""
    state = TaskState(row.state)
    if row.past is None or state in {TaskState.QUEUED, TaskState.RUNNING}:
        return None
    try:
        entered, past = kept.read_entered(row.entered, now), kept.read_past(row.past)
    except msgspec.MsgspecError as error:
        log.warning("the task %s cannot be read from the task store: %s", row.id, error, extra={"task_id": row.id})
        return None
    task = kept.ended_task(entered.admission, state, past, row.stream)
    task.veil = entered.veil
    return task


def told(state: TaskState, data: bytes, now: Moment) -> Task | None:
    """What there is to tell of a task that has ended."""
    try:
        past = kept.read_past(data)
    except msgspec.MsgspecError as error:
        log.warning("a task cannot be read from the task store: %s", error)
        return None
    if past.brief is None:  # pragma: no cover - what has ended has it
        return None
    return kept.ended_task(kept.since(past.brief, now), state, past, None)


def place(row: ReceiptRow) -> Link:
    """The place of a receipt in the chain; what it follows, where it tells of that."""
    found = sealed(row)
    try:
        return msgspec.json.decode(found.content, type=Link)
    except msgspec.DecodeError:
        return Link(number=row.number, previous=None)


def sealed(row: ReceiptRow) -> Sealed:
    """A receipt as it stands in the file. What cannot be told of stands for its place alone: it is no receipt then."""
    stored: object = row.content  # whoever may write the file may write anything: SQLite's types bind nobody
    content, redacted = stored if isinstance(stored, bytes) else str(stored).encode(), False
    try:
        said = msgspec.json.decode(content)  # all of it: a byte that is no text spoils the whole answer
        redacted = bool(said.get("redacted"))
        msgspec.convert(said, _Numbered)
    except (msgspec.MsgspecError, ValueError, AttributeError, RecursionError):
        content = msgspec.json.encode(_Numbered(number=row.number))
    when: object = row.ended_ms
    head = Head(kind=ArtifactKind.TRACE, created_ms=when if isinstance(when, int) else 0, tags=TAGS, redacted=redacted)
    return Sealed(name=row.id, content=content, head=head)
