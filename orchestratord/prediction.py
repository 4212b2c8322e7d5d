"""When a task will start and whether it will be in time, from what runs, what waits before it, and what was measured.

Decides by playing the queue forward, ``DRAWS`` times at once: every run and every waiting task has that many possible
durations (``lengths``, ``measured``), and in each play a task takes the slot that is free first. The middle of the
plays is the prediction, and the inner four fifths of them its band. Beyond ``LOOK`` tasks ahead the plays are replaced
by sums: all slots are busy until then, so the work ahead, spread over them, says when. So a prediction costs the same
at any depth. Never reads a clock.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from heapq import heapreplace

import msgspec

from contracts.tasks import Priority
from orchestratord.demand import Demand, Kind, Sum, Tally
from orchestratord.lengths import DRAWS, RANDOM
from orchestratord.measured import NORMAL, ORDERS, Replica

LOOK = 20
"""With so many tasks ahead, or fewer, each one is played."""
MOST_RIVALS = 64
"""So many tasks that pass another are played, at most."""
MOST_DELAY = 20.0
"""Tasks of higher priority that keep coming make a batch task wait at most so many times as long, as far as we say."""
TOO_LATE = 0.05
"""A task is refused, or ended while it waits, when its answer would be in time with less than this probability."""
BAND = (0.1, 0.9)


class Forecast:
    """When a task starts, and ends: the possible spans from now, in milliseconds.

    ``services``: what it takes once it has a slot; asked for only where that matters, as a task that finds a free slot
    and has no deadline waits for no answer of ours. ``pool_id``: where it is likeliest to start.
    """

    def __init__(self, starts: Iterable[float], services: Callable[[], Iterable[float]], pool_id: str) -> None:
        self.starts = tuple(sorted(starts))
        self.pool_id = pool_id
        self._services = services

    @cached_property
    def services(self) -> tuple[float, ...]:
        """In ascending order."""
        return tuple(sorted(self._services()))

    @property
    def start_ms(self) -> int:
        """As many tasks start earlier as later."""
        return round(_quantile(self.starts, 0.5))

    @property
    def low_ms(self) -> int:
        """One in ten starts earlier."""
        return round(_quantile(self.starts, BAND[0]))

    @property
    def high_ms(self) -> int:
        """One in ten starts later."""
        return round(_quantile(self.starts, BAND[1]))

    @property
    def end_ms(self) -> int:
        """When the answer is complete."""
        return round(_quantile(self.starts, 0.5) + sum(self.services) / len(self.services))

    @property
    def run_ms(self) -> int:
        """What the task takes once it has a slot, in the mean; at least a moment."""
        return max(1, math.ceil(sum(self.services) / len(self.services)))

    def in_time_alone(self, within_ms: float) -> float:
        """The probability that the run takes no longer than that."""
        return bisect_right(self.services, within_ms) / len(self.services)

    def on_time(self, within_ms: float) -> float:
        """The probability that the answer is complete within so many milliseconds."""
        fits = sum(bisect_right(self.services, within_ms - start) for start in self.starts)
        return fits / (len(self.starts) * len(self.services))


class Station(msgspec.Struct, frozen=True):
    """One replica's slots: the possible spans until each is free, in milliseconds, ``DRAWS`` of each."""

    free: list[list[float]]
    replica: Replica


class Waiting(msgspec.Struct, frozen=True):
    """One task that goes before, and the pools that may run it."""

    pools: frozenset[str]
    demand: Demand
    number: int


class Crowd(msgspec.Struct, frozen=True):
    """Many tasks that go before, which the same pools may run: this share of a lane."""

    pools: frozenset[str]
    tally: Tally
    share: float = 1.0


class Inflow:
    """The tasks that keep arriving and go first: how many a millisecond, and what the latest ones were."""

    OVER_MS = 300_000.0
    """They are counted over about the last five minutes."""
    FIRST_MS = 10_000.0
    """The first ones do not come more often than that shows."""
    LATEST = 32

    def __init__(self) -> None:
        self._count = 0.0
        self._since: float | None = None
        self._at = 0.0
        self.latest: deque[Demand] = deque()
        self.tally = Tally()
        """The same, added up."""

    def add(self, demand: Demand, part: float, now_ms: float) -> None:
        """One came; with this probability it runs here."""
        self._since = now_ms if self._since is None else self._since
        self._count = self._count * math.exp((self._at - now_ms) / self.OVER_MS) + part
        self._at = now_ms
        self.latest.append(demand)
        self.tally.add(demand)
        if len(self.latest) > self.LATEST:
            self.tally.remove(self.latest.popleft())

    def rate(self, now_ms: float) -> float:
        """How many come in a millisecond."""
        if self._since is None:
            return 0.0
        age = max(self.FIRST_MS, now_ms - self._since)
        seen = self._count * math.exp((self._at - now_ms) / self.OVER_MS)
        return seen / (self.OVER_MS * (1.0 - math.exp(-age / self.OVER_MS)))


