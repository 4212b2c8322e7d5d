"""What the task store writes of tasks: all of it, and no secret.

Decides what has to be looked at, and when. A request is looked at once, when it comes in, and an engine's report once
for all the tasks that ran on it. A stream that its receipt holds was looked at there; a longer one is looked at while
it grows, so that its end, which others may not wait for, has little left to look at. How a text is written down is
``kept``'s. Values in, values out.
"""

from __future__ import annotations

from contracts.events import StreamError
from contracts.pools import PoolSnapshot
from contracts.tasks import TaskRequest
from daemon_core.redaction import Redactor
from daemon_core.steps import Steps
from orchestratord import kept
from orchestratord.kept import Entered, Shown
from orchestratord.records import MAX_TEXT_BYTES
from orchestratord.shelf import Sealed
from orchestratord.stream_log import StreamLog, text_of
from orchestratord.task import Task

PART_BYTES = 32 * 1024
"""So much of a long stream is looked at at once."""
_CLEAN, _CUT = b'"redacted":false', b'"cut":true'
"""As only a receipt itself can say it: in a text the quotation marks are escaped."""


class FairCopy:
    """Makes what is written, for one keeper."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._served: dict[str, tuple[PoolSnapshot, PoolSnapshot]] = {}
        """The latest reports on which a task ran, and what is kept of them."""
        self._read: dict[str, Reading] = {}
        """What is known of the long streams of tasks that run."""

    def request(self, request: TaskRequest) -> Steps[Shown]:
        """How a request may be written down."""
        return kept.shown(request, self._redactor)

    def past(
        self, task: Task, entered: Entered | None, artifact_id: str | None = None, *, ended: bool = False
    ) -> bytes:
        """How far a task came that was let in like this, where that is known."""
        run = task.run
        brief = kept.brief(task.admission if entered is None else entered.admission) if ended else None
        served = None if run is None or run.served is None else self._lasting(run.served)
        past = kept.past(task, artifact_id, brief, served=served)
        # What was clean when it came in, and who served it, were looked at once.
        clean = entered is not None and entered.veil is None and not isinstance(task.outcome, StreamError)
        return past if clean else kept.without_names(past, self._redactor)

    def grows(self, task: Task) -> int:
        """Look at what a stream has got; answers with the length at which to look again."""
        length = len(task.log)
        if length <= MAX_TEXT_BYTES:
            return MAX_TEXT_BYTES + 1
        reading = self._read.setdefault(task.id, Reading(self._redactor))
        reading.part(task.log)
        return max(length + 1, reading.offset + PART_BYTES)

    def stream(self, task: Task, receipt: Sealed | None) -> bytes:
        """A stream that ends with this receipt."""
        frames, read = task.log.read(0), self._read.pop(task.id, None)
        if receipt is not None and _CLEAN in receipt.content and _CUT not in receipt.content:
            return frames
        if read is not None and read.rest(task.log):
            return frames
        return kept.without_secrets(frames, self._redactor)

    def _lasting(self, served: PoolSnapshot) -> PoolSnapshot:
        """What is kept of an engine; the same report serves many tasks."""
        known = self._served.get(served.pool_id)
        if known is None or known[0] is not served:
            known = self._served[served.pool_id] = served, kept.lasting(served, self._redactor)
        return known[1]


class Reading:
    """How far a stream was read, and whether a secret was in it.

    Each part is read together with the end of the one before it: where a secret begins is decided by so much text.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._known = redactor.registered
        self._end = ""
        self.offset = 0
        """So far it was read."""
        self.clean = True

    def rest(self, log: StreamLog) -> bool:
        """Read all that has come; whether the whole stream is without secrets."""
        if self._known != self._redactor.registered:  # what was read would have to be read again
            self.clean = False
        while self.clean and self.offset < len(log):
            self.part(log)
        return self.clean

    def part(self, log: StreamLog) -> None:
        """Read the next part of it."""
        frames = log.read(self.offset, PART_BYTES)
        self.offset += len(frames)
        if self.clean:
            text = self._end + text_of(frames)
            self.clean = self._redactor.text(text) == text
            self._end = text[-self._redactor.reach :]
