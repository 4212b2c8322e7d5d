"""Makes the receipt of a task at its end.

Decides nothing about what stands in it (``records`` does). A mistake of ours about a receipt never ends a task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from contracts.config import Profile
from contracts.events import End, StreamError
from contracts.receipts import Link
from daemon_core.redaction import Redactor
from orchestratord.records import record_of
from orchestratord.shelf import Sealed
from orchestratord.task import Task

log = logging.getLogger(__name__)


class Recorder:
    """Makes receipts; ``seal`` is what the ``keeper`` asks."""

    def __init__(self, profile: Profile, redactor: Redactor, now_ms: Callable[[], int]) -> None:
        self._profile = profile
        self._redactor = redactor
        self._now_ms = now_ms

    def seal(self, task: Task, event: End | StreamError, link: Link) -> Sealed | None:
        """The receipt of a task that ends with this event; None where it could not be made."""
        try:
            return record_of(
                task, event, link=link, profile=self._profile, redactor=self._redactor, ended_ms=self._now_ms()
            )
        except Exception:
            log.exception("the receipt of task %s could not be made", task.id, extra=task.known_by)
            return None
