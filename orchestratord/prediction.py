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
from functools import cached_property, partial
from heapq import heapify, heapreplace
from statistics import NormalDist

import msgspec

from contracts.tasks import Priority
from orchestratord.demand import Demand, Kind, Sum, Tally
from orchestratord.lengths import DRAWS, STRATA
from orchestratord.measured import Cost, Replica

LOOK = 20
"""With so many tasks ahead, or fewer, each one is played."""
NORMAL = tuple(NormalDist().inv_cdf(share) for share in STRATA)
MOST_RIVALS = 64
"""So many tasks that pass another are played, at most."""
FASTEST = 0.1
"""No run takes less than this share of what its tokens say."""
MOST_DELAY = 20.0
"""Tasks of higher priority that keep coming make a batch task wait at most so many times as long, as far as we say."""
TOO_LATE = 0.05
"""A task is refused, or ended while it waits, when its answer would be in time with less than this probability."""
BAND = (0.1, 0.9)


def _shuffled(count: int) -> list[list[int]]:
    """Fixed orders of the strata, so that what is unrelated is drawn as if it were."""
    state, orders = 1, []
    for _ in range(count):
        order = list(range(DRAWS))
        for last in range(DRAWS - 1, 0, -1):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            other = (state >> 33) % (last + 1)
            order[last], order[other] = order[other], order[last]
        orders.append(order)
    return orders


_ORDERS = _shuffled(127)


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

    def on_time(self, within_ms: float) -> float:
        """The probability that the answer is complete within so many milliseconds."""
        fits = sum(bisect_right(self.services, within_ms - start) for start in self.starts)
        return fits / (len(self.starts) * len(self.services))


class Station(msgspec.Struct, frozen=True):
    """One replica's slots: the possible spans until each is free, in milliseconds, ``DRAWS`` of each."""

    pool_id: str
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
    LATEST = 16

    def __init__(self) -> None:
        self._count = 0.0
        self._since: float | None = None
        self._at = 0.0
        self.latest: deque[Demand] = deque(maxlen=self.LATEST)

    def add(self, demand: Demand, part: float, now_ms: float) -> None:
        """One came; with this probability it runs here."""
        self._since = now_ms if self._since is None else self._since
        self._count = self._count * math.exp((self._at - now_ms) / self.OVER_MS) + part
        self._at = now_ms
        self.latest.append(demand)

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
    times: Mapping[str, tuple[list[float], ...]] = msgspec.field(default_factory=dict)
    """By pool, what each of some of them takes there, ``DRAWS`` of each."""
    guaranteed: float = 0.0
    """The share of all starts that they leave whatever comes."""

    @property
    def each_ms(self) -> float:
        """What one takes in the mean."""
        all_times = [each for times in self.times.values() for one in times for each in one]
        return sum(all_times) / len(all_times) if all_times else 0.0


NO_RIVALS = Rivals()


# --- single tasks -----------------------------------------------------------------------------------------------------


def service(replica: Replica, demand: Demand, number: int = 0) -> list[float]:
    """The possible times of a task on a replica's slot; ``number`` tells tasks apart whose times are unrelated."""
    cost = replica.cost(demand)
    base = cost.busy_ms(demand.prompt * replica.cold(demand), 1.0)
    drawn = replica.drawn(demand) if demand.bound else _NONE
    doubt = replica.doubt(demand)  # what is wrongly believed of a replica is wrong for all its tasks alike
    tokens, noises = _ORDERS[number % 127], _ORDERS[(number * 31 + 7) % 127]
    return [
        (base + cost.per_new_ms * max(0.0, drawn[tokens[play]] - 1.0))
        * _noise(cost, noises[play])
        * math.exp(doubt * _DOUBTS[play])
        for play in range(DRAWS)
    ]


def remaining(replica: Replica, demand: Demand, tokens: int, elapsed_ms: float, number: int = 0) -> list[float]:
    """The possible times until a slot is free whose task has ``tokens`` new ones after ``elapsed_ms``."""
    cost = replica.cost(demand)
    order, noises = _ORDERS[number % 127], _ORDERS[(number * 31 + 7) % 127]
    before, first = 0.0, 0.0
    if not tokens:
        first = 1.0
        expected = cost.busy_ms(demand.prompt * replica.cold(demand), 1.0)
        # One that takes longer than it should may take as much longer again as such runs are unsteady.
        before = max(expected - elapsed_ms, cost.noise * expected)
    drawn = replica.drawn(demand, tokens) if demand.bound else _NONE
    doubt = replica.doubt(demand)
    times = [before + cost.per_new_ms * max(0.0, drawn[place] - first) for place in order]
    return [time * _noise(cost, noises[play]) * math.exp(doubt * _DOUBTS[play]) for play, time in enumerate(times)]


