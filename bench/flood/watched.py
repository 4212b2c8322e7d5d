"""``python -m bench.flood.watched BOOK --config FILE``: the real orchestratord, with a book of what it decides.

Every change of the queue, of a slot and of an engine's readiness is noted with its moment, in memory, and written when
the daemon ends. Nothing else is different: the same modules run in the same order.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from contracts.events import StreamError
from contracts.tasks import PlacementMode
from orchestratord.app import main
from orchestratord.backlog import Backlog, Queued
from orchestratord.observer import Observer
from orchestratord.occupancy import Hold, Occupancy
from orchestratord.pools import PoolDirectory, PoolEntry
from orchestratord.runner import Runner
from orchestratord.task import Task

POOLS = ("left", "right")


def moment() -> float:
    """Now, on the clock that every process of this machine shares."""
    return time.monotonic()


class Note(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """One thing that happened, ``at`` seconds of the monotonic clock."""

    at: float
    what: str
    who: str
    """A task, or a pool."""
    priority: str = ""
    pools: tuple[str, ...] = ()
    pool: str = ""
    engine: int = 0
    """Which start of an engine: each has slots of its own."""
    usable: bool = False
    slots: int = 0
    accepts: bool = False
    """Tasks may wait for this pool."""
    hold: int = 0
    """Which taking of a slot."""
    how: str = ""
    """How a task ended, what a pool serves, or that a turn is parked."""
    until: float | None = None
    """A turn is held for ``pool`` until then, in seconds of the same clock."""


class Book:
    """All notes, in order."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self._numbers: dict[object, int] = {}
        self._pools: dict[str, Note] = {}

    def note(self, what: str, who: str, **more: Any) -> None:  # noqa: ANN401 - any field of a note
        """Write one down."""
        self.notes.append(Note(moment(), what, who, **more))

    def number(self, what: object) -> int:
        """A number for one start of an engine, or for one taking of a slot."""
        return self._numbers.setdefault(what, len(self._numbers) + 1)

    def look(self, entry: PoolEntry) -> None:
        """Note how a pool is, where that has changed."""
        state = Note(
            0.0,
            "pool",
            entry.id,
            usable=entry.usable,
            slots=entry.slots,
            accepts=entry.view.accepts,
            engine=self.number(entry.adapter),
            how=entry.snapshot.model_ref,
        )
        if self._pools.get(entry.id) != state:
            self._pools[entry.id] = state
            self.notes.append(msgspec.structs.replace(state, at=moment()))


def watch(book: Book) -> None:
    """Have everything that decides leave a note."""
    note = book.note
    _after(Backlog, "offer", lambda _, answer, given: _offered(book, answer, given))
    _after(
        Backlog,
        "give_back",
        lambda backlog, _, given: note("back", given[0].task_id, pools=tuple(backlog.pools_of(given[0].task_id))),
        successful=True,
    )
    _after(Backlog, "unpark", lambda _, __, given: note("unpark", given[0], pool=given[1] or "", until=_s(given[2])))
    _after(Backlog, "remove", lambda _, __, given: note("gone", given[0]), successful=True)
    _after(Backlog, "extend", lambda _, __, given: _extended(book, *given))
    _after(Occupancy, "take", lambda _, hold, __: note("take", hold.pool_id, **_slot(book, hold)))
    _after(
        Occupancy,
        "free",
        lambda _, __, given: note("free", given[0].pool_id, **_slot(book, given[0])),
        successful=True,
    )
    for name in ("started", "started_again"):
        _after(Observer, name, lambda _, __, given: note("start", given[0].id, pool=given[0].run.pool_id))
    _after(Observer, "settled", lambda _, __, given: note("end", given[0].id, how=_end(given[0])))
    # Before anybody draws a conclusion from the report.
    _after(PoolDirectory, "report", lambda _, entry, __: book.look(entry), successful=True)
    pump = Runner.pump

    def look(runner: Runner) -> None:
        for entry in runner._pools:  # noqa: SLF001 - to look on is the purpose of this
            book.look(entry)

    def pumped(self: Runner) -> None:
        look(self)
        pump(self)
        look(self)
        note("pumped", "")

    Runner.pump = pumped  # type: ignore[method-assign]


def _offered(book: Book, answer: object, given: tuple[Any, ...]) -> None:
    task_id, priority, _, wish, named = given
    if isinstance(answer, Queued):
        book.note(
            "offer",
            task_id,
            priority=str(priority),
            pools=(wish.pool_id,) if wish.mode is PlacementMode.PIN else tuple(set(POOLS).difference(wish.avoid)),
            pool=named.get("home") or "",
            until=_s(named.get("hold_until_ms")),
            how="parked" if named.get("parked") else "",
        )


def _extended(book: Book, pool_id: str, task_ids: Sequence[str]) -> None:
    for task_id in task_ids:
        book.note("again", task_id, pool=pool_id)


def _slot(book: Book, hold: Hold) -> dict[str, int]:
    return {"engine": book.number(hold.adapter), "hold": book.number(hold)}


def _end(task: Task) -> str:
    """As clients call it."""
    outcome = task.outcome
    return "" if outcome is None else str(outcome.code if isinstance(outcome, StreamError) else outcome.finish_reason)


def _s(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _after(
    owner: type, name: str, then: Callable[[Any, Any, tuple[Any, ...]], None], *, successful: bool = False
) -> None:
    """Call ``then`` with the object, its answer and what it was given, after each call of a method.

    With ``successful`` only where the answer is true.
    """
    method = getattr(owner, name)

    def watched(self: object, *given: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever the method takes
        answer = method(self, *given, **named)
        if answer or not successful:
            then(self, answer, (*given, named) if named else given)
        return answer

    setattr(owner, name, watched)


def run() -> int:
    """The daemon to its end, and then the book."""
    path, *rest = sys.argv[1:]
    book = Book()
    watch(book)
    try:
        return main(rest)
    finally:
        Path(path).write_bytes(msgspec.json.encode(book.notes))


if __name__ == "__main__":
    sys.exit(run())
