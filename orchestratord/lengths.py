"""How many new tokens answers come to, from those that were seen.

Decides nothing but the arithmetic. An answer that was cut at its bound, or given up by its client, does not say how
long it would have become, only that it was longer: it counts among those that "got so far" and not among those that
"ended there" (the estimate of Kaplan and Meier). So the expectation for any other bound, and for an answer that is
half written, comes from the same few numbers. Never reads a clock; the latest answers count, and no others.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable

MEMORY = 400
"""So many of the latest answers count."""
FRESH = 0.05
"""Answers are looked at anew when this share of them has come since."""
PRIOR_TOKENS = 200.0
"""Before any answer of any kind was seen, answers are assumed to end at random, after so many tokens in the mean."""
PRIOR_ANSWERS = 0.1
"""So many answers' worth that assumption is, and what was seen of others for a kind of its own."""
ENOUGH = 20
"""From so many answers on a kind is not compared with the others any more."""
TAIL = 0.3
"""An answer that is longer than all that were seen goes on for this share of its length, in the mean."""
DRAWS = 12
STRATA = tuple((number + 0.5) / DRAWS for number in range(DRAWS))
"""Shares that stand for a whole distribution, each for as much of it as any other."""
FINER = 5
"""So many strata of an answer's whole length make one: what is left of a long one needs more of them."""
RANDOM = tuple(-math.log(1.0 - share) for share in STRATA)
"""Of what ends at random: the spans at each of the strata, in means."""

Expected = tuple[list[float], float, float]
"""Tokens at each of the strata, their mean, and their variance."""


class Lengths:
    """The lengths of one kind of answers. ``like``: what is assumed of it as long as little of it was seen."""

    def __init__(self, like: Lengths | None = None) -> None:
        self._like = like
        self._seen = deque[tuple[float, bool]](maxlen=MEMORY)
        self._fresh = 0
        self._strata: list[float] = []
        self._assumed: list[float] = []
        self._whole: dict[float, Expected] = {}

    def add(self, tokens: float, *, cut: bool) -> None:
        """An answer ended by itself after so many tokens; ``cut``: it would have gone on."""
        self._seen.append((tokens, cut))
        self._fresh += 1

    @property
    def answers(self) -> int:
        """How many answers all this comes from."""
        return len(self._seen)

    def whole(self, bound: float) -> Expected:
        """What such answers come to that may have so many tokens."""
        strata = self._now()
        found = self._whole.get(bound)
        if found is None:
            fine = [min(tokens, bound) for tokens in strata]
            found = self._whole[bound] = _expected(
                [sum(fine[first : first + FINER]) / FINER for first in range(0, len(fine), FINER)]
            )
        return found

    def left(self, bound: float, beyond: float) -> list[float]:
        """The tokens to come at each of the ``STRATA`` of answers that have ``beyond`` already."""
        strata = self._now()
        shorter = bisect_right(strata, beyond)
        longer, room = len(strata) - shorter, max(0.0, bound - beyond)
        if longer < FINER:
            mean = TAIL * beyond
            left = [mean * each for each in RANDOM]
        else:
            left = [strata[shorter + int(share * longer)] - beyond for share in STRATA]
        return left if left[-1] <= room else [min(room, each) for each in left]

    def _now(self) -> list[float]:
        assumed = self._assumed
        if self._like is not None and len(self._seen) < ENOUGH:
            assumed = self._like._now()  # noqa: SLF001 - of the same kind
        if not self._strata or self._fresh > FRESH * len(self._seen) or assumed is not self._assumed:
            self._assumed, self._fresh = assumed, 0
            self._whole.clear()
            self._strata = self._looked_at(assumed[FINER // 2 :: FINER] or [PRIOR_TOKENS * each for each in RANDOM])
        return self._strata

    def _looked_at(self, assumed: Iterable[float]) -> list[float]:
        """The mean of each of the strata."""
        seen = [(tokens, cut, 1.0) for tokens, cut in self._seen]
        seen += [(tokens, False, PRIOR_ANSWERS / DRAWS) for tokens in assumed]
        seen.sort()
        alive = len(self._seen) + PRIOR_ANSWERS
        longer, strata = 1.0, _Strata(DRAWS * FINER)
        for tokens, cut, weight in seen:
            if not cut:
                ending = longer * min(1.0, weight / alive)
                strata.fill(tokens, ending)
                longer -= ending
            alive = max(1e-9, alive - weight)
        longest = seen[-1][0]
        for each in RANDOM:  # of what was cut and is longer than all others
            strata.fill(longest * (1.0 + TAIL * each), longer / DRAWS)
        return strata.ended(longest)


class _Strata:
    """Takes the values of a distribution in ascending order, and answers with the mean of each of equal parts of it."""

    def __init__(self, count: int) -> None:
        self._means: list[float] = []
        self._count = count
        self._room, self._sum = 1.0, 0.0

    def fill(self, value: float, share: float) -> None:
        """So much of all has this value."""
        parts = share * self._count
        while parts >= self._room:
            self._means.append(self._sum + self._room * value)
            parts -= self._room
            self._room, self._sum = 1.0, 0.0
        self._room -= parts
        self._sum += parts * value

    def ended(self, value: float) -> list[float]:
        """What was lost in rounding has this value."""
        self.fill(value, 2.0 / self._count)
        return self._means[: self._count]


def _expected(draws: list[float]) -> Expected:
    mean = sum(draws) / len(draws)
    return draws, mean, sum((each - mean) ** 2 for each in draws) / len(draws)