class Rivals(msgspec.Struct, frozen=True):
    """Tasks that will arrive later and still go first."""

    rate: float = 0.0
    """So many a millisecond."""
    latest: Sequence[Demand] = ()
    """What some of them were."""
    tally: Tally | None = None
    """The same, added up."""
    guaranteed: float = 0.0
    """The share of all starts that they leave whatever comes."""


NO_RIVALS = Rivals()


# --- task by task -----------------------------------------------------------------------------------------------------


def played(
    stations: Mapping[str, Station], ahead: Sequence[Waiting], wanted: Collection[str], rivals: Rivals = NO_RIVALS
) -> list[float]:
    """When a slot of one of the ``wanted`` pools comes to the task that has these ahead, in each play."""
    working = {pool: station for pool, station in stations.items() if station.free}
    places = {pool: place for place, pool in enumerate(working)}
    known = [places[pool] for pool in wanted if pool in places]
    if not known:
        return [math.inf] * DRAWS
    ahead = [task for task in ahead if not task.pools.isdisjoint(working)]
    jobs = [_job(working, places, task) for task in ahead]
    passing = _Passing(rivals, [station.replica for station in working.values()]) if rivals.latest else None
    yielding = [passing is not None and task.demand.kind.priority is Priority.BATCH for task in ahead]
    starts = []
    for play in range(DRAWS):
        heaps = [sorted([slot[play] for slot in station.free]) for station in working.values()]
        if passing is not None:
            passing.begin(play, heaps)
        for job, yields in zip(jobs, yielding, strict=True):
            if passing is not None and yields:
                passing.until([place for place, _ in job])
            place, taken = job[0]
            heap = heaps[place]
            if len(job) > 1:
                for place, times in job:
                    if heaps[place][0] < heap[0]:
                        heap, taken = heaps[place], times
            heapreplace(heap, heap[0] + taken[play])
        if passing is not None:
            passing.until(known)
        starts.append(min([heaps[place][0] for place in known]))
    return starts


def _job(working: Mapping[str, Station], places: Mapping[str, int], task: Waiting) -> list[tuple[int, list[float]]]:
    """Where a task ahead may run, and what it takes there."""
    return [
        (places[pool], station.replica.service(task.demand, task.number))
        for pool, station in working.items()
        if pool in task.pools
    ]


class _Passing:
    """The rivals, play by play: each takes the slot that is free first when it has come."""

    def __init__(self, rivals: Rivals, replicas: Sequence[Replica]) -> None:
        self._rivals = rivals
        self._replicas = replicas
        self._times: list[list[list[float]]] = []
        """What each takes on each of the replicas."""
        share = rivals.guaranteed
        self._at_once = MOST_RIVALS if share <= 0.0 else math.ceil((1.0 - share) / share)

    def begin(self, play: int, heaps: list[list[float]]) -> None:
        """Nobody has come yet."""
        self._play, self._heaps, self._count = play, heaps, 0
        self._next = self._gap()

    def until(self, places: Sequence[int]) -> None:
        """Let all of them take slots that come before one is free here for somebody who lets them pass."""
        heaps, most = self._heaps, min(MOST_RIVALS, self._count + self._at_once)
        while self._count < most and self._next < min([heaps[place][0] for place in places]):
            if self._count == len(self._times):
                demand = self._rivals.latest[self._count % len(self._rivals.latest)]
                self._times.append([replica.service(demand, self._count * 11 + 1) for replica in self._replicas])
            first, place = min([(heap[0], place) for place, heap in enumerate(heaps)])
            heapreplace(heaps[place], max(first, self._next) + self._times[self._count][place][self._play])
            self._count += 1
            self._next += self._gap()

    def _gap(self) -> float:
        return RANDOM[ORDERS[(self._count * 5 + 3) % len(ORDERS)][self._play]] / self._rivals.rate


# --- as sums ----------------------------------------------------------------------------------------------------------


