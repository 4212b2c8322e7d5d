"""How much one client may ask for in a minute: token buckets.

Decides whether a client has to wait, and exactly how long. A bucket holds at most a minute's worth, so a client that
was quiet may ask for that much at once. A task that is larger than the whole bucket needs a full one, and what it uses
beyond that is owed. Never reads a clock: ``now_ms`` is an argument, in monotonic milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from contracts.config import Limits

MINUTE_MS = 60_000.0
MOST_CLIENTS = 10_000
"""Of so many clients the buckets are remembered; of more those that are full again are forgotten first."""
ALMOST = 1e-6
"""What adding up fractions leaves over keeps nobody waiting."""


class Wait(msgspec.Struct, frozen=True):
    """Not now: the bucket of this limit has refilled enough after so many milliseconds."""

    limit: str
    per_minute: int
    wait_ms: int


class Charge(msgspec.Struct, frozen=True):
    """What was taken for a task, so that the rest can be given back."""

    identity: str
    tokens: int


class _Bucket:
    def __init__(self, per_minute: int, now_ms: float) -> None:
        self.size = per_minute
        self.level = float(per_minute)
        self.at_ms = now_ms

    def wait_ms(self, amount: int, now_ms: float) -> int:
        """After how long so much can be taken."""
        self._refill(now_ms)
        missing = min(amount, self.size) - self.level
        return 0 if missing <= ALMOST else math.ceil(missing * MINUTE_MS / self.size)

    def take(self, amount: float, now_ms: float) -> None:
        """A negative amount is given back."""
        self._refill(now_ms)
        self.level = min(float(self.size), self.level - amount)

    def full(self, now_ms: float) -> bool:
        self._refill(now_ms)
        return self.level >= self.size

    def _refill(self, now_ms: float) -> None:
        self.level = min(float(self.size), self.level + max(0.0, now_ms - self.at_ms) * self.size / MINUTE_MS)
        self.at_ms = max(self.at_ms, now_ms)


class Rates:
    """The buckets of every client. Without limits there are none."""

    def __init__(self, limits: Limits) -> None:
        self._limits = _given(limits)
        self._buckets: dict[str, dict[str, _Bucket]] = {}

    def change(self, limits: Limits) -> None:
        """Other limits hold from now on; with them every bucket is full once."""
        changed = _given(limits)
        if changed != self._limits:
            self._limits = changed
            self._buckets.clear()

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self._limits)

    @property
    def clients(self) -> int:
        """Of how many clients the buckets are remembered."""
        return len(self._buckets)

    def look(self, identity: str, tokens: int, now_ms: float) -> Wait | None:
        """Whether a client has to wait with a task of so many tokens; nothing is taken.

        Of several limits the one that keeps it longest is told.
        """
        waits = [
            Wait(name, self._limits[name], bucket.wait_ms(amount, now_ms))
            for name, bucket, amount in self._each(identity, 1, tokens, now_ms)
        ]
        longest = max(waits, key=lambda each: each.wait_ms, default=None)
        return longest if longest is not None and longest.wait_ms > 0 else None

    def take(self, identity: str, tokens: int, now_ms: float) -> Charge:
        """A task was let in."""
        for _, bucket, amount in self._each(identity, 1, tokens, now_ms):
            bucket.take(amount, now_ms)
        return Charge(identity, tokens)

    def settle(self, charge: Charge, used: int, now_ms: float) -> None:
        """The task has ended: what it did not use is given back, and what it used beyond the charge is taken."""
        for _, bucket, amount in self._each(charge.identity, 0, used - charge.tokens, now_ms):
            bucket.take(amount, now_ms)

    def _each(self, identity: str, requests: int, tokens: int, now_ms: float) -> Iterable[tuple[str, _Bucket, int]]:
        amounts = {"requests_per_minute": requests, "tokens_per_minute": tokens}
        return [(name, bucket, amounts[name]) for name, bucket in self._of(identity, now_ms).items()]

    def _of(self, identity: str, now_ms: float) -> dict[str, _Bucket]:
        if not self._limits:
            return {}
        if identity not in self._buckets:
            if len(self._buckets) >= MOST_CLIENTS:
                self._forget(now_ms)
            self._buckets[identity] = {name: _Bucket(each, now_ms) for name, each in self._limits.items()}
        return self._buckets[identity]

    def _forget(self, now_ms: float) -> None:
        full = [name for name, each in self._buckets.items() if all(one.full(now_ms) for one in each.values())]
        for name in full or list(self._buckets)[:1]:
            del self._buckets[name]


def _given(limits: Limits) -> dict[str, int]:
    wanted = {"requests_per_minute": limits.requests_per_minute, "tokens_per_minute": limits.tokens_per_minute}
    return {name: per_minute for name, per_minute in wanted.items() if per_minute is not None}
