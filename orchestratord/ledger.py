"""The receipts in their order, as those see them who make or read them.

Decides only what a ledger promises: a receipt is sealed for the place ``next``, is there for good once it was written
with its task's end, and goes with the oldest, never out of the middle. The ``store`` is one.
"""

from __future__ import annotations

from typing import Protocol

from contracts.receipts import Link
from orchestratord.shelf import Sealed


class Ledger(Protocol):
    """The chain of receipts, from the oldest that is kept to the newest."""

    @property
    def next(self) -> Link:
        """The place that the next receipt takes; it moves when that one was written, and not before."""

    @property
    def first(self) -> Link | None:
        """The place of the oldest that is kept; None where there is none."""

    @property
    def last(self) -> int:
        """The number of the newest; 0 where there never was one."""

    def get(self, artifact_id: str) -> Sealed | None:
        """A receipt by the id of its artifact, ``sha256:`` and digits; None where there is none."""

    def read(self, after: int, limit: int) -> list[Sealed]:
        """Those with greater numbers than ``after``, in their order, and no more than ``limit``."""

    async def settled(self) -> None:
        """Return when all that can be read by now is as durable as was configured, so that it can be told."""