_NONE = [0.0] * DRAWS
_GAPS = tuple(-math.log(1.0 - share) for share in STRATA)
"""Between arrivals at random, in mean gaps."""
_DOUBTS = tuple(NORMAL[place] for place in _ORDERS[126])


def _noise(cost: Cost, place: int) -> float:
    return max(FASTEST, 1.0 + cost.noise * NORMAL[place])


# --- the queue --------------------------------------------------------------------------------------------------------


def played(
    stations: Mapping[str, Station], ahead: Sequence[Waiting], wanted: Collection[str], rivals: Rivals = NO_RIVALS
) -> list[float]:
    """When a slot of one of the ``wanted`` pools comes to the task that has these ahead, in each play."""
    known = sorted(each for each in wanted if each in stations and stations[each].free)
    if not known:
        return [math.inf] * DRAWS
    jobs = [_job(stations, each) for each in ahead]
    starts = []
    for play in range(DRAWS):
        heaps = {pool: [slot[play] for slot in station.free] for pool, station in stations.items() if station.free}
        for heap in heaps.values():
            heapify(heap)
        passing = _Passing(rivals, heaps, play) if rivals.rate else None
        for job in jobs:
            able = job.able
            if passing is not None and job.yields:
                passing.until([heaps[pool] for pool, _ in able])
            pool, taken = able[0] if len(able) == 1 else min(able, key=lambda each: heaps[each[0]][0])
            heap = heaps[pool]
            heapreplace(heap, heap[0] + taken[play])
        if passing is not None:
            passing.until([heaps[pool] for pool in known])
        starts.append(min(heaps[pool][0] for pool in known))
    return starts


class _Job(msgspec.Struct, frozen=True):
    """A task ahead: where it may run, and what it takes there; ``yields``: to rivals that come while it waits."""

    able: list[tuple[str, list[float]]]
    yields: bool


class _Passing:
    """The rivals of one play: each takes the slot that is free first when it has come."""

    def __init__(self, rivals: Rivals, heaps: Mapping[str, list[float]], play: int) -> None:
        self._rivals = rivals
        self._slots = [(heap, rivals.times[pool]) for pool, heap in heaps.items() if rivals.times.get(pool)]
        self._play = play
        self._count = 0
        self._next = self._gap() if self._slots else math.inf
        share = rivals.guaranteed
        self._at_once = MOST_RIVALS if share <= 0.0 else math.ceil((1.0 - share) / share)

    def until(self, heaps: Sequence[list[float]]) -> None:
        """Let all of them take slots that come before one of these slots is free for somebody who lets them pass."""
        most = min(MOST_RIVALS, self._count + self._at_once)
        while self._count < most and self._next < min(map(_first, heaps)):
            heap, times = min(self._slots, key=_first_of)
            taken = times[self._count % len(times)][_ORDERS[(self._count * 11 + 1) % 127][self._play]]
            heapreplace(heap, max(heap[0], self._next) + taken)
            self._count += 1
            self._next += self._gap()

    def _gap(self) -> float:
        return _GAPS[_ORDERS[(self._count * 5 + 3) % 127][self._play]] / self._rivals.rate


def _latest(start: float, rivals: Rivals) -> float:
    """At this moment a task starts at the latest, however many rivals come."""
    return start * (MOST_DELAY if rivals.guaranteed <= 0.0 else min(MOST_DELAY, 1.0 / rivals.guaranteed))


def _stretch(rivals: Rivals, slots: int) -> float:
    """How many times as long a task waits in the mean whose rivals take their share of the slots meanwhile."""
    return 1.0 / max(1.0 / MOST_DELAY, 1.0 - rivals.rate * rivals.each_ms / slots)


def _job(stations: Mapping[str, Station], task: Waiting) -> _Job:
    able = sorted(pool for pool in task.pools if pool in stations and stations[pool].free)
    times = [(pool, service(stations[pool].replica, task.demand, task.number)) for pool in able]
    return _Job(times, yields=task.demand.kind.priority is Priority.BATCH)


