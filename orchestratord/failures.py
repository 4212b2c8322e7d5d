"""How many wrong tokens of one client are looked at.

Decides when a client has used up its budget, how long it has to wait, and whose token is looked at all the same, so
that a broken program does not lock out the others of its machine: of a client that showed the right one lately, and of
one whose wrong tokens were few, however often it sent them. A program with an old token is no guesser. Both tables are
bounded, and a wrong token never takes anybody's place in the second one. Never sees a token, only a digest that tells
one from another, and never reads a clock: ``now`` is an argument, in monotonic seconds.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import msgspec

MINUTE_S = 60.0
LATELY_S = 24 * 3600.0
"""So long a client that showed the right token is known."""
REFRESH_S = 60.0
"""A known client is written down anew at most so often."""
MOST_CLIENTS = 4_096
"""Of so many clients the failures are remembered, and of as many others that they are known; the oldest go first."""


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """The budget is used up; one more wrong token would be looked at after ``retry_ms``."""

    retry_ms: int


class _Bucket:
    __slots__ = ("at", "guesses", "level", "told")

    def __init__(self, level: float, now: float) -> None:
        self.level = level
        self.at = now
        self.guesses: set[bytes] = set()
        """The wrong tokens since it was full, as many as the budget."""
        self.told = False
        """Whether its emptiness has been told since it was full."""


class Failures:
    """The budgets of every client."""

    def __init__(self, per_minute: int, most_clients: int = MOST_CLIENTS) -> None:
        self.per_minute = per_minute
        self._most = most_clients
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._known: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """Of how many clients something is remembered."""
        return len(self._buckets) + len(self._known)

    def look(self, client: str, now: float) -> Blocked | None:
        """Whether this client's token may not be looked at as if nothing had been."""
        bucket = self._bucket(client, now)
        if bucket is None or bucket.level >= 1.0:
            return None
        return Blocked(retry_ms=max(1, math.ceil((1.0 - bucket.level) * MINUTE_S * 1000 / self.per_minute)))

    def guesses(self, client: str, now: float) -> bool:
        """Whether no token of this client is looked at while it is blocked."""
        bucket = self._bucket(client, now)
        return bucket is not None and len(bucket.guesses) >= self.per_minute and not self.knows(client, now)

    def knows(self, client: str, now: float) -> bool:
        """Whether it showed the right token lately."""
        seen = self._known.get(client)
        return seen is not None and now - seen < LATELY_S

    def failed(self, client: str, digest: bytes, now: float) -> bool:
        """A wrong token was looked at. Whether that used up the budget for the first time since it was full."""
        bucket = self._bucket(client, now)
        if bucket is None:
            bucket = self._buckets[client] = _Bucket(float(self.per_minute), now)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(client)
        bucket.level = max(0.0, bucket.level - 1.0)
        if len(bucket.guesses) < self.per_minute:
            bucket.guesses.add(digest)
        first = bucket.level < 1.0 and not bucket.told
        bucket.told = bucket.told or first
        return first

    def succeeded(self, client: str, now: float) -> None:
        """The right token was shown."""
        seen = self._known.get(client)
        if seen is not None and now - seen < REFRESH_S:
            return
        self._known[client] = now
        self._known.move_to_end(client)
        if len(self._known) > self._most:
            self._known.popitem(last=False)

    def _bucket(self, client: str, now: float) -> _Bucket | None:
        """The bucket as it is by now; one that is full again is forgotten."""
        bucket = self._buckets.get(client)
        if bucket is None:
            return None
        bucket.level += max(0.0, now - bucket.at) * self.per_minute / MINUTE_S
        bucket.at = max(now, bucket.at)
        if bucket.level >= self.per_minute:
            del self._buckets[client]
            return None
        return bucket
