"""Keeps tasks in the database: told of what becomes of them, and asked what became of them.

Decides what is done where a disk takes nothing: a new task is not let in, since it could not be kept; one that runs
goes on, and its end is written as soon as the disk takes it. What is written is ``fair_copy``'s to say, what goes
``room``'s. A damaged file is set aside and a new one begun with the tasks that live. All writing is done before
anybody is told of what was written, so that nothing can be taken back.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec

from contracts.artifacts import ID_PREFIX
from contracts.config import Durability
from contracts.errors import ErrorCode
from contracts.events import End, StreamError
from contracts.receipts import Link
from contracts.tasks import Determinism, OnDisconnect, TaskRequest, TaskState
from daemon_core.heartbeat import Heartbeats
from daemon_core.redaction import Redactor
from daemon_core.steps import Steps
from orchestratord import kept, remembered
from orchestratord.clock import Clock
from orchestratord.database import ROW_BYTES, Database, Ending, ReceiptRow, Row
from orchestratord.database_file import DatabaseError
from orchestratord.disk import Disk
from orchestratord.errors import api_error
from orchestratord.fair_copy import FairCopy
from orchestratord.kept import Entered, Moment, Shown
from orchestratord.retention import Bounds
from orchestratord.room import Room
from orchestratord.settling import Settling
from orchestratord.shelf import Sealed
from orchestratord.task import Task

log = logging.getLogger(__name__)

Seal = Callable[[Task, End | StreamError, Link], Sealed | None]
"""Makes the receipt of a task that ends with this event; None where it cannot be made."""

UPKEEP_S = 2.0
AT_ONCE = 32
"""So many are read in one step, so that no step is long."""
CHAIN_START = Link(number=1, previous=None)

T = TypeVar("T")


NOWHERE = 0


class Living(msgspec.Struct, frozen=True):
    """A task without an end, and what is written of its admission."""

    task: Task
    entered: Entered
    number: int
    """Its row's; NOWHERE where a new file did not take it yet."""
    size: int
    """Of that in bytes."""


