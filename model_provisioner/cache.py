"""The models that were fetched: what they take on the disk, who used them when, and their removal.

Carries out what ``eviction`` decides. An entry leaves the catalog before its files leave the disk, so a manager that
dies in between leaves files without an entry, which the next one finds, and never an entry without its files. Never
touches a file outside the cache, nor one through a symbolic link. Every method blocks on files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from catalog_core.models import FsModelCatalog
from contracts.config import Models
from model_provisioner.holds import Hold


class ModelCache:
    """The fetched models below ``root``. Constructing it touches nothing.

    ``holds`` says who needs which model right now; it is called in the thread of whoever calls here. ``journal`` is the
    directory of the provenance journals. Relative paths in references start from ``base_dir``. ``clock`` gives Unix
    milliseconds.
    """

    def __init__(
        self,
        root: Path,
        catalog: FsModelCatalog,
        *,
        settings: Models,
        journal: Path,
        base_dir: Path,
        clock: Callable[[], int],
        holds: Callable[[], Iterable[Hold]] = tuple,
    ) -> None:
        self._root = root
        self._catalog = catalog
        self._settings = settings
        self._journal = journal
        self._base_dir = PurePosixPath(base_dir)
        self._clock = clock
        self._holds = holds
        self._under_way: dict[Path, int] = {}

    def make_room(self, size_bytes: int, target: Path) -> tuple[str, ...]:
        """Have room for ``size_bytes`` more, to be written below ``target``, a folder or a file of the cache.

        From now until ``release(target)`` nothing below ``target`` is removed, and the room counts as taken. Answers
        with what was removed, in lines for people. Raises ModelError, and then nothing was removed.
        """
        raise NotImplementedError

    def release(self, target: Path) -> None:
        """The fetch into ``target`` is over, well or badly. Call it once the catalog has the model. Never raises."""
        self._under_way.pop(target, None)

    def used(self, identifier: str) -> None:
        """A model was just used: a pool starts with it, or somebody pulled it. Never raises."""
        raise NotImplementedError
