"""What may be asked of a machine's models, wherever that machine is.

Decides the questions only: ``here`` answers from this machine's disk, ``remote`` over HTTP.
"""

from __future__ import annotations

from typing import Protocol

from contracts.catalog import CatalogModel
from contracts.engines import ModelState
from llama_orch.models.values import Details, Pulled, Removed, Stock, Verdict, Wish
from llama_orch.progress import Shown


class Shelf(Protocol):
    """The models of one machine. Every method raises ApiError, with the mend."""

    @property
    def place(self) -> str | None:
        """The machine in words; None for this one."""

    async def stock(self) -> Stock:
        """All models, by id."""

    async def details(self, name: str) -> Details:
        """All about one model, by its id or its reference."""

    async def pull(self, wish: Wish, shown: Shown) -> Pulled:
        """Make sure that a model is there."""

    async def verify(self, name: str, shown: Shown) -> Verdict:
        """Read a model again and compare it with what it should be."""

    async def set_state(
        self, name: str, state: ModelState, reason: str | None = None, *, force: bool = False
    ) -> CatalogModel:
        """Make a model Active or Retired. One that a pool uses is retired with ``force`` alone."""

    async def remove(self, name: str, *, keep_files: bool) -> Removed:
        """Forget a model, and remove what was fetched for it. Refused while a pool uses it."""
