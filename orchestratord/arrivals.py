"""Which of the numbers that arrivals get are still there, which is the smallest, and how many are smaller than another.

Decides nothing but that, and until when some of them are held. Numbers come in growing order nearly always, go in any,
and may come back. Each is one bit of a block of them, so that depth costs neither memory nor cache: putting one in,
taking one out and asking for the smallest take the same time among ten as among a hundred thousand, and a rank takes
one addition more for each block.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

SHIFT = 12
BLOCK = 1 << SHIFT
"""So many numbers, whether they are there or not, share a block; a block without any is dropped."""
SPARE = 32
"""Holds of numbers that have gone are kept until there are so many more of them than of the others."""


class Arrivals:
    """A set of natural numbers that knows their order."""

    __slots__ = ("_bits", "_counts", "_keys", "_size")

    def __init__(self) -> None:
        self._keys: list[int] = []
        """The blocks that there are, in order; the two others run beside it."""
        self._bits: list[int] = []
        self._counts: list[int] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, number: int) -> bool:
        key = number >> SHIFT
        at = bisect_left(self._keys, key)
        return at < len(self._keys) and self._keys[at] == key and bool(self._bits[at] >> (number & BLOCK - 1) & 1)

    def __iter__(self) -> Iterator[int]:
        """The numbers, smallest first."""
        for key, bits in zip(self._keys, self._bits, strict=True):
            left = bits
            while left:
                lowest = left & -left
                yield (key << SHIFT) + lowest.bit_length() - 1
                left ^= lowest

    @property
    def first(self) -> int:
        """The smallest number. There must be one."""
        bits = self._bits[0]
        return (self._keys[0] << SHIFT) + (bits & -bits).bit_length() - 1

    def add(self, number: int) -> None:
        """Put in a number that is not there."""
        key = number >> SHIFT
        at = bisect_left(self._keys, key)
        if at == len(self._keys) or self._keys[at] != key:
            self._keys.insert(at, key)
            self._bits.insert(at, 0)
            self._counts.insert(at, 0)
        self._bits[at] |= 1 << (number & BLOCK - 1)
        self._counts[at] += 1
        self._size += 1

    def remove(self, number: int) -> None:
        """Take out a number that is there."""
        at = bisect_left(self._keys, number >> SHIFT)
        self._size -= 1
        if self._counts[at] == 1:
            del self._keys[at], self._bits[at], self._counts[at]
            return
        self._bits[at] ^= 1 << (number & BLOCK - 1)
        self._counts[at] -= 1

    def rank(self, number: int) -> int:
        """How many are smaller than ``number``, which may be there or not."""
        key = number >> SHIFT
        at = bisect_left(self._keys, key)
        smaller = sum(self._counts[:at])
        if at < len(self._keys) and self._keys[at] == key:
            below = self._bits[at] & (1 << (number & BLOCK - 1)) - 1
            smaller += below.bit_count()
        return smaller


class Holds:
    """Until when some of the numbers are held; those that are there no more are forgotten."""

    __slots__ = ("_heap", "_numbers")

    def __init__(self, numbers: Arrivals) -> None:
        self._numbers = numbers
        self._heap: list[tuple[float, int]] = []

    def add(self, until_ms: float, number: int) -> None:
        """Hold a number."""
        if len(self._heap) > SPARE + 2 * len(self._numbers):
            self._heap = [held for held in self._heap if held[1] in self._numbers]
            heapify(self._heap)
        heappush(self._heap, (until_ms, number))

    @property
    def first(self) -> tuple[float, int] | None:
        """The hold that ends first, and whose it is."""
        while self._heap and self._heap[0][1] not in self._numbers:
            heappop(self._heap)
        return self._heap[0] if self._heap else None
