"""What is known of a machine's models, what may be wished for, and what came of it.

Decides the shapes only.
"""

from __future__ import annotations

from contracts.base import Message
from contracts.catalog import CatalogModel, VerifyReason, VerifyResult
from contracts.config import Engine


class Known(Message, frozen=True, kw_only=True):
    """One model of the catalog. ``here``: its file is where the catalog says, as far as this can be told."""

    model: CatalogModel
    here: bool = True


class Stock(Message, frozen=True, kw_only=True):
    """All models. ``max_bytes`` is what the fetched ones may take; None where there is no limit, or none is told.

    ``notices`` is what had to be mended first.
    """

    models: tuple[Known, ...]
    max_bytes: int | None = None
    notices: tuple[str, ...] = ()

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


class Past(Message, frozen=True, kw_only=True):
    """One line of provenance: what ``ref`` came to at that time, and where that came from if it was fetched."""

    at_ms: int
    ref: str
    resolved: str
    digest: str
    size_bytes: int
    source: str | None = None


class Happened(Message, frozen=True, kw_only=True):
    """What became of a model at some time, beside where it came from: it was verified, retired, removed."""

    at_ms: int
    kind: str
    message: str


class Details(Message, frozen=True, kw_only=True):
    """All that is known of one model. ``files``, ``history`` and ``events`` are told on the machine that has them."""

    known: Known
    files: tuple[File, ...] = ()
    history: tuple[Past, ...] = ()
    events: tuple[Happened, ...] = ()


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
    message: str
    reason: VerifyReason | None = None
    hint: str | None = None
    digest: str | None = None
    """What it has, where that was read and told."""

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
