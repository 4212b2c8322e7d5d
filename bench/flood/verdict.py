"""What the book of a run proves. Decides from the notes alone; measures nothing and waits for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.flood.watched import Note

SLACK_S = 0.02
"""A loop looks at the clock once a turn, so that a hold ends a little later there."""


@dataclass
class Waiting:
    """One task that waits."""

    number: int
    priority: str
    pools: frozenset[str]
    since: float
    home: str = ""
    until: float = 0.0
    parked: bool = False
    """An earlier turn of its conversation is not over."""
    free: bool = True
    """It never waited for anything but a slot of any of its pools."""


@dataclass
class PoolNow:
    """One pool."""

    usable: bool = False
    slots: int = 0
    engine: int = 0


@dataclass
class Verdict:
    """What a run came to. Spans in seconds."""

    offered: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """How tasks ended, by state."""
    ended_twice: list[str] = field(default_factory=list)
    never_ended: list[str] = field(default_factory=list)
    given_back: int = 0
    held: int = 0
    parked: int = 0
    passed: list[tuple[str, str]] = field(default_factory=list)
    """A task that started where one that goes before it, and waited, could have: that one came earlier, or it is
    interactive and the other is not."""
    left_idle: list[str] = field(default_factory=list)
    """Pools with a free slot for a task that waited, when the runner had started all that it could."""
    overfull: list[str] = field(default_factory=list)
    """Pools that got more tasks than their engine has slots."""
    idle_slot_s: float = 0.0
    """Free slots of usable engines while a task waited that could have had them, over time."""
    wanted_slot_s: float = 0.0
    """All slots of usable engines while a task waited that could have had one, over time."""
    interactive_waits: list[float] = field(default_factory=list)
    """Of those that waited for a slot alone, while every engine was up."""
    longest_run: float = 0.0

    @property
    def occupancy(self) -> float:
        """The share of the slots that was busy, while there was work for them."""
        return 1.0 - self.idle_slot_s / self.wanted_slot_s if self.wanted_slot_s else 1.0


class Reader:
    """Goes through the notes once, in their order."""

    def __init__(self) -> None:
        self.verdict = Verdict()
        self._at = 0.0
        self._waiting: dict[str, Waiting] = {}
        self._pools: dict[str, PoolNow] = {}
        self._taken: Counter[int] = Counter()
        self._started: dict[str, float] = {}
        self._ended: Counter[str] = Counter()
        self._known: dict[str, Waiting] = {}
        self._upset = 0.0
        """When a pool was last not usable."""

    def read(self, notes: Iterable[Note]) -> Verdict:
        """The verdict over the whole book."""
        for note in notes:
            self._pass(note.at)
            self._take(note)
        verdict = self.verdict
        verdict.ended_twice = [task_id for task_id, count in self._ended.items() if count > 1]
        verdict.never_ended = [task_id for task_id in self._known if task_id not in self._ended]
        return verdict

    def _pass(self, now: float) -> None:
        """The time since the last note, in which nothing changed."""
        before, self._at = self._at, now
        for pool_id, pool in self._pools.items():
            if not pool.usable:
                self._upset = now
                continue
            able = sum(self._able(task, pool_id, before) for task in self._waiting.values())
            if able:
                self.verdict.wanted_slot_s += (now - before) * pool.slots
                self.verdict.idle_slot_s += (now - before) * min(self._free(pool), able)

    def _free(self, pool: PoolNow) -> int:
        return max(0, pool.slots - self._taken[pool.engine]) if pool.usable else 0

    def _able(self, task: Waiting, pool_id: str, now: float) -> bool:
        home = self._pools.get(task.home)
        held = now < task.until + SLACK_S and home is not None and home.usable and task.home != pool_id
        return pool_id in task.pools and not held and not task.parked

    def _take(self, note: Note) -> None:
        verdict, who = self.verdict, note.who
        match note.what:
            case "offer":
                verdict.offered += 1
                pools = frozenset(note.pools)
                task = Waiting(verdict.offered, note.priority, pools, note.at)
                self._waiting[who] = self._known[who] = task
                self._settle(task, note)
            case "unpark":
                self._settle(self._waiting[who], note)
            case "back":
                verdict.given_back += 1
                known = self._known[who]
                self._waiting[who] = Waiting(known.number, known.priority, frozenset(note.pools), known.since)
            case "gone":
                self._waiting.pop(who, None)
            case "start":
                self._start(note)
            case "end":
                self._ended[who] += 1
                verdict.ends[note.how] += 1
                if who in self._started:
                    verdict.longest_run = max(verdict.longest_run, note.at - self._started[who])
            case "take":
                self._taken[note.engine] += 1
                if self._taken[note.engine] > self._pools[who].slots:
                    verdict.overfull.append(who)
            case "free":
                self._taken[note.engine] -= 1
            case "pool":
                self._pools[who] = PoolNow(note.usable, note.slots, note.engine)
            case _:  # pumped: everything that can start has started
                open_pools = [pool_id for pool_id, pool in self._pools.items() if self._free(pool)]
                waiting = self._waiting.values()
                verdict.left_idle += [
                    pool_id for pool_id in open_pools if any(self._able(task, pool_id, note.at) for task in waiting)
                ]

    def _settle(self, task: Waiting, note: Note) -> None:
        """Where a task waits from now on."""
        task.parked = note.how == "parked"
        task.home, task.until = (note.pool, note.until or 0.0) if note.pool in task.pools else ("", 0.0)
        verdict = self.verdict
        verdict.parked += task.parked
        verdict.held += task.until > note.at
        task.free = task.free and not task.parked and not task.until

    def _start(self, note: Note) -> None:
        known = self._known[note.who]
        for task_id, task in self._waiting.items():
            first = task.number < known.number if task.priority == known.priority else task.priority == "interactive"
            if first and self._able(task, note.pool, note.at):
                self.verdict.passed.append((note.who, task_id))
        first = known.priority == "interactive" and known.free and note.who not in self._started
        if first and known.since > self._upset:
            self.verdict.interactive_waits.append(note.at - known.since)
        self._started[note.who] = note.at
