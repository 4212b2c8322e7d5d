"""The models of another machine, over its daemon's HTTP routes.

Decides nothing: the daemon there refuses what may not be, and knows who uses what.
"""

from __future__ import annotations

from contracts.catalog import CatalogModel
from contracts.engines import ModelState
from llama_orch.models.values import Details, Pulled, Removed, Stock, Verdict, Wish
from llama_orch.progress import Shown
from llama_orch.session import Session


class RemoteShelf:
    """See Shelf."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.place = session.url

    async def stock(self) -> Stock:
        """See Shelf."""
        raise NotImplementedError

    async def details(self, name: str) -> Details:
        """See Shelf."""
        raise NotImplementedError

    async def pull(self, wish: Wish, shown: Shown) -> Pulled:
        """See Shelf."""
        raise NotImplementedError

    async def verify(self, name: str, shown: Shown) -> Verdict:
        """See Shelf."""
        raise NotImplementedError

    async def set_state(self, name: str, state: ModelState, reason: str | None = None) -> CatalogModel:
        """See Shelf."""
        raise NotImplementedError

    async def remove(self, name: str, *, keep_files: bool) -> Removed:
        """See Shelf."""
        raise NotImplementedError
