"""A simulated installation around the real backlog and dispatch: engines and clients that do what a script says.

It keeps books of its own, the slow way, and holds every decision of the scheduler against them.
"""

import heapq
import itertools
import math
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from contracts.config import FullPolicy, Queue
from contracts.tasks import Placement, Priority
from orchestratord.backlog import Backlog, Entry, Full
from orchestratord.dispatch import next_assignment, next_expiry
from orchestratord.placement import Replica

PLAYED: Counter[str] = Counter()
"""How much was played in this run of the tests, by what it was."""
RETRIES = 2
"""So often a task that has sent nothing yet is given to another replica."""


class PoolScript(msgspec.Struct, frozen=True):
    """How a pool begins."""

    model: str
    slots: int
    queue: Queue


class Arrive(msgspec.Struct, frozen=True):
    """A client sends a task. It wants one of ``only``, unless that is empty, and none of ``avoid``."""

    priority: Priority
    model: str
    only: frozenset[str] = frozenset()
    avoid: frozenset[str] = frozenset()
    prefer: tuple[str, ...] = ()
    home: str | None = None
    wait: int = 0
    first_token: int = 0
    takes: int = 1
    deadline: int | None = None


class Crash(msgspec.Struct, frozen=True):
    """An engine dies with all that runs there, and comes back by itself later."""

    pool: str


class Suspect(msgspec.Struct, frozen=True):
    """An engine is doubted: what runs goes on, nothing new is sent."""

    pool: str


class Drain(msgspec.Struct, frozen=True):
    """A pool is taken out of service; what runs there goes on."""

    pool: str


class Reload(msgspec.Struct, frozen=True):
    """A pool serves another model from now on; what runs there goes on."""

    pool: str
    model: str


class Recover(msgspec.Struct, frozen=True):
    """A pool is back, or above doubt."""

    pool: str
    vram: int = 0


class Cancel(msgspec.Struct, frozen=True):
    """A client has had enough of one of the tasks that live. The slot is free a while later."""

    which: int
    closing: int = 0


Step = Arrive | Crash | Suspect | Drain | Reload | Recover | Cancel


@dataclass
class PoolLife:
    """One pool as it stands."""

    script: PoolScript
    model: str
    usable: bool = True
    accepts: bool = True
    vram: int = 0
    start: int = 0
    closing: int = 0
    """Slots of canceled tasks whose connection is not closed yet."""


@dataclass
class TaskLife:
    """One admitted task as it stands. ``where`` is the pool it runs on."""

    task_id: str
    number: int
    wants: Arrive
    pools: set[str]
    came: int
    hold_until: int | None = None
    where: str | None = None
    entry: Entry | None = None
    run: int = 0
    talks: bool = False
    tried: set[str] = field(default_factory=set)
    first_started: int | None = None
    ended: str | None = None
    charged_to: str | None = None

    @property
    def waits(self) -> bool:
        return self.where is None and self.ended is None