class Keeper:
    """The tasks of this daemon on their disk. ``run`` looks after the file meanwhile."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        bounds: Bounds,
        durability: Durability = Durability.MEMORY,
        seal: Seal | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self._database = database
        self._clock = clock
        self._seal = seal
        self._fair = FairCopy(redactor or Redactor())
        self._disk = None if database.path is None else Disk(database.path, lambda: self._database.writes)
        self._settling = Settling(self._disk if durability is Durability.MACHINE else None, self._complain)
        self._live: dict[str, Living] = {}
        self._unwritten: dict[str, bytes] = {}
        """What strict tasks have sent that is not written ahead yet, since the disk took nothing."""
        self._owed: dict[str, tuple[Task, End | StreamError]] = {}
        """Ended tasks whose end is not written yet."""
        self._missing: list[str] = []
        """Tasks that live and are not in the new file yet."""
        self._behind: set[str] = set()
        """Tasks that have spoken, which is not written yet."""
        self._said = ""
        self.trouble: str | None = None
        """Why what was to be written last could not be."""
        self._tidied = 0
        """How much was written when checkpoints were made, the last time."""
        self._room = Room(database, bounds, clock, self._complain)
        self._next = CHAIN_START
        try:
            self._open()
        except DatabaseError as error:
            if not error.damaged:
                raise
            self._begin_anew()

    @property
    def durable(self) -> bool:
        """Whether a restart of the daemon finds its tasks again."""
        return self._database.path is not None

    def close(self) -> None:
        """Write what is owed, and let go of the file."""
        self._settle_debts()
        if self._owed:
            log.error("the ends of %d tasks could not be written", len(self._owed))
        if self._disk is not None:
            self._disk.close()
        self._database.close()

    async def run(self, heartbeats: Heartbeats | None = None) -> None:
        """Look after the file, and tell of ends when they are on the disk, until this is cancelled."""
        heartbeats = heartbeats or Heartbeats()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._settling.run(heartbeats), name="ends")
                await self._upkeep(heartbeats)
        finally:
            self._settling.finish()

    async def _upkeep(self, heartbeats: Heartbeats) -> None:
        heart = heartbeats.owner("task-store", UPKEEP_S)
        while True:
            heart.beat()
            await asyncio.sleep(UPKEEP_S)
            await self.look_after(heart.beat)
            if self._disk is not None and self._tidied != self._database.writes:
                self._tidied = self._database.writes
                # The next time will do; a damaged file shows itself when it is written.
                with heart.resting(), suppress(sqlite3.Error):
                    await self._disk.tidied()

    async def look_after(self, beat: Callable[[], None] = lambda: None) -> None:
        """Write what is owed, and let go what is due: after a write, or because time has passed.

        ``beat`` is called while it goes on: how long a disk takes to let much go says nothing about us.
        """
        self._try(self._database.hold)
        self._settle_debts()
        await self._room.make(beat)

    # --- what becomes of tasks ----------------------------------------------------------------------------------------

    def shown(self, request: TaskRequest) -> Steps[Shown]:
        """How a request may be written down."""
        return self._fair.request(request)

    def admits(self, task: Task, pools: frozenset[str], shown: Shown) -> None:
        """A task enters the queue. Raises ApiError where it cannot be kept."""
        entered = kept.entered(task.admission, pools, shown)
        try:
            self._live[task.id] = self._written(lambda: self._admit(task, entered))
        except DatabaseError as error:
            text = f"the task cannot be kept: {error.message}"
            raise api_error(ErrorCode.POOL_UNAVAILABLE, text, error.hint) from error

    def told(self, tell: Callable[[], None]) -> None:
        """See ``orchestratord.settling``, as the two below."""
        self._settling.told(tell)

    async def settled(self) -> None:
        """As durable as was configured, or it cannot be."""
        await self._settling.settled()

    async def admitted(self) -> None:
        """As durable as was configured. Raises ApiError where the disk fails."""
        await self._settling.admitted()

    def adopt(self, task: Task, entered: Entered, row: Row) -> None:
        """A task that a former run has written down lives on."""
        self._live[task.id] = Living(task, entered, row.number, len(row.entered))

    def forget(self, task_id: str) -> None:
        """A task of a former run cannot be read."""
        self._try(lambda: self._database.forget(task_id))

    def unsay(self, task_id: str) -> None:
        """A task of a former run had sent no token: it starts from the beginning."""
        self._try(lambda: self._database.unsay(task_id))

    def follows(self, task: Task) -> None:
        """Somebody reads the stream of a task that ends when nobody does: after a restart they are waited for."""
        task.followed = True
        if task.on_disconnect is OnDisconnect.CANCEL and (task.state is TaskState.QUEUED or task.log.ahead is not None):
            self._try(lambda: self._database.follow(task.id))

    def speaks(self, task: Task) -> None:
        """It is about to send its first token."""
        if not self._try(lambda: self._database.speak(task.id, self._past(task))):
            self._behind.add(task.id)

    def grows(self, task: Task) -> int:
        """Its stream is long; answers with the length at which to say so again."""
        return self._fair.grows(task)

    def sends(self, task: Task) -> Callable[[bytes], None] | None:
        """Strict tasks are written down ahead, so that they can be run again behind what was sent."""
        if not self.durable or task.request.determinism is not Determinism.STRICT:
            return None
        return partial(self._append, task.id)

    def freed(self, task: Task) -> None:
        """The engine has let go of a task that had ended."""
        if task.finished and task.id not in self._owed:
            past = self._past(task, task.artifact_id, ended=True)
            self._try(lambda: self._database.tell(task.id, past))

    def ends(self, task: Task, event: End | StreamError) -> str | None:
        """Its end, its stream and its receipt in one step; answers with the receipt's id."""
        self._settle_debts()
        try:
            return self._written(lambda: self._end(task, event))  # sealed anew where a new chain begins
        except DatabaseError as error:
            self._owed[task.id] = task, event
            self._complain(error)
            return None

    # --- what became of them ------------------------------------------------------------------------------------------

    def unended(self) -> list[Row]:
        """What a former run has left without an end, in the order of admission.

        Raises DatabaseError: who was let in must not be passed over because a disk could not be read for a moment.
        """
        try:
            return self._database.unended()
        except DatabaseError as error:
            if not error.damaged:
                raise
            self._begin_anew()
            return []

    def journal(self, task_id: str) -> bytes:
        """What such a task has sent, where it was written down ahead."""
        return self._read(lambda: self._database.journal(task_id), b"")

    def task(self, task_id: str) -> Task | None:
        """A task that has ended, with its stream."""
        if task_id in self._owed:
            return self._owed[task_id][0]
        row = self._read(lambda: self._database.task(task_id), None)
        return None if row is None else remembered.ended_task(row, self._now)

    def newest(self, state: TaskState | None, limit: int) -> Steps[list[Task]]:
        """The newest tasks that have ended, without their streams."""
        rows: list[tuple[TaskState, bytes]] = self._read(lambda: self._database.newest(state, limit), [])
        found, now = [], self._now
        for number, row in enumerate(rows, 1):
            task = remembered.told(*row, now)
            if task is not None:
                found.append(task)
            if number % AT_ONCE == 0:
                yield
        return [*found, *(task for task, _ in self._owed.values() if state in {None, task.state})]

    # --- receipts: orchestratord.ledger -------------------------------------------------------------------------------

    @property
    def next(self) -> Link:
        """The place that the next receipt takes."""
        return self._next

    @property
    def first(self) -> Link | None:
        """The place of the oldest that is kept."""
        oldest: list[ReceiptRow] = self._read(lambda: self._database.receipts(0, 1), [])
        if not oldest:
            return None
        return remembered.place(oldest[0])

    @property
    def last(self) -> int:
        """The number of the newest."""
        return self._next.number - 1

    def get(self, artifact_id: str) -> Sealed | None:
        """A receipt by its id."""
        digest = artifact_id.removeprefix(ID_PREFIX)
        row = self._read(lambda: self._database.receipt(digest), None) if digest != artifact_id else None
        return None if row is None else remembered.sealed(row)

    def read(self, after: int, limit: int) -> list[Sealed]:
        """Those with greater numbers, in their order."""
        rows: list[ReceiptRow] = self._read(lambda: self._database.receipts(after, limit), [])
        return [remembered.sealed(row) for row in rows]

    # --- inside -------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Find where the chain of receipts goes on, and what there is."""
        last = self._database.last_receipt()
        self._next = CHAIN_START if last is None else Link(number=last.number + 1, previous=ID_PREFIX + last.id)
        self._room.measure()

    def _append(self, task_id: str, frames: bytes) -> None:
        if task_id not in self._live or self._live[task_id].entered.veil is not None:
            return
        try:
            self._written(self._catch_up)  # what comes next must not be written without it
            self._written(lambda: self._database.append(task_id, frames))
        except DatabaseError as error:
            self._unwritten[task_id] = self._unwritten.get(task_id, b"") + frames
            self._complain(error)

    def _admit(self, task: Task, entered: Entered) -> Living:
        written = kept.written(entered)
        return Living(task, entered, self._database.admit(task.id, written), len(written))

    def _end(self, task: Task, event: End | StreamError) -> str | None:
        sealed = None if self._seal is None else self._seal(task, event, self._next)
        artifact_id = None if sealed is None else sealed.id
        now_ms, past = self._clock.unix_ms(), self._past(task, artifact_id, ended=True)
        receipt = None
        if sealed is not None:
            receipt = ReceiptRow(self._next.number, sealed.name, task.id, now_ms, sealed.content)
        living, stream = self._live[task.id], self._fair.stream(task, sealed)
        if living.number == NOWHERE:
            living = self._live[task.id] = self._admit(task, living.entered)
        size = ROW_BYTES + living.size + len(past) + len(stream)
        self._database.end(
            Ending(
                number=living.number,
                task_id=task.id,
                state=task.state,
                past=past,
                stream=stream,
                ended_ms=now_ms,
                size=size,
                receipt=receipt,
                journaled=task.log.ahead is not None,
            )
        )
        del self._live[task.id]
        self._behind.discard(task.id)
        self._unwritten.pop(task.id, None)
        if receipt is None:
            self._room.taken(receipts=0, size=size)
        else:
            self._next = Link(number=receipt.number + 1, previous=artifact_id)
            self._room.taken(receipts=1, size=size + len(receipt.content) + ROW_BYTES)
        return artifact_id

    def _past(self, task: Task, artifact_id: str | None = None, *, ended: bool = False) -> bytes:
        living = self._live.get(task.id)
        return self._fair.past(task, None if living is None else living.entered, artifact_id, ended=ended)

    def _settle_debts(self) -> None:
        """Write what could not be written when it came."""
        try:
            self._written(self._catch_up)
            for task_id, (task, event) in list(self._owed.items()):
                task.artifact_id = self._written(partial(self._end, task, event))
                del self._owed[task_id]
        except DatabaseError as error:
            self._complain(error)
        else:
            self._said = ""

    def _catch_up(self) -> None:
        """Write of those who live what is not written yet. Raises DatabaseError."""
        while self._missing:
            living = self._live.get(self._missing[-1])
            if living is not None and living.number == NOWHERE:
                task = living.task
                self._live[task.id] = self._admit(task, living.entered)
                if task.log.ahead is not None and living.entered.veil is None:
                    self._unwritten[task.id] = task.log.read(0)
                if task.first_text_ms is not None:
                    self._behind.add(task.id)
            self._missing.pop()
        for task_id in list(self._unwritten):
            self._database.append(task_id, self._unwritten[task_id])
            del self._unwritten[task_id]
        for task_id in list(self._behind):  # last: what is known to have spoken is gone on with from what is written
            self._database.speak(task_id, self._past(self._live[task_id].task))
            self._behind.discard(task_id)

    @property
    def _now(self) -> Moment:
        return Moment(self._clock.monotonic_ms(), self._clock.unix_ms())

    def _written(self, write: Callable[[], T]) -> T:
        """Write; into a new file where this one is damaged. Raises DatabaseError."""
        before = self._database.writes
        try:
            done = write()
        except DatabaseError as error:
            if not error.damaged:
                self.trouble = error.message
                raise
            self._begin_anew()
            done = write()
        if self._database.writes > before:
            self.trouble = None
        return done

    def _begin_anew(self) -> None:
        """The file is damaged: it is set aside, and the tasks that live are written into a new one.

        Raises DatabaseError.
        """
        if self._database.path is None:  # pragma: no cover - memory is not damaged
            return
        self._database.renew()
        self._live = {name: msgspec.structs.replace(each, number=NOWHERE) for name, each in self._live.items()}
        self._missing = list(reversed(self._live))
        self._open()
        self._unwritten.clear()
        self._behind.clear()
        self._catch_up()

    def _try(self, write: Callable[[], object]) -> bool:
        """Write, or say that it could not be; whether it was."""
        try:
            self._written(write)
        except DatabaseError as error:
            self._complain(error)
            return False
        return True

    def _read(self, read: Callable[[], T], otherwise: T) -> T:
        """What is read; a damaged file has nothing to tell, and is not asked again."""
        try:
            return read()
        except DatabaseError as error:
            if error.damaged:
                self._try(self._begin_anew)
            else:
                self._complain(error)
            return otherwise

    def _complain(self, error: DatabaseError) -> None:
        """Said once for each reason in a row."""
        if error.message != self._said:
            log.error("%s; %s", error.message, error.hint)
        self._said = error.message