def summed(stations: Mapping[str, Station], ahead: Iterable[Crowd], wanted: Collection[str]) -> list[float]:
    """The same where much is ahead: all slots are busy until then, each with an even part of the work."""
    levels = {pool: _Level(station) for pool, station in stations.items() if station.free}
    known = [levels[pool] for pool in sorted(wanted) if pool in levels]
    if not known:
        return [math.inf] * DRAWS
    for crowd in sorted(ahead, key=lambda each: len(each.pools)):
        _pour({pool: levels[pool] for pool in crowd.pools if pool in levels}, crowd)
    slots = sum(level.slots for level in known)
    first = min(known, key=lambda level: level.height)
    # When the first of several slots is free, the others are in the middle of a task.
    rest = (slots - 1) / slots * first.residual
    spread = math.sqrt(sum(level.variance for level in known) + (slots - 1) * first.residual**2) / slots
    mean = max(0.0, first.height - rest)
    return [max(0.0, mean + spread * NORMAL[place]) for place in ORDERS[0]]


class _Level:
    """How far the slots of one pool are filled with work, like a vessel."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.slots = len(station.free)
        means = [sum(slot) / DRAWS for slot in station.free]
        self.height = sum(means) / self.slots
        self.variance = sum(
            sum([(each - mean) ** 2 for each in slot]) / DRAWS for slot, mean in zip(station.free, means, strict=True)
        )
        self.residual = 0.0
        """What a task still takes that is met in the middle."""


def _work(replica: Replica, tally: Tally) -> tuple[int, float, float]:
    """How many tasks these are, their work and its variance, if this replica did all of it."""
    count, work, variance = 0, 0.0, 0.0
    for kind, held in tally.sums.items():
        mean, spread = replica.each(typical(kind, held))
        count, work, variance = count + held.count, work + held.count * mean, variance + held.count * spread
    return count, work, variance


def typical(kind: Kind, of: Sum) -> Demand:
    """The mean task of a sum."""
    return Demand(kind, of.prompt / of.count, round(of.bound / of.count), round(of.hint / of.count))


def _pour(levels: dict[str, _Level], crowd: Crowd) -> None:
    """Give a crowd's work to its pools, to those first that are free first."""
    needs = {pool: _work(level.station.replica, crowd.tally) for pool, level in levels.items()}
    able = sorted((pool for pool in levels if needs[pool][1] > 0.0), key=lambda pool: levels[pool].height)
    left, height, rate = crowd.share, 0.0, 0.0
    for place, pool in enumerate(able):
        rate += levels[pool].slots / needs[pool][1]
        height = levels[pool].height + left / rate
        following = levels[able[place + 1]].height if place + 1 < len(able) else math.inf
        if height <= following:
            break
        left -= rate * (following - levels[pool].height)
    for pool in able:
        level, (count, work, variance) = levels[pool], needs[pool]
        level.variance += level.slots * max(0.0, height - level.height) / work * variance
        level.height = max(level.height, height)
        mean = work / count
        level.residual = (mean * mean + variance / count) / (2.0 * mean)


def delayed(starts: list[float], rivals: Rivals, stations: Collection[Station]) -> list[float]:
    """The starts of a task that has much ahead, with the rivals that pass it until then."""
    slots = sum(len(station.free) for station in stations)
    if rivals.tally is None or not rivals.latest or not slots:
        return starts
    work = [_work(station.replica, rivals.tally)[1] for station in stations if station.free]
    each = sum(work) / len(work) / len(rivals.latest)
    busy = rivals.rate * each / slots  # with them; a task waits so many times as long as the rest of its time is short
    longer = 1.0 / max(1.0 / MOST_DELAY, 1.0 - busy)
    most = min(MOST_DELAY, 1.0 / rivals.guaranteed) if rivals.guaranteed else MOST_DELAY
    found = []
    for start, place in zip(starts, ORDERS[1], strict=True):
        whole = start * longer
        spread = math.sqrt(2.0 * min(1.0, busy) * each * whole / slots)
        found.append(min(start * most, max(start, whole + NORMAL[place] * spread)))
    return found


def doubted(starts: list[float], doubt: float) -> list[float]:
    """Starts from measurements of which all may be off together by so much; those are off alike in every play."""
    return [start * math.exp(doubt * NORMAL[place]) for start, place in zip(starts, ORDERS[-1], strict=True)]


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Between the two values that are nearest, so that equal shares of all outcomes fall between any two of them."""
    place = min(max(share * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    low, high = ordered[below], ordered[above]
    return low if low == high else low + (place - below) * (high - low)