class House:
    """The installation. ``play`` does one step ``after`` so many milliseconds, and all that is due before it."""

    def __init__(self, pools: dict[str, PoolScript]) -> None:
        self.pools = {pool_id: PoolLife(script, script.model) for pool_id, script in pools.items()}
        self.backlog = Backlog({pool_id: script.queue for pool_id, script in pools.items()})
        self.tasks: dict[str, TaskLife] = {}
        """Those that have not ended."""
        self.admitted = self.ended = self.refused = 0
        self.now = 0
        self._due: list[tuple[int, int, str, TaskLife | str, int]] = []
        self._order = itertools.count()
        self._contests: dict[str, list[Priority]] = {pool_id: [] for pool_id in pools}
        self._timer: float | None = None

    # --- time ---------------------------------------------------------------------------------------------------------

    def play(self, step: Step, after: int) -> None:
        """One step of the script."""
        self.pass_time(after)
        PLAYED[type(step).__name__] += 1
        match step:
            case Arrive():
                self._arrive(step)
            case Cancel():
                self._cancel(step)
            case Crash(pool=pool_id):
                self._crash(pool_id)
            case Suspect(pool=pool_id):
                self.pools[pool_id].usable = False
            case Drain(pool=pool_id):
                self.pools[pool_id].usable = self.pools[pool_id].accepts = False
                self._strand()
            case Reload(pool=pool_id, model=model):
                self._reload(pool_id, model)
            case Recover(pool=pool_id, vram=vram):
                pool = self.pools[pool_id]
                pool.usable = pool.accepts = True
                pool.vram = vram
        self.pump()

    def pass_time(self, by: int) -> None:
        """Everything that is due by then, one after the other; the scheduler's one timer among it."""
        until = self.now + by
        while True:
            timer = math.inf if self._timer is None else self._timer
            due = self._due[0][0] if self._due else math.inf
            if min(timer, due) > until:
                break
            self.now = max(self.now, math.ceil(min(timer, due)))
            if timer <= due:
                PLAYED["timer"] += 1
            else:
                _, _, what, who, run = heapq.heappop(self._due)
                self._happen(what, who, run)
            self.pump()
        self.now = until

    def come_to_an_end(self) -> None:
        """With every engine back and time enough, everything that was admitted has its one end."""
        for pool_id in self.pools:
            self.play(Recover(pool_id), 0)
        self.pass_time(1_000_000)
        assert list(self.tasks) == []
        assert len(self.backlog) == 0
        assert self.ended == self.admitted
        assert all(pool.closing == 0 for pool in self.pools.values())

    def _later(self, after: int, what: str, who: TaskLife | str, run: int = 0) -> None:
        heapq.heappush(self._due, (self.now + after, next(self._order), what, who, run))

    def _happen(self, what: str, who: TaskLife | str, run: int) -> None:
        PLAYED[what] += 1
        match what, who:
            case "closed", str():
                self.pools[who].closing -= 1
            case "back", str():
                pool = self.pools[who]
                if pool.start == run and pool.accepts:
                    pool.usable = True
            case "deadline", TaskLife() if who.ended is None:
                self._leave(who, "overdue", closing=0)
            case "talks", TaskLife() if who.run == run and who.where is not None:
                who.talks = True
            case "done", TaskLife() if who.run == run and who.where is not None:
                self._end(who, "done")

    # --- what happens -------------------------------------------------------------------------------------------------

    def _arrive(self, wants: Arrive) -> None:
        able = {pool_id for pool_id, pool in self.pools.items() if pool.model == wants.model and pool.accepts}
        able = {pool_id for pool_id in able if pool_id in (wants.only or able)} - wants.avoid
        if not able:
            self.refused += 1
            return
        number = self.admitted + 1
        task_id = f"t{number}"
        until = None if wants.home is None else self.now + wants.wait
        answer = self.backlog.offer(
            task_id, wants.priority, able, Placement(prefer=wants.prefer), home=wants.home, hold_until_ms=until
        )
        if isinstance(answer, Full):
            queues = [self.pools[pool_id].script.queue for pool_id in able]
            assert all(self._charged(pool_id) == self.pools[pool_id].script.queue.capacity for pool_id in able)
            assert all(queue.full_policy is FullPolicy.REJECT for queue in queues) or wants.priority is Priority.BATCH
            self.refused += 1
            return
        task = TaskLife(task_id, number, wants, able, self.now, charged_to=answer.charged_to)
        if wants.home in able:
            task.hold_until = until
        if answer.evicted is not None:
            self._end(self.tasks[answer.evicted], "evicted")
        self.tasks[task_id] = task
        self.admitted += 1
        if wants.deadline is not None:
            self._later(wants.deadline, "deadline", task)

    def _cancel(self, step: Cancel) -> None:
        if self.tasks:
            task = list(self.tasks.values())[step.which % len(self.tasks)]
            self._leave(task, "canceled", step.closing)

    def _leave(self, task: TaskLife, how: str, closing: int) -> None:
        """A task ends early, and its slot is free a while later."""
        assert self.backlog.remove(task.task_id) == task.waits
        if task.where is not None and closing:
            self.pools[task.where].closing += 1
            self._later(closing, "closed", task.where)
        self._end(task, how)

    def _crash(self, pool_id: str) -> None:
        pool = self.pools[pool_id]
        pool.usable = False
        pool.start += 1
        self._later(5, "back", pool_id, pool.start)
        for task in [task for task in self.tasks.values() if task.where == pool_id]:
            task.tried.add(pool_id)
            # What this pool may run changes while it runs: only those that would take it today count.
            gone = {each for each, other in self.pools.items() if other.model != task.wants.model or not other.accepts}
            again = not task.talks and len(task.tried) <= RETRIES and task.entry is not None
            if again and task.entry is not None and self.backlog.give_back(task.entry, task.tried | gone):
                PLAYED["given back"] += 1
                task.where = task.charged_to = task.hold_until = None
                task.pools = set(task.entry.lane.pools) - task.tried - gone
            else:
                self._end(task, "reset")

    def _reload(self, pool_id: str, model: str) -> None:
        pool = self.pools[pool_id]
        pool.model = model
        waiting = [self.tasks[task_id] for task_id in self.backlog.waiting_for(pool_id)]
        misled = [task for task in waiting if task.wants.model != model]
        stranded = self.backlog.withdraw(pool_id, [task.task_id for task in misled])
        for task in misled:
            if task.task_id in stranded:
                self._leave(task, "misled", closing=0)
            else:
                task.pools.discard(pool_id)

    def _strand(self) -> None:
        for task_id in self.backlog.unserved([pool_id for pool_id, pool in self.pools.items() if pool.accepts]):
            self._leave(self.tasks[task_id], "stranded", closing=0)

    def _end(self, task: TaskLife, how: str) -> None:
        assert task.ended is None, f"{task.task_id} ends as {how} after it ended as {task.ended}"
        task.ended, task.where = how, None
        del self.tasks[task.task_id]
        self.ended += 1
        PLAYED[f"ended: {how}"] += 1

    # --- the scheduler, and what is demanded of it --------------------------------------------------------------------

    def pump(self) -> None:
        """What the runner does: start all that can start, then set the one timer."""
        while True:
            self._void_holds()
            expected = self._first_by_the_rules()
            replicas = self._replicas()
            assignment = next_assignment(self.backlog, replicas, self.now)
            if assignment is None:
                assert not expected, f"{sorted(expected)} wait for free slots"
                break
            pool_id = assignment.replica.pool_id
            task = self.tasks[assignment.task_id]
            assert pool_id in expected.get(task.task_id, ()), f"{task.task_id} on {pool_id} is not next: {expected}"
            self._note_contest(pool_id, task)
            assert assignment.replica in replicas
            assert self._free(pool_id) > 0
            self._start(task, pool_id, assignment.entry)
        self._timer = next_expiry(self.backlog, self._replicas())
        self._check()

    def _start(self, task: TaskLife, pool_id: str, entry: Entry) -> None:
        task.where, task.entry, task.charged_to, task.talks = pool_id, entry, None, False
        task.run += 1
        task.first_started = self.now if task.first_started is None else task.first_started
        PLAYED["started"] += 1
        self._later(task.wants.first_token, "talks", task, task.run)
        self._later(task.wants.first_token + task.wants.takes, "done", task, task.run)

    def _void_holds(self) -> None:
        for task in self.tasks.values():
            home = task.wants.home
            if task.hold_until is not None and task.waits and home is not None:
                over = self.now >= task.hold_until or home not in task.pools
                if over or not self.pools[home].usable:
                    task.hold_until = None

    def _first_by_the_rules(self) -> dict[str, set[str]]:
        """Each task that may be next by the letter of the rules, with the pools where it may be so."""
        next_up: dict[str, set[str]] = {}
        for pool_id, pool in self.pools.items():
            if not pool.usable or self._free(pool_id) <= 0:
                continue
            able = [task for task in self.tasks.values() if task.waits and self._may_start(task, pool_id)]
            for priority in Priority:
                of_it = [task for task in able if task.wants.priority is priority]
                other = any(task.wants.priority is Priority.INTERACTIVE for task in able)
                if of_it and (priority is Priority.INTERACTIVE or not other or pool.script.queue.batch_share):
                    first = min(of_it, key=lambda task: task.number)
                    next_up.setdefault(first.task_id, set()).add(pool_id)
        return next_up

    def _may_start(self, task: TaskLife, pool_id: str) -> bool:
        held_elsewhere = task.hold_until is not None and task.wants.home != pool_id
        return pool_id in task.pools and not held_elsewhere

    def _note_contest(self, pool_id: str, chosen: TaskLife) -> None:
        """While both priorities wait for a pool, batch has its share of every run of starts, and not much more."""
        able = {task.wants.priority for task in self.tasks.values() if task.waits and self._may_start(task, pool_id)}
        if len(able) < len(Priority):
            return
        PLAYED["contested start"] += 1
        contests = self._contests[pool_id]
        contests.append(chosen.wants.priority)
        share = self.pools[pool_id].script.queue.batch_share
        for start in range(len(contests)):
            span = contests[start:]
            owed = math.floor(len(span) * share + 1e-9)
            assert owed <= span.count(Priority.BATCH) <= owed + 1
        if not share:
            assert chosen.wants.priority is Priority.INTERACTIVE

    def _replicas(self) -> list[Replica]:
        return [
            Replica(
                pool_id=pool_id,
                replica_id=f"{pool_id}-0",
                usable=pool.usable,
                free_slots=self._free(pool_id),
                active=self._busy(pool_id),
                vram_free_bytes=pool.vram,
            )
            for pool_id, pool in self.pools.items()
        ]

    def _busy(self, pool_id: str) -> int:
        return self.pools[pool_id].closing + sum(task.where == pool_id for task in self.tasks.values())

    def _free(self, pool_id: str) -> int:
        return self.pools[pool_id].script.slots - self._busy(pool_id)

    def _charged(self, pool_id: str) -> int:
        return sum(task.waits and task.charged_to == pool_id for task in self.tasks.values())

    def _check(self) -> None:
        """What holds whenever nothing is left to do."""
        PLAYED["check"] += 1
        waiting = [task for task in self.tasks.values() if task.waits]
        assert len(self.backlog) == len(waiting)
        for task in waiting:
            assert self.backlog.pools_of(task.task_id) == task.pools
            assert task.hold_until is None or task.hold_until > self.now
        for pool_id, pool in self.pools.items():
            assert self._free(pool_id) >= 0
            assert self._charged(pool_id) == self.backlog.depth(pool_id) <= pool.script.queue.capacity
        free = {pool_id for pool_id, pool in self.pools.items() if pool.usable and self._free(pool_id)}
        held = [task.hold_until for task in waiting if task.hold_until is not None and task.pools & free]
        assert self._timer == min(held, default=None)
