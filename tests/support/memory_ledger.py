"""A chain of receipts in memory, which keeps the promises of ``orchestratord.ledger``."""

from __future__ import annotations

import msgspec

from contracts.artifacts import ArtifactKind, canonical
from contracts.receipts import Link
from orchestratord.shelf import Head, Sealed, sealed


class MemoryLedger:
    """A Ledger that a test writes to."""

    def __init__(self) -> None:
        self._receipts: list[Sealed] = []
        self._next = Link(number=1, previous=None)
        self.waits = 0
        """How often it was asked whether what is told of lasts."""

    @property
    def next(self) -> Link:
        return self._next

    @property
    def first(self) -> Link | None:
        return msgspec.json.decode(self._receipts[0].content, type=Link) if self._receipts else None

    @property
    def last(self) -> int:
        return self._next.number - 1

    async def settled(self) -> None:
        self.waits += 1

    def get(self, artifact_id: str) -> Sealed | None:
        return next((each for each in self._receipts if each.id == artifact_id), None)

    def read(self, after: int, limit: int) -> list[Sealed]:
        gone = self.last - len(self._receipts)
        start = max(0, after - gone)
        return self._receipts[start : start + limit]

    # --- what a test does ---------------------------------------------------------------------------------------------

    def write(self, receipt: Sealed) -> None:
        """One that was sealed for the place ``next``."""
        self._receipts.append(receipt)
        self._next = Link(number=self._next.number + 1, previous=receipt.id)

    def write_some(self, count: int, **more: object) -> None:
        """As many that say nothing but their place."""
        for _ in range(count):
            content = canonical(msgspec.to_builtins(self._next) | more)
            self.write(sealed(content, Head(kind=ArtifactKind.TRACE, created_ms=1, tags=("task",))))

    def forget(self, count: int) -> None:
        """The oldest go."""
        del self._receipts[:count]

    def tamper(self, place: int, receipt: Sealed) -> None:
        """Another one stands in a place."""
        self._receipts[place] = receipt
