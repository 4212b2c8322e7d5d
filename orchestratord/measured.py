"""What one replica was measured to do: the time of a prompt token, of a new one, and of everything else.

Decides what each finished, cancelled or failed run honestly teaches, and how fast older ones fade. Before anything was
measured stated assumptions stand (``PRIOR``); each sample takes weight from them. Never reads a clock.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import msgspec

from contracts.tasks import Priority, Workload
from orchestratord.demand import Demand
from orchestratord.lengths import DRAWS, STRATA, Lengths

MEMORY = 50
"""About so many of the latest runs count."""
KEEP = 1.0 - 1.0 / MEMORY
FASTEST = 0.1
"""No run takes less than this share of what its tokens say."""
NORMAL = tuple(NormalDist().inv_cdf(share) for share in STRATA)


def _shuffled(count: int) -> list[list[int]]:
    """Fixed orders of the strata, so that what is unrelated is drawn as if it were.

    Each play has its mirror, in which all that is long in the one is short: so the middle of the plays stays in the
    middle, however few they are.
    """
    state, orders = 1, []
    for _ in range(count):
        half = list(range(DRAWS // 2))
        for last in range(len(half) - 1, -1, -1):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            other = (state >> 33) % (last + 1)
            half[last], half[other] = half[other], half[last]
            if state >> 63:
                half[last] = DRAWS - 1 - half[last]
        orders.append(half + [DRAWS - 1 - place for place in reversed(half)])
    return orders


ORDERS = _shuffled(127)
_PAIRS = [tuple(zip(order, ORDERS[(number * 31 + 7) % 127], strict=True)) for number, order in enumerate(ORDERS)]
"""For the lengths of tasks, and for how steady their runs are."""


class Cost(msgspec.Struct, frozen=True):
    """What a task takes on one replica's slot, in milliseconds. ``noise`` and ``doubt`` are shares of it, one sigma."""

    fixed_ms: float
    per_prompt_ms: float
    """Per token of the prompt that is not in the cache."""
    per_new_ms: float
    noise: float
    """How far a run is from what its tokens say."""
    doubt: float
    """How far all of them may be off together, because little was measured yet."""
    noises: tuple[float, ...] = ()
    """How many times as long a run may take as its tokens say, at each of the ``STRATA``."""

    def busy_ms(self, prompt: float, new: float) -> float:
        """The time that a slot is busy with so many tokens."""
        return self.fixed_ms + self.per_prompt_ms * prompt + self.per_new_ms * max(0.0, new - 1)


