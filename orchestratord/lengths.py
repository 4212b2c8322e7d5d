"""How many new tokens answers come to, from those that were seen.

Decides nothing but the arithmetic. An answer that was cut at its bound, or given up by its client, does not say how
long it would have become, only that it was longer: it counts among those that "got so far" and not among those that
"ended there" (the estimate of Kaplan and Meier). So the expectation for any other bound, and for an answer that is
half written, comes from the same few sums. Never reads a clock; old answers fade with new ones.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from itertools import pairwise

MEMORY = 400
"""About so many of the latest answers count."""
PRIOR_TOKENS = 200.0
"""Before any answer of any kind was seen, answers are assumed to end at random, after so many tokens in the mean."""
PRIOR_ANSWERS = 0.1
"""So many answers' worth that assumption is, wherever answers may end."""
FINENESS = 3
"""Classes of length per doubling; within each the mean of what was seen there stands for all."""
CLASSES = 1 + FINENESS * 24
"""The last one begins at 16 million tokens, more than may be asked for."""
HEAVIEST = 1e9
ENOUGH = 20
"""From so many answers on a kind is not compared with the others again before it has another one."""
DRAWS = 16
STRATA = tuple((number + 0.5) / DRAWS for number in range(DRAWS))
"""Shares that stand for a whole distribution, each for as much of it as any other."""


def _class_of(tokens: float) -> int:
    return 0 if tokens < 1 else min(CLASSES - 1, 1 + int(FINENESS * math.log2(tokens)))


_EDGES = [0.0] + [2.0 ** (number / FINENESS) for number in range(CLASSES)]
_MIDDLES = [0.0] + [(low + high) / 2 for low, high in pairwise(_EDGES[1:])]
_PRIOR = [0.0] + [1 - math.exp((low - high) / PRIOR_TOKENS) for low, high in pairwise(_EDGES[1:])]


class Lengths:
    """The lengths of one kind of answers. ``like``: what is assumed of it as long as little of it was seen."""

    def __init__(self, like: Lengths | None = None) -> None:
        self._like = like
        self._weight = 1.0
        """Of the next answer: it grows, which is the same as fading all that came before."""
        self._ended = [0.0] * CLASSES
        self._tokens = [0.0] * CLASSES
        self._cut = [0.0] * CLASSES
        self._curve: _Curve | None = None

    def ended(self, tokens: int) -> None:
        """An answer ended by itself after so many tokens."""
        number = _class_of(tokens)
        self._ended[number] += self._weight
        self._tokens[number] += self._weight * tokens
        self._grow()

    def cut(self, tokens: int) -> None:
        """An answer would have gone on after so many tokens."""
        self._cut[_class_of(tokens)] += self._weight
        self._grow()

    def expected(self, bound: float, beyond: float = 0.0) -> tuple[float, float]:
        """Mean and variance of the tokens to come, of an answer that has ``beyond`` and may have ``bound``."""
        return self._now.expected(bound, min(beyond, bound))

    @property
    def answers(self) -> float:
        """How many answers all this comes from; faded ones count less."""
        return (sum(self._ended) + sum(self._cut)) / self._weight

    def drawn(self, bound: float, beyond: float = 0.0) -> list[float]:
        """The tokens to come at each of the ``STRATA`` of such answers."""
        if beyond <= 0.0:
            return [min(tokens, bound) for tokens in self._now.whole]
        return [self._now.at(share, bound, min(beyond, bound)) for share in STRATA]

    @property
    def _now(self) -> _Curve:
        if self._curve is None or (self.answers < ENOUGH and self._like is not None):
            self._curve = _Curve(*self._steps())
        return self._curve

    def _steps(self) -> tuple[list[float], list[float]]:
        """Where answers end, and the share of all that are longer than that."""
        at, left = [0.0] * CLASSES, [0.0] * CLASSES
        assumed_at, assumed = (_MIDDLES, _PRIOR) if self._like is None else self._like.hazards()
        alive = sum(self._ended) + sum(self._cut)
        prior = PRIOR_ANSWERS * self._weight
        longer = 1.0
        for number in range(CLASSES):
            guessed = prior * assumed[number]
            ending = self._ended[number] + guessed
            place = assumed_at[number]
            at[number] = (self._tokens[number] + guessed * place) / ending if ending else place
            longer *= 1.0 - min(1.0, ending / (alive + prior))
            left[number] = longer
            alive = max(0.0, alive - self._ended[number] - self._cut[number])
        return at, left

    def hazards(self) -> tuple[list[float], list[float]]:
        """Where answers end, and of those that get there which share does."""
        at, left = self._now.steps
        return at, [1.0 - here / before if before > 0.0 else 1.0 for before, here in pairwise([1.0, *left])]

    def _grow(self) -> None:
        self._curve = None
        self._weight *= 1.0 + 1.0 / MEMORY
        if self._weight > HEAVIEST:
            for sums in (self._ended, self._tokens, self._cut):
                sums[:] = [each / self._weight for each in sums]
            self._weight = 1.0


class _Curve:
    """The share of answers that are longer than a number of tokens: a falling stair, and the areas below it."""

    def __init__(self, at: list[float], left: list[float]) -> None:
        self._at, self._left = at, left
        self.steps = at, left
        self._fallen = [1.0 - share for share in left]
        area, moment, before, share = 0.0, 0.0, 0.0, 1.0
        self._areas: list[float] = []
        self._moments: list[float] = []
        for place, longer in zip(at, left, strict=True):
            area += (place - before) * share
            moment += (place * place - before * before) * share
            self._areas.append(area)
            self._moments.append(moment)
            before, share = place, longer
        self.whole = [self.at(share, _EDGES[-1], 0.0) for share in STRATA]

    def longer(self, tokens: float) -> float:
        """The share of answers with more than so many tokens."""
        index = bisect_right(self._at, tokens) - 1
        return 1.0 if index < 0 else self._left[index]

    def expected(self, bound: float, beyond: float) -> tuple[float, float]:
        longer = self.longer(beyond)
        if bound <= beyond or longer <= 0.0:
            return 0.0, 0.0
        (area_to, moment_to), (area, moment) = self._below(bound), self._below(beyond)
        mean = (area_to - area) / longer
        square = (moment_to - moment - 2 * beyond * (area_to - area)) / longer
        return mean, max(0.0, square - mean * mean)

    def at(self, share: float, bound: float, beyond: float) -> float:
        longer = self.longer(beyond)
        if longer <= 0.0:
            return 0.0
        index = bisect_left(self._fallen, 1.0 - (1.0 - share) * longer)
        place = self._at[index] if index < CLASSES else bound
        return max(0.0, min(place, bound) - beyond)

    def _below(self, tokens: float) -> tuple[float, float]:
        """The area below the curve up to here, and its moment (the integral of 2 t times the share)."""
        index = bisect_right(self._at, tokens) - 1
        if index < 0:
            return tokens, tokens * tokens
        place, share = self._at[index], self._left[index]
        area = self._areas[index] + (tokens - place) * share
        return area, self._moments[index] + (tokens * tokens - place * place) * share
