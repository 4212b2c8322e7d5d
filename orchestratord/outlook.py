"""Knows what every replica was measured to do and what runs on it, and foretells from that and from the queue.

Decides nothing: ``prediction`` plays the queue forward, ``measured`` learns from runs. It gathers the present for them:
which tasks of which lanes go before, how far each run is, how long a pool that is not ready may still take.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable
from functools import partial

from adapters.base import Adapter
from contracts.config import Config
from contracts.events import Metrics
from contracts.tasks import Priority, TaskRequest
from orchestratord import prediction
from orchestratord.backlog import Backlog, Entry, Lane
from orchestratord.clock import Clock
from orchestratord.demand import Demand, demand_of
from orchestratord.lengths import DRAWS
from orchestratord.measured import NORMAL, Ran, Replica
from orchestratord.pools import PoolDirectory, PoolEntry
from orchestratord.prediction import Crowd, Forecast, Inflow, Rivals, Station, Waiting
from orchestratord.promises import Promises
from orchestratord.runs import Account, Ended, Listener, Seat
from orchestratord.task import Task

LEAVING_MS = 20.0
"""What a slot is expected to take that was given up and is not free yet."""
PRIOR_OUTAGE_MS = 20_000.0
"""How long a pool is out of service, before it was seen to come back."""
PRIOR_RECHECK_MS = 1_000.0
"""How long an engine that runs is not trusted, after something went wrong with it."""
OUTAGE_WEIGHT = 0.3
OUTAGE_SPREAD, FIRST_SPREAD = 0.8, 2.0
"""How uncertain both are, in powers of e, as of one sigma: once outages were seen, and before."""
FRESH_MS, FRESH = 20.0, 0.05
"""For so long, and for this share of what it is expected to take, a run is not looked at again: many tasks may come."""


class Running:
    """One run, and when it began, in monotonic milliseconds."""

    def __init__(self, task: Task, replica: Replica, adapter: Adapter, at_ms: float, number: int) -> None:
        self.task = task
        self.adapter = adapter
        self._replica = replica
        self._at_ms = at_ms
        self._number = number
        self._ends: list[float] = []
        self._fresh_until_ms = 0.0

    def left(self, now_ms: float) -> list[float]:
        """How long it may still take, as it was seen a moment ago: the more is to come, the longer that holds."""
        if now_ms >= self._fresh_until_ms:
            tokens, elapsed_ms = self.task.log.tokens, now_ms - self._at_ms
            spans = self._replica.remaining(self.task.admission.demand, tokens, elapsed_ms, self._number)
            self._ends = [now_ms + span for span in spans]
            self._fresh_until_ms = now_ms + max(FRESH_MS, FRESH * sum(spans) / DRAWS)
        return [end - now_ms if end > now_ms else 0.0 for end in self._ends]


class Outlook:
    """All measurements of this daemon."""

    def __init__(
        self,
        config: Config,
        pools: PoolDirectory,
        backlog: Backlog,
        clock: Clock,
        *,
        taken: Callable[[str], int],
        find: Callable[[str], Task | None],
    ) -> None:
        self._pools = pools
        self._backlog = backlog
        self._clock = clock
        self._taken = taken
        self._find = find
        self.reconfigure(config)
        self._replicas = {pool.id: Replica() for pool in config.pools}
        self._identities: dict[str, tuple[str | None, ...]] = {}
        self._running: dict[str, dict[str, Running]] = {pool.id: {} for pool in config.pools}
        self._inflows = {pool.id: Inflow() for pool in config.pools}
        self._turns: dict[str, dict[str, Task]] = {}
        """The tasks of each session that have not ended, in the order of their arrival."""
        self._numbers = itertools.count()
        self._promises = Promises()
        self._outages: dict[str, float] = {}
        """How long each pool is out of service, in the mean."""
        self._unready: dict[str, tuple[float, bool]] = {}
        """Since when a pool does not serve, and whether its engine was gone meanwhile."""

    def reconfigure(self, config: Config) -> None:
        """The same pools share their starts between the priorities like this from now on."""
        self._shares = {pool.id: pool.queue.batch_share for pool in config.pools}

    # --- what it is told ----------------------------------------------------------------------------------------------

    def began(self, task: Task, entry: PoolEntry, adapter: Adapter) -> None:
        """A run of this task is about to be sent to this engine."""
        snapshot = entry.snapshot
        identity = (snapshot.model_ref, snapshot.model_digest, snapshot.engine, entry.engine_version)
        if self._identities.setdefault(entry.id, identity) != identity:
            self._identities[entry.id] = identity
            self._replicas[entry.id].forget()
        self._running[entry.id][task.id] = Running(
            task, self._replicas[entry.id], adapter, self._clock.monotonic_ms(), next(self._numbers)
        )

    def ended(self, task: Task, account: Account) -> None:
        """A run is over: what it shows is learned."""
        if self._running[account.pool_id].pop(task.id, None) is None:
            return
        demand = task.admission.demand
        tokens = account.pieces if account.tokens_out is None else max(0, account.tokens_out)
        done = account.ended is Ended.DONE
        ran = Ran(
            demand=demand,
            prompt_bytes=text_bytes(task.request),
            tokens_in=account.tokens_in,
            cached=min(account.cached_tokens or 0, account.tokens_in or 0),
            tokens_out=tokens if done else account.pieces,
            first_ms=account.first_token_ms,
            end_ms=account.busy_ms,
            ended=done,
            cut=not done or tokens >= demand.bound,
            steady=account.ended is not Ended.FAILED,
        )
        self._replicas[account.pool_id].learn(ran)

    def arrived(self, task: Task, pools: Collection[str]) -> None:
        """A task came in: later turns of its session, and later tasks of lower priority, will wait for such as this."""
        if task.request.session_id is not None:
            self._turns.setdefault(task.request.session_id, {})[task.id] = task
        if task.request.priority is not Priority.INTERACTIVE:
            return
        slots = {entry.id: entry.slots for entry in self._pools.of(pools)}
        for pool_id, count in slots.items():
            # By when it came: after a restart all that waits is put in at one moment.
            self._inflows[pool_id].add(task.admission.demand, count / sum(slots.values()), task.admission.at_ms)

    def settled(self, task: Task) -> None:
        """A task has had its terminal event: no turn waits for it any more."""
        session_id = task.request.session_id
        turns = None if session_id is None else self._turns.get(session_id)
        if session_id is not None and turns is not None and turns.pop(task.id, None) is not None and not turns:
            del self._turns[session_id]

    def look(self) -> None:
        """See which pools are out of service, and since when."""
        now_ms = self._clock.monotonic_ms()
        for entry in self._pools:
            if not entry.usable:
                began_ms, serious = self._unready.get(entry.id, (now_ms, False))
                self._unready[entry.id] = began_ms, serious or not entry.introducible
            elif entry.id in self._unready:
                began_ms, serious = self._unready.pop(entry.id)
                if serious:
                    took_ms = now_ms - began_ms
                    before_ms = self._outages.get(entry.id, took_ms)
                    self._outages[entry.id] = before_ms + OUTAGE_WEIGHT * (took_ms - before_ms)

    def unready_since(self, pools: Collection[str]) -> float | None:
        """When the last of these pools went out of service; None while one serves."""
        moments = [self._unready.get(pool_id) for pool_id in pools]
        return None if None in moments else max((each[0] for each in moments if each is not None), default=None)

    # --- what it foretells --------------------------------------------------------------------------------------------

    def demand(self, request: TaskRequest, pools: Collection[str], counted: int | None) -> Demand:
        """What a request asks for; ``counted``: the tokens of its prompt, where an engine has said them."""
        entries = self._pools.of(pools)
        prompt = float(counted) if counted is not None else self.prompt_tokens(request, entries)
        widest = max(entry.ctx_max for entry in entries)
        return demand_of(request, prompt, widest, counted=counted is not None)

    def prompt_tokens(self, request: TaskRequest, entries: list[PoolEntry]) -> float:
        """About how many tokens a request has for the engine to read, from the length of its texts."""
        return self._replicas[entries[0].id].tokens_of(text_bytes(request), request.workload)

    def new_tokens(self, demand: Demand, pool_id: str) -> float:
        """How many new tokens such a task comes to, in the mean."""
        return self._replicas[pool_id].new_tokens(demand)[0] if demand.bound else 0.0

    def of_new(self, demand: Demand, pools: frozenset[str], behind: str | None = None) -> Forecast:
        """When a task starts that comes now; ``behind``: it waits for the turns of this session."""
        earlier = None if behind is None else self._turns_over(behind)
        idle = next((entry for entry in self._pools.of(pools) if self._idle(entry)), None)
        if earlier is None and idle is not None and not self._backlog.ahead_of_new(demand.kind.priority, pools):
            return self._foretold([0.0] * DRAWS, demand, idle.id)
        return self._of(demand, pools, None, earlier)

    def of_waiting(self, task_id: str) -> Forecast:
        """When a waiting task starts."""
        entry, task = self._backlog.entry(task_id), self._find(task_id)
        session_id = None if task is None or not entry.parked else task.request.session_id
        earlier = None if session_id is None else self._turns_over(session_id, task_id)
        return self._of(entry.demand, entry.lane.pools, entry, earlier)

    def place_ms(self, pools: frozenset[str], *, told: bool = False) -> int:
        """When the next place comes free that nobody was told of; ``told``: a client is now, so the next one is later.

        Every waiting task that starts makes room. Behind those that wait come those who were told, and what these
        will ask for is taken to be like what waits.
        """
        now_ms = self._clock.monotonic_ms()
        before = self._promises.open(pools, now_ms)
        connected = self._connected(pools)
        stations = self._stations(connected)
        lanes = [lane for lane in self._backlog.lanes if not lane.open_to.isdisjoint(connected)]
        waiting = sum(len(lane.numbers) for lane in lanes)
        if before and waiting:
            ahead = [Crowd(lane.open_to, lane.tally, before / waiting) for lane in lanes]
            starts = prediction.summed(stations, ahead, pools)
        else:
            starts = prediction.played(stations, (), pools)
        span = max(1, round(sum(starts) / DRAWS)) if math.isfinite(starts[0]) else round(PRIOR_OUTAGE_MS)
        if told:
            self._promises.add(pools, now_ms + span)
        return span

    def first_end_ms(self, tasks: Iterable[Task]) -> int:
        """In about how long the first of these tasks has its end; 0 where one has it already, or there is none."""
        chosen = {task.id: task for task in tasks}
        if any(task.finished for task in chosen.values()):
            return 0
        now_ms = self._clock.monotonic_ms()
        left = [
            run.left(now_ms) for runs in self._running.values() for task_id, run in runs.items() if task_id in chosen
        ]
        if left:
            return round(min(map(sum, left)) / DRAWS)
        waiting = [self._backlog.entry(task_id) for task_id in chosen if task_id in self._backlog]
        first = min(waiting, key=lambda entry: entry.number, default=None)
        return 0 if first is None else self.of_waiting(first.task_id).end_ms

    # --- inside -------------------------------------------------------------------------------------------------------

    def _of(self, demand: Demand, pools: frozenset[str], entry: Entry | None, earlier: list[float] | None) -> Forecast:
        pool_id, starts = self._starts(demand, pools, entry)
        if earlier is not None:
            starts = [max(both) for both in zip(starts, earlier, strict=True)]
        starts = prediction.doubted(starts, self._replicas[pool_id].doubt(demand))
        return self._foretold(starts, demand, pool_id, 0 if entry is None else entry.number)

    def _starts(self, demand: Demand, pools: frozenset[str], entry: Entry | None) -> tuple[str, list[float]]:
        """Where a task is likeliest to start, and when: one that waits as ``entry``, or one that would come now."""
        connected = self._connected(pools)
        stations = self._stations(connected)
        ahead = self._ahead(demand.kind.priority, connected, entry)
        rivals = self._rivals(connected) if demand.kind.priority is Priority.BATCH else prediction.NO_RIVALS
        if sum(count for _, count in ahead) <= prediction.LOOK:
            starts = prediction.played(stations, self._each(ahead), pools, rivals)
        else:
            crowds = [Crowd(each.open_to, each.tally, count / len(each.numbers)) for each, count in ahead if count]
            starts = prediction.delayed(prediction.summed(stations, crowds, pools), rivals, stations.values())
        first = min(sorted(pools), key=lambda pool_id: min(map(sum, stations[pool_id].free), default=math.inf))
        return first, starts

    def _foretold(self, starts: list[float], demand: Demand, pool_id: str, number: int = 0) -> Forecast:
        return Forecast(starts, partial(self._replicas[pool_id].service, demand, number), pool_id)

    def _turns_over(self, session_id: str, before: str | None = None) -> list[float] | None:
        """When the turns of a session are over, one after the other, or those before this one; None where all are."""
        over: list[float] | None = None
        where = ""
        for task_id in self._turns.get(session_id, {}):
            if task_id == before:
                break
            running = next((pool_id for pool_id, runs in self._running.items() if task_id in runs), None)
            if running is not None:
                where, over = running, self._running[running][task_id].left(self._clock.monotonic_ms())
            elif task_id in self._backlog:
                entry = self._backlog.entry(task_id)
                if over is None:
                    where, over = self._starts(entry.demand, entry.lane.pools, entry)
                service = self._replicas[where].service(entry.demand, entry.number)
                over = [sum(both) for both in zip(over, service, strict=True)]
        return over

    def _idle(self, entry: PoolEntry) -> bool:
        return entry.usable and self._taken(entry.id) < entry.slots

    def _connected(self, pools: frozenset[str]) -> frozenset[str]:
        """These pools, and all those that tasks share with them, over however many lanes."""
        lanes = [lane.open_to for lane in self._backlog.lanes]
        found = pools
        while True:
            wider = found.union(*(each for each in lanes if not each.isdisjoint(found)))
            if wider == found:
                return found
            found = wider

    def _stations(self, pools: Collection[str]) -> dict[str, Station]:
        now_ms = self._clock.monotonic_ms()
        return {entry.id: self._station(entry, now_ms) for entry in self._pools.of(pools)}

    def _station(self, entry: PoolEntry, now_ms: float) -> Station:
        free = [run.left(now_ms) for run in self._running[entry.id].values() if run.adapter is entry.adapter]
        leaving = max(0, self._taken(entry.id) - len(free))
        free += [_LEAVING] * leaving
        free += [_FREE] * (entry.slots - len(free))
        if not entry.usable:
            back = self._back(entry, now_ms)
            free = [[max(*both) for both in zip(slot, back, strict=True)] for slot in free]
        return Station(free, self._replicas[entry.id])

    def _back(self, entry: PoolEntry, now_ms: float) -> list[float]:
        """When a pool is in service again: after about as long as it took before, or longer if it has taken longer."""
        if entry.introducible:
            mean_ms, spread = PRIOR_RECHECK_MS, FIRST_SPREAD
        else:
            mean_ms = self._outages.get(entry.id, PRIOR_OUTAGE_MS)
            spread = OUTAGE_SPREAD if entry.id in self._outages else FIRST_SPREAD
        since_ms, _ = self._unready.get(entry.id, (now_ms, False))
        left_ms = max(mean_ms - (now_ms - since_ms), 0.3 * mean_ms)
        retry_at_ms = entry.snapshot.retry_at_ms
        pause = 0.0 if retry_at_ms is None else max(0.0, retry_at_ms - self._clock.unix_ms())
        return [pause + left_ms * math.exp(spread * sigma) for sigma in NORMAL]

    def _ahead(self, priority: Priority, connected: frozenset[str], entry: Entry | None) -> list[tuple[Lane, int]]:
        """How many of which lanes go before a task, the oldest ones: of one that waits as ``entry``, or comes now."""
        lanes = [lane for lane in self._backlog.lanes if not lane.open_to.isdisjoint(connected)]
        same = [(lane, _before(lane, entry)) for lane in lanes if lane.priority is priority]
        other = [(lane, len(lane.numbers)) for lane in lanes if lane.priority is not priority]
        before, waiting = sum(count for _, count in same), sum(count for _, count in other)
        share = sum(self._shares[pool_id] for pool_id in connected) / len(connected)
        if priority is Priority.BATCH:
            most = math.inf if share <= 0.0 else (before + 1) * (1.0 - share) / share
        else:
            most = before * share / (1.0 - share)
        part = min(1.0, most / waiting) if waiting else 0.0
        return [*same, *((lane, round(part * count)) for lane, count in other)]

    def _each(self, ahead: list[tuple[Lane, int]]) -> list[Waiting]:
        """One by one, in their turn."""
        entries = [(lane.priority, entry) for lane, count in ahead for entry in self._backlog.oldest(lane, count)]
        # By the plain words "batch" would come first.
        entries.sort(key=lambda each: (each[0] is Priority.BATCH, each[1].number))
        return [Waiting(entry.lane.open_to, entry.demand, entry.number) for _, entry in entries]

    def _rivals(self, connected: frozenset[str]) -> Rivals:
        """The tasks that go before batch though they come later."""
        now_ms = self._clock.monotonic_ms()
        inflows = [self._inflows[pool_id] for pool_id in sorted(connected)]
        most = max(inflows, key=lambda inflow: len(inflow.latest))
        return Rivals(
            rate=sum(inflow.rate(now_ms) for inflow in inflows),
            latest=most.latest,
            tally=most.tally,
            guaranteed=min(self._shares[pool_id] for pool_id in connected),
        )


_FREE, _LEAVING = [0.0] * DRAWS, [LEAVING_MS] * DRAWS


class Learning:
    """Tells an outlook what another listener is told of the runs (``runs.Listener``)."""

    def __init__(self, outlook: Outlook, listener: Listener) -> None:
        self._outlook = outlook
        self._listener = listener

    def seat(self, task: Task, entry: PoolEntry, adapter: Adapter) -> Seat:
        """A run is about to be sent."""
        self._outlook.began(task, entry, adapter)
        return self._listener.seat(task, entry, adapter)

    def ended(self, task: Task, account: Account) -> Metrics | None:
        """A run is over."""
        self._outlook.ended(task, account)
        return self._listener.ended(task, account)

    def freed(self, pool_id: str, adapter: Adapter, seat: Seat) -> None:
        """Its slot is free."""
        self._listener.freed(pool_id, adapter, seat)


def text_bytes(request: TaskRequest) -> int:
    """How long the texts of a request are together."""
    texts = [request.prompt or "", *(message.content for message in request.messages or ()), *(request.inputs or ())]
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


def _before(lane: Lane, entry: Entry | None) -> int:
    return len(lane.numbers) if entry is None else lane.numbers.rank(entry.number)