PRIOR = Cost(fixed_ms=50.0, per_prompt_ms=0.5, per_new_ms=20.0, noise=0.3, doubt=0.7)
"""A small model on an ordinary GPU; on others it is wrong until a task or two have run."""
PRIOR_RUNS = 0.1
"""Of so little worth, and of less with every run: one true one shows more."""
FAR_PROMPT = 1_000.0
"""The prior is one run without a prompt, and one with so many tokens."""
PRIOR_DECODED = 1.0
"""So many new tokens' worth, and less with every one."""
PRIOR_BYTES = 4.0
"""Of text to a token."""
PRIOR_READ = 50.0
"""The shares of prompts that caches hold, and bytes to a token, begin with so many tokens' worth of assumption."""
WORST_NOISE = 2.0


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as it was seen. Times in milliseconds since the slot was taken."""

    demand: Demand
    prompt_bytes: int
    tokens_in: int | None
    """None where no engine said it."""
    cached: int
    tokens_out: int
    first_ms: float | None
    """When the first text came."""
    end_ms: float
    ended: bool
    """It came to a good end, by itself or at a bound."""
    cut: bool
    """It would have gone on: its bound was reached, or its client had enough."""
    steady: bool
    """It was served well for as long as it ran; not so one that failed."""


class Replica:
    """What is known of one replica's engine with its model."""

    def __init__(self) -> None:
        self._drawing, self._reading = _Speed(), _Speed()
        self._all_lengths = Lengths()
        self._lengths: dict[tuple[Priority, Workload], Lengths] = {}
        self._hints = Lengths()
        """Of answers whose clients said what they expect, in thousandths of that."""
        for expected in (500, 800, 1_000, 1_250, 2_000):
            self._hints.add(expected, cut=False)
        self._cold = {False: _Share(1.0), True: _Share(1.0)}
        """Of prompts, outside of sessions and in them."""
        self._bytes = {workload: _Share(PRIOR_BYTES) for workload in Workload}

    def learn(self, ran: Ran) -> None:
        """Take over what a run shows."""
        demand, kind = ran.demand, ran.demand.kind
        if ran.tokens_in:
            self._bytes[kind.workload].add(ran.prompt_bytes, ran.tokens_in)
            self._cold[kind.in_session].add(max(0, ran.tokens_in - ran.cached), ran.tokens_in)
        if ran.ended:
            prompt = demand.prompt if ran.tokens_in is None else float(ran.tokens_in - ran.cached)
            self._speed(demand).whole(ran, max(0.0, prompt))
        elif ran.steady and demand.bound:
            self._drawing.part(ran)
        cut = ran.cut or not ran.ended
        if not demand.bound or (cut and not ran.tokens_out):
            return
        if kind.hinted:
            self._hints.add(1_000 * max(1, ran.tokens_out) / demand.hint, cut=cut)
        else:
            for lengths in (self._lengths_of(demand), self._all_lengths):
                lengths.add(max(1, ran.tokens_out), cut=cut)

    def forget(self) -> None:
        """Another engine or another model: what was measured is a weak guess from here on."""
        self._drawing.fade()
        self._reading.fade()
        self._all_lengths = Lengths()
        self._lengths.clear()

    # --- what follows from it -----------------------------------------------------------------------------------------

    def cost(self, demand: Demand) -> Cost:
        """What tasks of this kind take."""
        return self._speed(demand).cost

    def cold(self, demand: Demand) -> float:
        """The share of such a prompt that is in no cache."""
        return min(1.0, self._cold[demand.kind.in_session].value)

    def new_tokens(self, demand: Demand) -> tuple[float, float]:
        """Mean and variance of the new tokens of such a task."""
        if not demand.bound:
            return 0.0, 0.0
        lengths, unit = self._known(demand)
        _, mean, variance = lengths.whole(demand.bound / unit)
        return unit * mean, unit * unit * variance

    def each(self, demand: Demand) -> tuple[float, float]:
        """Mean and variance of what such a task takes on a slot."""
        cost = self.cost(demand)
        new, spread = self.new_tokens(demand)
        mean = cost.busy_ms(demand.prompt * self.cold(demand), new)
        return mean, cost.per_new_ms**2 * spread + (cost.noise * mean) ** 2

    def doubt(self, demand: Demand) -> float:
        """How far all that is foretold of such tasks may be off together: by their speed, and by their length."""
        cost = self.cost(demand)
        if not demand.bound:
            return cost.doubt
        lengths, _ = self._known(demand)
        new, spread = self.new_tokens(demand)
        busy = cost.busy_ms(demand.prompt * self.cold(demand), new)
        return math.hypot(cost.doubt, cost.per_new_ms * math.sqrt(spread / (1 + lengths.answers)) / max(1.0, busy))

    def service(self, demand: Demand, number: int = 0) -> list[float]:
        """The possible times of a task on a slot; ``number`` tells tasks apart whose times are unrelated."""
        cost = self.cost(demand)
        return self._times(demand, cost.busy_ms(demand.prompt * self.cold(demand), 1.0), 0, number)

    def remaining(self, demand: Demand, tokens: int, elapsed_ms: float, number: int = 0) -> list[float]:
        """The possible times until a slot is free whose task has ``tokens`` new ones after ``elapsed_ms``."""
        if tokens:
            return self._times(demand, 0.0, tokens, number)
        cost = self.cost(demand)
        expected = cost.busy_ms(demand.prompt * self.cold(demand), 1.0)
        # One that takes longer than it should may take as much longer again as such runs are unsteady.
        return self._times(demand, max(expected - elapsed_ms, cost.noise * expected), 0, number)

    def _times(self, demand: Demand, before_ms: float, tokens: int, number: int) -> list[float]:
        """``before_ms`` until there is a first token, or one more than these, and what the others take."""
        cost = self.cost(demand)
        pairs, noises = _PAIRS[number % len(_PAIRS)], cost.noises
        if not demand.bound:
            return [before_ms * noises[noise] for _, noise in pairs]
        lengths, unit = self._known(demand)
        bound, each, made = demand.bound / unit, cost.per_new_ms * unit, 0.0
        if tokens:
            drawn = lengths.left(bound, tokens / unit)
        else:
            drawn, made = lengths.whole(bound)[0], 1.0 / unit
            if drawn[0] < made:
                drawn = [max(made, length) for length in drawn]
        return [(before_ms + each * (drawn[length] - made)) * noises[noise] for length, noise in pairs]

    def tokens_of(self, size: int, workload: Workload) -> float:
        """About how many tokens so many bytes of text are."""
        return size / max(0.25, self._bytes[workload].value)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _speed(self, demand: Demand) -> _Speed:
        return self._drawing if demand.bound else self._reading

    def _known(self, demand: Demand) -> tuple[Lengths, float]:
        """How long such answers become, and in which unit: tokens, or thousandths of what the client expects."""
        return (self._hints, demand.hint / 1_000) if demand.hint else (self._lengths_of(demand), 1.0)

    def _lengths_of(self, demand: Demand) -> Lengths:
        key = demand.kind.priority, demand.kind.workload
        found = self._lengths.get(key)
        if found is None:
            found = self._lengths[key] = Lengths(self._all_lengths)
        return found


