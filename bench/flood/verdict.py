"""What the book of a run proves. Decides from the notes alone; measures nothing and waits for nothing."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.flood.watched import Note

WELL = {"length", "stop", "canceled"}
"""Ends that need no reason here; of "canceled" the clients know it."""
TURNED_AWAY = {"POOL_UNAVAILABLE", "MODEL_UNAVAILABLE"}
TINY = 1e-6
SLACK_S = 0.02
"""A loop looks at the clock once a turn, so that a hold ends a little later there."""


@dataclass
class Waiting:
    """One task that waits."""

    number: int
    priority: str
    pools: frozenset[str]
    """Those that it wishes for, whether they are in service or not; when it was given back, those that are left."""
    since: float
    home: str = ""
    until: float = 0.0
    parked: bool = False
    """An earlier turn of its conversation is not over."""
    free: bool = True
    """It never waited for anything but a slot of any of its pools."""
    turns: int = 1
    """After so many ends of runs in each slot of its pools at the latest it is its turn."""


@dataclass
class Run:
    """One task that runs."""

    pool_id: str
    harmed: bool
    """What was done to its pool may have ended it."""


@dataclass
class PoolNow:
    """One pool."""

    usable: bool = False
    slots: int = 0
    engine: int = 0
    accepts: bool = False
    model: str = ""
    harmed: bool = False
    """It was not usable since somebody did something to it that may end runs, or has not yet been so again."""
    hurt: bool = False
    """It was found not to be usable since then."""


@dataclass
class Shared:
    """The starts of a pool while both priorities waited for it.

    Two counts where a hold ended so close to a start that its side cannot be told.
    """

    certain: int = 0
    possible: int = 0
    batch_certain: int = 0
    batch_possible: int = 0

    def just(self, share: float) -> bool:
        """Whether batch has had its share of them, rounded down, and no more."""
        least, most = int(self.certain * share + TINY), int(self.possible * share + TINY)
        return self.batch_possible >= least and self.batch_certain <= most


@dataclass
class Verdict:
    """What a run came to. Spans in seconds."""

    offered: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    """How tasks ended, as clients call it."""
    unexplained: list[tuple[str, str]] = field(default_factory=list)
    """Tasks that ended badly though nothing was done that explains it."""
    ended_twice: list[str] = field(default_factory=list)
    never_ended: list[str] = field(default_factory=list)
    given_back: int = 0
    held: int = 0
    parked: int = 0
    passed: list[tuple[str, str]] = field(default_factory=list)
    """A task that started where one of its priority that came earlier, and waited, could have."""
    closed: list[tuple[str, str]] = field(default_factory=list)
    """Tasks that started on a pool that drains, has stopped or is in doubt."""
    shared: defaultdict[str, Shared] = field(default_factory=lambda: defaultdict(Shared))
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
    interactive_turns: list[float] = field(default_factory=list)
    """The same, for each turn of the slots that those who came before had to have first."""
    longest_run: float = 0.0
    """Until its slot was free."""
    open_slot_s: float = 0.0
    all_slot_s: float = 0.0

    @property
    def opened(self) -> float:
        """The share of the slots that was open."""
        return self.open_slot_s / self.all_slot_s if self.all_slot_s else 1.0

    @property
    def promptness(self) -> float:
        """The longest wait of an interactive task for a turn of its slots, as a share of the longest run."""
        return max(self.interactive_turns, default=0.0) / self.longest_run if self.longest_run else 0.0

    @property
    def occupancy(self) -> float:
        """The share of the slots that was busy, while there was work for them."""
        return 1.0 - self.idle_slot_s / self.wanted_slot_s if self.wanted_slot_s else 1.0


class Reader:
    """Goes through the notes once, in their order. ``model`` is what every task asks for, ``share`` batch's."""

    def __init__(self, model: str, share: float) -> None:
        self.verdict = Verdict()
        self._model = model
        self._share = share
        self._at = 0.0
        self._waiting: dict[str, Waiting] = {}
        self._pools: dict[str, PoolNow] = {}
        self._taken: Counter[int] = Counter()
        self._holds: dict[int, float] = {}
        self._runs: dict[str, Run] = {}
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
            self.verdict.all_slot_s += (now - before) * pool.slots
            if not pool.usable:
                self._upset = now
                continue
            self.verdict.open_slot_s += (now - before) * pool.slots
            able = sum(self._able(task, pool_id, before) for task in self._waiting.values())
            if able:
                self.verdict.wanted_slot_s += (now - before) * pool.slots
                self.verdict.idle_slot_s += (now - before) * min(self._free(pool), able)

    def _free(self, pool: PoolNow) -> int:
        return max(0, pool.slots - self._taken[pool.engine]) if pool.usable else 0

    def _able(self, task: Waiting, pool_id: str, now: float, slack_s: float = SLACK_S) -> bool:
        home = self._pools.get(task.home)
        held = now < task.until + slack_s and home is not None and home.usable and task.home != pool_id
        serves = self._pools[pool_id].model == self._model
        return serves and pool_id in task.pools and not held and not task.parked

    def _take(self, note: Note) -> None:  # noqa: C901 - a table of what may be noted
        verdict, who = self.verdict, note.who
        match note.what:
            case "offer":
                self._offer(note)
            case "unpark":
                self._settle(self._waiting[who], note)
            case "again":
                self._waiting[who].pools |= {note.pool}
            case "back":
                verdict.given_back += 1
                known = self._known[who]
                self._waiting[who] = Waiting(known.number, known.priority, frozenset(note.pools), known.since)
                self._runs.pop(who, None)
                known.free = False
            case "gone":
                self._waiting.pop(who, None)
            case "start":
                self._start(note)
            case "end":
                self._end(note)
            case "take":
                self._holds[note.hold] = note.at
                self._taken[note.engine] += 1
                if self._taken[note.engine] > self._pools[who].slots:
                    verdict.overfull.append(who)
            case "free":
                self._taken[note.engine] -= 1
                verdict.longest_run = max(verdict.longest_run, note.at - self._holds.pop(note.hold))
            case "pool":
                self._pool(note)
            case "harm":
                self._harm(who)
            case _:  # pumped: everything that can start has started
                open_pools = [pool_id for pool_id, pool in self._pools.items() if self._free(pool)]
                waiting = self._waiting.values()
                verdict.left_idle += [
                    pool_id for pool_id in open_pools if any(self._able(task, pool_id, note.at) for task in waiting)
                ]

    def _offer(self, note: Note) -> None:
        self.verdict.offered += 1
        pools = frozenset(note.pools)
        rivals = [task for task in self._waiting.values() if task.priority == "interactive" and task.pools & pools]
        # Each start that goes to batch for its share costs one more; a pool owes batch less than one when it begins.
        starts = len(rivals) + 1 if not self._share else (len(rivals) + 1 + len(pools)) / (1 - self._share)
        slots = sum(self._pools[pool_id].slots for pool_id in pools)
        task = Waiting(self.verdict.offered, note.priority, pools, note.at, turns=max(1, math.ceil(starts / slots)))
        self._waiting[note.who] = self._known[note.who] = task
        self._settle(task, note)

    def _settle(self, task: Waiting, note: Note) -> None:
        """Where a task waits from now on."""
        task.parked = note.how == "parked"
        task.home, task.until = (note.pool, note.until or 0.0) if note.pool in task.pools else ("", 0.0)
        verdict = self.verdict
        verdict.parked += task.parked
        verdict.held += task.until > note.at
        task.free = task.free and not task.parked and not task.until

    def _start(self, note: Note) -> None:
        verdict, pool = self.verdict, self._pools[note.pool]
        known = self._known[note.who]
        if not pool.usable:
            verdict.closed.append((note.who, note.pool))
        for task_id, task in self._waiting.items():
            earlier = task.priority == known.priority and task.number < known.number
            if earlier and self._able(task, note.pool, note.at):
                verdict.passed.append((note.who, task_id))
        self._share_out(note, known)
        if known.priority == "interactive" and known.free and known.since > self._upset:
            verdict.interactive_waits.append(note.at - known.since)
            verdict.interactive_turns.append((note.at - known.since) / known.turns)
        self._runs[note.who] = Run(note.pool, pool.harmed)

    def _share_out(self, note: Note, known: Waiting) -> None:
        """Whose start it was, where both priorities waited for it."""
        others = [task for task in self._waiting.values() if task.priority != known.priority]
        shared = self.verdict.shared[note.pool]
        if any(self._able(task, note.pool, note.at, -SLACK_S) for task in others):
            shared.possible += 1
            shared.batch_possible += known.priority == "batch"
        if any(self._able(task, note.pool, note.at) for task in others):
            shared.certain += 1
            shared.batch_certain += known.priority == "batch"

    def _end(self, note: Note) -> None:
        self._ended[note.who] += 1
        self.verdict.ends[note.how] += 1
        run = self._runs.pop(note.who, None)
        turned_away = note.how in TURNED_AWAY and run is None and not self._served(self._known[note.who].pools)
        lost = note.how == "WORKER_RESET" and run is not None and run.harmed
        if note.how not in WELL and not turned_away and not lost:
            self.verdict.unexplained.append((note.who, note.how))

    def _served(self, pools: Iterable[str]) -> bool:
        """Whether any of these pools may run what everybody asks for, now or soon."""
        return any(pool.accepts and pool.model == self._model for pool in map(self._pools.__getitem__, pools))

    def _pool(self, note: Note) -> None:
        pool = self._pools.setdefault(note.who, PoolNow())
        pool.hurt = pool.harmed and (pool.hurt or not note.usable)
        if pool.hurt and note.usable:
            pool.harmed = pool.hurt = False
        pool.usable, pool.slots, pool.engine = note.usable, note.slots, note.engine
        pool.accepts, pool.model = note.accepts, note.how

    def _harm(self, pool_id: str) -> None:
        pool = self._pools[pool_id]
        pool.harmed, pool.hurt = True, False
        for run in self._runs.values():
            run.harmed = run.harmed or run.pool_id == pool_id
