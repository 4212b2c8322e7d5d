"""What is told to pool-managerd about work, which it cannot see.

Decides nothing. Nobody waits for an answer: what it makes of it comes as a report on the pool. While it cannot be
reached nothing is told, and what matters then is said again when it is back.
"""

from __future__ import annotations

from typing import Protocol

from contracts.base import Message
from contracts.rpc import JobsParams, Method, PoolRef


class Manager(Protocol):
    """pool-managerd, as the runner knows it. Both answer whether it could be told."""

    def idle(self, pool_id: str) -> bool:
        """No task runs on an engine of this pool that is to end once its tasks have: it may end now."""

    def restart(self, pool_id: str) -> bool:
        """The pool's engine hangs, whatever its health says: start it anew."""


class NoManager:
    """Nobody is there to be told."""

    def idle(self, _pool_id: str) -> bool:
        """See ``Manager``."""
        return False

    def restart(self, _pool_id: str) -> bool:
        """See ``Manager``."""
        return False


class Link(Protocol):
    """The line to pool-managerd."""

    def notify(self, method: Method, params: Message) -> bool:
        """Tell it something, where it can be reached."""


class LinkedManager:
    """Tells it over the line, which is made after those who use it."""

    def __init__(self) -> None:
        self.link: Link | None = None

    def idle(self, pool_id: str) -> bool:
        """See ``Manager``."""
        return self._tell(Method.POOL_IDLE, pool_id)

    def restart(self, pool_id: str) -> bool:
        """See ``Manager``."""
        return self._tell(Method.POOL_RESTART, pool_id)

    def works_for(self, jobs: JobsParams) -> bool:
        """Whose work a pool's engine does from now on."""
        return self.link is not None and self.link.notify(Method.POOL_JOBS, jobs)

    def _tell(self, method: Method, pool_id: str) -> bool:
        return self.link is not None and self.link.notify(method, PoolRef(pool_id=pool_id))