class _Speed:
    """How long runs take for their tokens: a line through prompt tokens and first texts, and a mean per new token.

    A run that takes long misses by more than a short one, so it weighs less in the line.
    """

    def __init__(self) -> None:
        self._sums: tuple[float, ...] = (0.0,) * 10
        """Runs; weights, prompts, first texts, squares and products of the line; new tokens and their time; misses."""
        self._cost: Cost | None = None

    @property
    def cost(self) -> Cost:
        if self._cost is None:
            self._cost = self._fitted()
        return self._cost

    def whole(self, ran: Ran, prompt: float) -> None:
        """A run that came to a good end."""
        before, new = self.cost, ran.tokens_out if ran.demand.bound else 0
        said = max(1.0, before.busy_ms(prompt, new))
        miss = min(WORST_NOISE, abs(ran.end_ms - said) / said)
        judged = 1.0 if self._sums[0] * KEEP >= 1.0 else 0.0  # before, it is the prior that misses
        first = ran.end_ms if ran.first_ms is None or not ran.demand.bound else ran.first_ms
        weight = 1.0 / max(1.0, before.busy_ms(prompt, 1.0))
        line = weight, weight * prompt, weight * first, weight * prompt * prompt, weight * prompt * first
        self._add(1.0, *line, *_decoded(ran, new), judged, judged * miss * miss)

    def part(self, ran: Ran) -> None:
        """A run that somebody ended: it shows how fast tokens came, and not how long the task would have taken."""
        self._add(*(0.0,) * 6, *_decoded(ran, ran.tokens_out), 0.0, 0.0)

    def fade(self) -> None:
        """Nearly all that was measured is of something else."""
        keep = 1.0 / max(1.0, self._sums[0])
        self._sums, self._cost = tuple(keep * each for each in self._sums), None

    def _add(self, *seen: float) -> None:
        self._sums = tuple(KEEP * former + each for former, each in zip(self._sums, seen, strict=True))
        self._cost = None

    def _fitted(self) -> Cost:
        runs, weight, *line, decoded, decode_ms, misses, miss_square = self._sums
        fixed, slope = _fitted_line(weight, *line, prior=PRIOR_RUNS / (1.0 + runs) * (weight / runs if runs else 1.0))
        worth = PRIOR_DECODED / (1.0 + decoded)
        noise = math.sqrt((miss_square + 2.0 * PRIOR.noise**2) / (misses + 2.0))
        return Cost(
            fixed_ms=fixed,
            per_prompt_ms=slope,
            per_new_ms=(decode_ms + worth * PRIOR.per_new_ms) / (decoded + worth),
            noise=noise,
            doubt=math.hypot(noise / math.sqrt(1.0 + runs), PRIOR.doubt / (1.0 + runs)),
            noises=tuple(max(FASTEST, 1.0 + noise * sigma) for sigma in NORMAL),
        )


def _decoded(ran: Ran, new: int) -> tuple[float, float]:
    """New tokens behind the first, and their time."""
    return (0.0, 0.0) if ran.first_ms is None or new < 2 else (new - 1.0, max(0.0, ran.end_ms - ran.first_ms))


def _fitted_line(
    weight: float, prompt: float, first: float, square: float, product: float, *, prior: float
) -> tuple[float, float]:
    """By least squares, with the prior's two runs of this weight; neither part is ever negative."""
    far_first = PRIOR.fixed_ms + FAR_PROMPT * PRIOR.per_prompt_ms
    weight += 2.0 * prior
    prompt += prior * FAR_PROMPT
    first += prior * (PRIOR.fixed_ms + far_first)
    square += prior * FAR_PROMPT**2
    product += prior * FAR_PROMPT * far_first
    slope = (weight * product - prompt * first) / max(1e-9 * weight, weight * square - prompt * prompt)
    fixed = (first - slope * prompt) / weight
    if slope < 0.0:
        return first / weight, 0.0
    if fixed < 0.0:
        return 0.0, product / square
    return fixed, slope


class _Share:
    """A ratio of two sums, of the latest tokens."""

    def __init__(self, prior: float) -> None:
        self._part, self._whole = prior * PRIOR_READ, PRIOR_READ

    @property
    def value(self) -> float:
        return self._part / self._whole

    def add(self, part: float, whole: float) -> None:
        self._part = self._part * KEEP + part
        self._whole = self._whole * KEEP + whole
