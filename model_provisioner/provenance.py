"""Where each model came from: ``models.jsonl``, one line for each time that something about a model was new.

Decides what such a line says, and which catalog entries can be made of the lines when the catalog itself is lost. Never
decides what is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from catalog_core.journal import append_line, read_lines
from contracts.base import Message
from contracts.engines import ModelEntry, ResolvedModel

FILE = "models.jsonl"


class Provenance(Message, frozen=True, kw_only=True, omit_defaults=True):
    """One line. ``ref`` is what was asked for, ``resolved`` the file that it came to.

    ``source`` is where a fetched one came from, with its revision.
    """

    at_ms: int
    id: str
    ref: str
    resolved: str
    digest: str
    size_bytes: int
    source: str | None = None


def record(directory: Path, model: ResolvedModel, *, now_ms: int, source: str | None = None) -> None:
    """Append a line about the model. Blocks. Raises CatalogIoError, and then nothing was appended."""
    line = Provenance(
        at_ms=now_ms,
        id=model.id,
        ref=model.ref,
        resolved=model.local_path,
        digest=model.digest,
        size_bytes=model.size_bytes,
        source=source,
    )
    append_line(directory / FILE, line)


def lines(directory: Path) -> Iterator[Provenance]:
    """What was written down so far, oldest first. Blocks. Raises CatalogIoError."""
    return read_lines(directory / FILE, Provenance)


def known_models(directory: Path) -> Iterator[ModelEntry]:
    """The models that were here and whose file still has its size: what a lost catalog is rebuilt from.

    They count as not verified; the next start fills in what only the file says. Blocks. Raises CatalogIoError.
    """
    last = {line.id: line for line in lines(directory)}
    for line in last.values():
        path = Path(line.resolved)
        if path.is_file() and path.stat().st_size == line.size_bytes:
            yield ModelEntry(
                id=line.id,
                ref=line.ref,
                local_path=line.resolved,
                size_bytes=line.size_bytes,
                digest=line.digest,
                fetched=line.source is not None,
                source=line.source,
                created_ms=line.at_ms,
            )
