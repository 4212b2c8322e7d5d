"""What one replica was measured to do: the time of a prompt token, of a new one, and of everything else.

Decides what each finished, cancelled or failed run honestly teaches, and how fast older ones fade. Before anything was
measured stated assumptions stand (``PRIOR``); each sample takes weight from them. Never reads a clock.
"""

from __future__ import annotations

import math

import msgspec

from contracts.tasks import Priority, Workload
from orchestratord.demand import Demand
from orchestratord.lengths import STRATA, Lengths

MEMORY = 50
"""About so many of the latest runs count."""
KEEP = 1.0 - 1.0 / MEMORY


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
        self._hints = _Hints()
        self._cold = {False: _Share(1.0), True: _Share(1.0)}
        """Of prompts, outside of sessions and in them."""
        self._bytes = {workload: _Share(PRIOR_BYTES) for workload in Workload}

    def learn(self, ran: Ran) -> None:
        """Take over what a run shows."""
        demand, kind = ran.demand, ran.demand.kind
        if ran.tokens_in:
            self._bytes[kind.workload].add(ran.prompt_bytes, ran.tokens_in)
            self._cold[kind.in_session].add(max(0, ran.tokens_in - ran.cached), ran.tokens_in)
        if not demand.bound:
            if ran.ended:
                self._reading.whole(ran, demand.prompt if ran.tokens_in is None else float(ran.tokens_in - ran.cached))
            return
        if ran.ended:
            prompt = demand.prompt if ran.tokens_in is None else float(ran.tokens_in - ran.cached)
            self._drawing.whole(ran, max(0.0, prompt))
        elif ran.steady:
            self._drawing.part(ran)
        if kind.hinted:
            if ran.ended and not (ran.cut and ran.tokens_out < demand.hint):
                self._hints.add(ran.tokens_out / demand.hint)
        else:
            for lengths in (self.lengths(demand), self._all_lengths):
                if ran.ended and not ran.cut:
                    lengths.ended(ran.tokens_out)
                elif ran.tokens_out:
                    lengths.cut(ran.tokens_out)

    def forget(self) -> None:
        """Another engine or another model: what was measured is a weak guess from here on."""
        self._drawing.fade()
        self._reading.fade()
        self._all_lengths = Lengths()
        self._lengths.clear()

    # --- what follows from it -----------------------------------------------------------------------------------------

    def cost(self, demand: Demand) -> Cost:
        """What tasks of this kind take."""
        speed = self._drawing if demand.bound else self._reading
        return speed.cost

    def cold(self, demand: Demand) -> float:
        """The share of such a prompt that is in no cache."""
        return min(1.0, self._cold[demand.kind.in_session].value)

    def lengths(self, demand: Demand) -> Lengths:
        """How long such answers become."""
        return self._lengths.setdefault((demand.kind.priority, demand.kind.workload), Lengths(self._all_lengths))

    def new_tokens(self, demand: Demand, beyond: float = 0.0) -> tuple[float, float]:
        """Mean and variance of the new tokens that are to come of a task that has ``beyond`` already."""
        if demand.hint:
            return self._hints.expected(demand, beyond)
        return self.lengths(demand).expected(demand.bound, beyond)

    def doubt(self, demand: Demand) -> float:
        """How far all that is foretold of such tasks may be off together: by their speed, and by their length."""
        cost = self.cost(demand)
        if not demand.bound:
            return cost.doubt
        new, spread = self.new_tokens(demand)
        busy = cost.busy_ms(demand.prompt * self.cold(demand), new)
        samples = self._hints.count if demand.hint else 1.0 + self.lengths(demand).answers
        return math.hypot(cost.doubt, cost.per_new_ms * math.sqrt(spread / samples) / max(1.0, busy))

    def drawn(self, demand: Demand, beyond: float = 0.0) -> list[float]:
        """The new tokens that are to come at each of the ``STRATA`` of such answers."""
        if not demand.hint:
            return self.lengths(demand).drawn(demand.bound, beyond)
        mean, variance = self._hints.expected(demand, beyond)
        width = math.sqrt(12.0 * variance)  # of an even spread with this variance
        room = max(0.0, demand.bound - beyond)
        return [min(room, max(0.0, mean + width * (share - 0.5))) for share in STRATA]

    def tokens_of(self, size: int, workload: Workload) -> float:
        """About how many tokens so many bytes of text are."""
        return size / max(0.25, self._bytes[workload].value)


