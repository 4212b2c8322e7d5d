"""What happened to the catalog and why: ``catalog.jsonl`` beside the provenance of the models, only appended to.

Decides what such a line says. Never decides what happens, and keeps nothing from happening: a line that cannot be
written is logged.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path

from catalog_core.errors import CatalogError
from catalog_core.index import Rebuilding, Recovery
from catalog_core.journal import append_line
from contracts.base import Message

_log = logging.getLogger(__name__)

FILE = "catalog.jsonl"


class EventKind(StrEnum):
    """What can happen."""

    RECOVERED = "recovered"
    """A damaged index was set aside and rebuilt."""
    CONVERTED = "converted"
    """An index of an older schema became one of this version's."""
    VERIFIED = "verified"
    RETIRED = "retired"
    """Out of use; the message is why."""
    ACTIVATED = "activated"
    DELETED = "deleted"
    """The entry is forgotten."""
    REMOVED = "removed"
    """The files are gone, to make room or because somebody asked."""
    QUARANTINED = "quarantined"


class Event(Message, frozen=True, kw_only=True):
    """One line. ``id`` is the model's, empty where it is about the whole index."""

    at_ms: int
    kind: EventKind
    message: str
    id: str = ""


def note_recovery(directory: Path, recovery: Recovery, *, at_ms: int) -> bool:
    """Append and log what had to be done about an index; whether it was damaged. Blocks; never raises."""
    damaged = isinstance(recovery, Rebuilding)
    _log.log(logging.WARNING if damaged else logging.INFO, "%s", recovery.render())
    kind = EventKind.RECOVERED if damaged else EventKind.CONVERTED
    note(directory, Event(at_ms=at_ms, kind=kind, message=recovery.render()))
    return damaged


def note(directory: Path, event: Event) -> None:
    """Append a line. Blocks; never raises."""
    try:
        append_line(directory / FILE, event)
    except CatalogError as error:
        _log.warning("%s; not written down: %s", event.message, error.message)
