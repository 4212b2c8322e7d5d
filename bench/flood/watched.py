"""``python -m bench.flood.watched BOOK --config FILE``: the real orchestratord, with a book of what it decides.

Every change of the queue, of a slot and of an engine's readiness is noted with its moment, in memory, and written when
the daemon ends. Nothing else is different: the same modules run in the same order.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from orchestratord.app import main
from orchestratord.backlog import Backlog, Queued
from orchestratord.observer import Observer
from orchestratord.occupancy import Occupancy
from orchestratord.runner import Runner


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
    how: str = ""
    until: float | None = None
    """A turn is held for ``pool`` until then, in seconds of the same clock."""


class Book:
    """All notes, in order."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self._engines: dict[object, int] = {}
        self._pools: dict[str, tuple[bool, int, int]] = {}

    def note(self, what: str, who: str, **more: Any) -> None:  # noqa: ANN401 - any field of a note
        """Write one down."""
        self.notes.append(Note(time.monotonic(), what, who, **more))

    def engine(self, adapter: object) -> int:
        """A number for one start of an engine."""
        return self._engines.setdefault(adapter, len(self._engines) + 1)

    def look(self, runner: Runner) -> None:
        """Note which pools are usable, where that has changed."""
        for entry in runner._pools:  # noqa: SLF001 - to look on is the purpose of this
            state = (entry.usable, entry.slots, self.engine(entry.adapter))
            if self._pools.get(entry.id) != state:
                self._pools[entry.id] = state
                self.note("pool", entry.id, usable=state[0], slots=state[1], engine=state[2])


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
    _after(Occupancy, "take", lambda _, __, given: note("take", given[0], engine=book.engine(given[1])))
    _after(
        Occupancy,
        "free",
        lambda _, __, given: note("free", given[0].pool_id, engine=book.engine(given[0].adapter)),
        successful=True,
    )
    for name in ("started", "started_again"):
        _after(Observer, name, lambda _, __, given: note("start", given[0].id, pool=given[0].run.pool_id))
    _after(Observer, "settled", lambda _, __, given: note("end", given[0].id, how=str(given[0].state)))
    pump = Runner.pump

    def pumped(self: Runner) -> None:
        book.look(self)
        pump(self)
        book.look(self)
        note("pumped", "")

    Runner.pump = pumped  # type: ignore[method-assign]


def _offered(book: Book, answer: object, given: tuple[Any, ...]) -> None:
    task_id, priority, pools, *rest = given
    named: dict[str, Any] = rest.pop() if rest and isinstance(rest[-1], dict) else {}
    if isinstance(answer, Queued):
        book.note(
            "offer",
            task_id,
            priority=str(priority),
            pools=tuple(pools),
            pool=named.get("home") or "",
            until=_s(named.get("hold_until_ms")),
            how="parked" if named.get("parked") else "",
        )


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