class _Speed:
    """How long runs take for their tokens: a line through prompt tokens and first texts, and a mean per new token."""

    def __init__(self) -> None:
        self._runs = self._prompt = self._first = self._prompt_square = self._prompt_first = 0.0
        self._decoded = self._decode_ms = 0.0
        self._misses = self._miss_square = 0.0
        self._cost: Cost | None = None

    @property
    def cost(self) -> Cost:
        if self._cost is None:
            self._cost = self._fitted()
        return self._cost

    def whole(self, ran: Ran, prompt: float) -> None:
        """A run that came to a good end."""
        new = ran.tokens_out if ran.demand.bound else 0
        said = self.cost.busy_ms(prompt, new)
        self._fade(KEEP)
        miss = min(WORST_NOISE, abs(ran.end_ms - said) / max(1.0, said))
        if self._runs >= 1.0:  # before, it is the prior that misses
            self._misses += 1.0
            self._miss_square += miss * miss
        first = ran.end_ms if ran.first_ms is None or not ran.demand.bound else ran.first_ms
        self._line(prompt, first)
        self._decode(ran, new)

    def part(self, ran: Ran) -> None:
        """A run that somebody ended: it shows how fast tokens came, and not how long the task would have taken."""
        self._fade(KEEP)
        self._decode(ran, ran.tokens_out)

    def fade(self) -> None:
        """Nearly all that was measured is of something else."""
        if self._runs > 1.0:
            self._fade(1.0 / self._runs)

    def _line(self, prompt: float, first: float) -> None:
        self._runs += 1.0
        self._prompt += prompt
        self._first += first
        self._prompt_square += prompt * prompt
        self._prompt_first += prompt * first

    def _decode(self, ran: Ran, new: int) -> None:
        if ran.first_ms is not None and new > 1:
            self._decoded += new - 1
            self._decode_ms += max(0.0, ran.end_ms - ran.first_ms)

    def _fade(self, keep: float) -> None:
        self._cost = None
        self._runs *= keep
        self._prompt *= keep
        self._first *= keep
        self._prompt_square *= keep
        self._prompt_first *= keep
        self._decoded *= keep
        self._decode_ms *= keep
        self._misses *= keep
        self._miss_square *= keep

    def _fitted(self) -> Cost:
        fixed, slope = self._fitted_line()
        worth = PRIOR_DECODED / (1.0 + self._decoded)
        per_new = (self._decode_ms + worth * PRIOR.per_new_ms) / (self._decoded + worth)
        noise = (self._miss_square + 2.0 * PRIOR.noise**2) / (self._misses + 2.0)
        return Cost(
            fixed_ms=fixed,
            per_prompt_ms=slope,
            per_new_ms=per_new,
            noise=math.sqrt(noise),
            doubt=math.hypot(math.sqrt(noise / (1.0 + self._runs)), PRIOR.doubt / (1.0 + self._runs)),
        )

    def _fitted_line(self) -> tuple[float, float]:
        """By least squares, with the prior's two runs; neither part is ever negative."""
        far_first = PRIOR.fixed_ms + FAR_PROMPT * PRIOR.per_prompt_ms
        worth = PRIOR_RUNS / (1.0 + self._runs)
        runs = self._runs + 2.0 * worth
        prompt = self._prompt + worth * FAR_PROMPT
        first = self._first + worth * (PRIOR.fixed_ms + far_first)
        square = self._prompt_square + worth * FAR_PROMPT**2
        product = self._prompt_first + worth * FAR_PROMPT * far_first
        slope = (runs * product - prompt * first) / max(1e-9, runs * square - prompt * prompt)
        fixed = (first - slope * prompt) / runs
        if slope < 0.0:
            return first / runs, 0.0
        if fixed < 0.0:
            return 0.0, product / square
        return fixed, slope


class _Hints:
    """How the answers of clients that say what they expect compare with what they said."""

    def __init__(self) -> None:
        self._count, self._sum, self._square = 2.0, 2.0, 2.0 * (1.0 + 0.5**2)

    @property
    def count(self) -> float:
        return self._count

    def add(self, ratio: float) -> None:
        ratio = min(ratio, 10.0)
        self._count = self._count * KEEP + 1.0
        self._sum = self._sum * KEEP + ratio
        self._square = self._square * KEEP + ratio * ratio

    def expected(self, demand: Demand, beyond: float) -> tuple[float, float]:
        """As the client said, times what that was worth so far; of one that is longer already, about its spread."""
        mean = self._sum / self._count
        sigma = math.sqrt(max(0.0, self._square / self._count - mean * mean)) * demand.hint
        whole = min(float(demand.bound), mean * demand.hint)
        room = max(0.0, demand.bound - beyond)
        left = min(room, max(whole - beyond, 0.5 * sigma if beyond else 0.0))
        return left, min(sigma, max(left, room - left)) ** 2


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
