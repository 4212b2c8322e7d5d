"""What goes wrong in a pool, as a cause that its snapshot can show.

Decides nothing about what follows: ``pool_managerd.lifecycle`` does. Texts hold no secret.
"""

from __future__ import annotations

from contracts.pools import Cause


class StepError(Exception):
    """A step of a pool's start failed, or its engine was found unhealthy."""

    def __init__(self, cause: Cause, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.hint = hint


class StillRunningError(Exception):
    """Processes that live on after SIGKILL: the kernel holds them, mostly in a driver, or they are another user's."""

    def __init__(self, pids: tuple[int, ...]) -> None:
        super().__init__(f"still running after SIGKILL: {', '.join(map(str, pids))}")
        self.pids = pids
