"""Whether a task is what ends this daemon, again and again.

Decides from how often orchestratord ended in a row without being asked to, and from what ran then: from the third start
on it is noted which tasks begin, and one that was running at three such ends is not begun once more. Otherwise it
would be the first in the queue after every restart, until the service manager gives up and nobody is served. Values in,
values out.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from contracts.base import Message
from contracts.errors import ErrorCode
from orchestratord.admission import Refusal

CAREFUL_FROM = 3
"""The start, in a row of those that followed an end nobody had asked for, from which on it is noted what begins."""
ENDS = 3
"""At so many ends in a row a task must have been running."""


class Starts(Message, frozen=True, kw_only=True):
    """What is known of the starts in a row, at the beginning of the last of them."""

    in_a_row: int = 0
    suspects: dict[str, int] = msgspec.field(default_factory=dict)
    """At how many ends in a row each of these tasks was running."""

    @property
    def careful(self) -> bool:
        """Whether it is noted what begins."""
        return self.in_a_row >= CAREFUL_FROM

    @property
    def condemned(self) -> frozenset[str]:
        """The tasks that are not begun again."""
        return frozenset(task_id for task_id, ends in self.suspects.items() if ends >= ENDS)


def next_start(former: Starts, running: Collection[str]) -> Starts:
    """The start that follows an end which nobody had asked for; these tasks were ``running`` then, if that was noted.

    A task that was not running at the last end is no suspect any more.
    """
    suspects = {task_id: former.suspects.get(task_id, 0) + 1 for task_id in running}
    return Starts(in_a_row=former.in_a_row + 1, suspects=suspects)


def refusal(starts: Starts) -> Refusal:
    """What a condemned task ends with. Where others ran beside it each time, it may be innocent."""
    others = len(starts.condemned) - 1
    beside = f", with {others} others beside it," if others else ""
    text = f"orchestratord has ended {ENDS} times in a row while this task ran{beside} so it is not begun again"
    hint = "journalctl --user -u orchestratord shows how it ended; please report it, with the request where you can"
    retry_after_ms = 0 if others else None
    code = ErrorCode.WORKER_RESET
    return Refusal(code=code, message=text, hint=hint, retry_after_ms=retry_after_ms, retriable=bool(others))
