"""What may be asked of a machine's models, wherever that machine is.

Decides the vocabulary only: ``here`` answers from this machine's disk, ``remote`` over HTTP.
"""

from __future__ import annotations

from typing import Protocol

from contracts.base import Message
from contracts.catalog import CatalogModel, VerifyReason, VerifyResult
from contracts.config import Engine
from contracts.engines import ModelState
from llama_orch.progress import Shown
from model_provisioner.provenance import Provenance


class Known(Message, frozen=True, kw_only=True):
    """One model of the catalog. ``here``: its file is where the catalog says, as far as this can be told."""

    model: CatalogModel
    here: bool = True


class Stock(Message, frozen=True, kw_only=True):
    """All models. ``max_bytes`` is what the fetched ones may take; None where there is no limit, or none is told."""

    models: tuple[Known, ...]
    max_bytes: int | None = None

    @property
    def size_bytes(self) -> int:
        """All of them together."""
        return sum(known.model.size_bytes or 0 for known in self.models)

    @property
    def fetched_bytes(self) -> int:
        """Those that were fetched, which the limit counts."""
        return sum(known.model.size_bytes or 0 for known in self.models if known.model.fetched)


class File(Message, frozen=True, kw_only=True):
    """One file of a model; ``size_bytes`` is None where it is gone."""

    path: str
    size_bytes: int | None


class Details(Message, frozen=True, kw_only=True):
    """All that is known of one model. ``files`` and ``history`` are told on the machine that has them alone."""

    known: Known
    files: tuple[File, ...] = ()
    history: tuple[Provenance, ...] = ()


class Wish(Message, frozen=True, kw_only=True):
    """What to pull. ``digest`` is what it must have; ``pinned`` keeps it from being removed to make room."""

    ref: str
    digest: str | None = None
    pinned: bool = False
    refresh: bool = False
    """Ask again what the reference comes to, although it is here."""
    engine: Engine | None = None
    """The engine that is to load it, where the reference leaves a choice."""


class Pulled(Message, frozen=True, kw_only=True):
    """The model that a wish came to. ``fetched`` is None where it is not known whether bytes came over the network."""

    known: Known
    fetched: bool | None = None


class Verdict(Message, frozen=True, kw_only=True):
    """What became of the verification of one model. ``reason`` is None where it could not be asked for."""

    id: str
    result: VerifyResult
    reason: VerifyReason | None = None
    digest: str | None = None
    """What it has."""
    expected: str | None = None
    quarantined: str | None = None
    """Where a wrong file was put."""
    message: str = ""
    hint: str | None = None

    @property
    def good(self) -> bool:
        """Whether nothing speaks against the model."""
        return self.result is not VerifyResult.FAILED


class Removed(Message, frozen=True, kw_only=True):
    """What became of a model that is not catalogued any more."""

    id: str
    path: str | None
    freed_bytes: int | None = 0
    """0 where its files stay, None where nobody told."""
    own: bool = False
    """The file is the user's own, and stays for that reason."""


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

    async def set_state(self, name: str, state: ModelState, reason: str | None = None) -> CatalogModel:
        """Make a model Active or Retired. Refused while a pool uses one that is to be retired."""

    async def remove(self, name: str, *, keep_files: bool) -> Removed:
        """Forget a model, and remove what was fetched for it. Refused while a pool uses it."""
