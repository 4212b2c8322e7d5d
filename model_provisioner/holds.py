"""Who needs which model: what pools serve, prepare and are configured with, and what an operator has pinned.

Decides whether a hold means a catalog entry. A hold may know a model by its reference, its id, its path or its digest,
since a pool that has not resolved its model yet knows the reference alone, and of an engine that a dead manager left
behind the digest is known. Never looks at a disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from contracts.base import Message
from contracts.engines import ModelEntry
from model_provisioner import reference
from model_provisioner.errors import ReferenceInvalidError


class Hold(Message, frozen=True, kw_only=True):
    """Somebody needs a model. ``by`` is for people: ``pool gpu0``, ``models.pinned``."""

    by: str
    ref: str | None = None
    id: str | None = None
    digest: str | None = None
    serves: bool = False
    """It is loaded, or will be without anybody's asking; False where it only must not be removed to make room."""


def holders(entry: ModelEntry, holds: Iterable[Hold], base_dir: PurePosixPath) -> tuple[str, ...]:
    """Who holds this model, each once. Relative paths in references start from ``base_dir``."""
    mine = _keys(entry, base_dir)
    return tuple(dict.fromkeys(hold.by for hold in holds if _means(hold, entry, mine, base_dir)))


def same(one: str, other: str, base_dir: PurePosixPath) -> bool:
    """Whether two references mean the same place, however they are written."""
    return normal(one, base_dir) == normal(other, base_dir)


def normal(ref: str, base_dir: PurePosixPath) -> str:
    """A reference in its one form, as the catalog has it, without what may be a secret; what is none stays as it is."""
    try:
        return reference.shown(reference.parse(ref, base_dir))
    except ReferenceInvalidError:
        return ref


def _keys(entry: ModelEntry, base_dir: PurePosixPath) -> frozenset[str]:
    return frozenset({normal(entry.ref, base_dir), entry.local_path})


def _means(hold: Hold, entry: ModelEntry, keys: frozenset[str], base_dir: PurePosixPath) -> bool:
    if hold.id is not None and hold.id == entry.id:
        return True
    if hold.digest is not None and hold.digest == entry.digest:
        return True
    return hold.ref is not None and normal(hold.ref, base_dir) in keys