def summed(stations: Mapping[str, Station], ahead: Iterable[Crowd], wanted: Collection[str]) -> list[float]:
    """The same from sums, where much is ahead: all slots are busy until then, each with an even part of the work."""
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
    mean = max(0.0, first.height - rest)
    variance = sum(level.variance for level in known) / slots**2 + (slots - 1) / slots**2 * first.residual**2
    order = _ORDERS[0]
    return [
        max(0.0, mean * math.exp(first.doubt * _DOUBTS[play]) + math.sqrt(variance) * NORMAL[order[play]])
        for play in range(DRAWS)
    ]


class _Level:
    """How far the slots of one pool are filled with work, like a vessel."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.slots = len(station.free)
        means = [sum(slot) / DRAWS for slot in station.free]
        self.height = sum(means) / self.slots
        self.variance = sum(
            sum((each - mean) ** 2 for each in slot) / DRAWS for slot, mean in zip(station.free, means, strict=True)
        )
        self.residual = 0.0
        """What a task still takes that is met in the middle."""
        self.doubt = 0.0

    def needs(self, crowd: Crowd) -> tuple[float, float, float]:
        """Tasks, work and its variance, if this pool alone did all of it."""
        count = work = variance = 0.0
        for kind, held in crowd.tally.sums.items():
            demand = typical(kind, held)
            mean, spread = each_of(self.station.replica, demand)
            tasks = crowd.share * held.count
            count, work, variance = count + tasks, work + tasks * mean, variance + tasks * spread
            self.doubt = max(self.doubt, self.station.replica.doubt(demand))
        return count, work, variance


def typical(kind: Kind, of: Sum) -> Demand:
    """The mean task of a sum."""
    return Demand(kind, of.prompt / of.count, round(of.bound / of.count), round(of.hint / of.count))


def each_of(replica: Replica, demand: Demand) -> tuple[float, float]:
    """Mean and variance of what such a task takes on a slot."""
    cost = replica.cost(demand)
    new, spread = replica.new_tokens(demand) if demand.bound else (0.0, 0.0)
    mean = cost.busy_ms(demand.prompt * replica.cold(demand), new)
    return mean, cost.per_new_ms**2 * spread + (cost.noise * mean) ** 2


def _pour(levels: dict[str, _Level], crowd: Crowd) -> None:
    """Give a crowd's work to its pools, to those first that are free first."""
    needs = {pool: level.needs(crowd) for pool, level in levels.items()}
    able = sorted((pool for pool in levels if needs[pool][1] > 0.0), key=lambda pool: levels[pool].height)
    left, height, rate = 1.0, 0.0, 0.0
    for place, pool in enumerate(able):
        rate += levels[pool].slots / needs[pool][1]
        height = levels[pool].height + left / rate
        following = levels[able[place + 1]].height if place + 1 < len(able) else math.inf
        if height <= following:
            break
        left -= rate * (following - levels[pool].height)
    for pool in able:
        level, (count, work, variance) = levels[pool], needs[pool]
        part = level.slots * max(0.0, height - level.height) / work
        level.height = max(level.height, height)
        level.variance += part * variance
        mean = work / count
        level.residual = (mean * mean + variance / count) / (2.0 * mean)


def delayed(starts: list[float], rivals: Rivals, slots: int) -> list[float]:
    """The starts of a task that has much ahead, with the rivals that pass it until then."""
    if rivals.rate <= 0.0 or slots <= 0:
        return starts
    factor, each = _stretch(rivals, slots), rivals.each_ms
    share = min(1.0, rivals.rate * each / slots)
    order = _ORDERS[1]
    found = []
    for play, start in enumerate(starts):
        whole = start * factor
        spread = math.sqrt(2.0 * share * each * whole / slots)
        found.append(min(_latest(start, rivals), max(start, whole + NORMAL[order[play]] * spread)))
    return found


def forecast(starts: Sequence[float], replica: Replica, demand: Demand, pool_id: str, number: int = 0) -> Forecast:
    """What is said of a task that starts at one of these times."""
    return Forecast(starts, partial(service, replica, demand, number), pool_id)


def _first(heap: list[float]) -> float:
    return heap[0]


def _first_of(slots: tuple[list[float], object]) -> float:
    return slots[0][0]


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Between the two values that are nearest, so that equal shares of all outcomes fall between any two of them."""
    place = min(max(share * (len(ordered) + 1) - 1, 0.0), len(ordered) - 1.0)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    low, high = ordered[below], ordered[above]
    return low if low == high else low + (place - below) * (high - low)
