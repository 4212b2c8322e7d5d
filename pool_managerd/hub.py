"""The one place where the pools' latest snapshots are, and from where every change goes to who subscribed.

Decides the revision of a change, which only grows, and that an unchanged snapshot is no change. Never waits for a
subscriber: a listener takes what it is given at once or is dropped by its connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec.structs import replace

from contracts.catalog import CatalogJob
from contracts.pools import Gpu, PoolSnapshot
from contracts.rpc import GpuSet, PoolSet, Push, notification

MAX_JOBS = 64
Listener = Callable[[bytes], None]
"""Takes the frame of a notification. Must neither block nor raise."""


class Hub:
    """Snapshots and subscribers."""

    def __init__(self, first: Iterable[PoolSnapshot]) -> None:
        self._pools = {snapshot.pool_id: snapshot for snapshot in first}
        self._revision = 0
        self._listeners: dict[int, Listener] = {}
        self._next = 0
        self._jobs: dict[tuple[str, str], CatalogJob] = {}
        self.notices: tuple[str, ...] = ()
        """What an operator should know although everything runs."""

    def pools(self) -> PoolSet:
        """Every pool at the current revision, in the order of the configuration."""
        pools, jobs = tuple(self._pools.values()), tuple(self._jobs.values())
        return PoolSet(revision=self._revision, pools=pools, jobs=jobs, notices=self.notices)

    def pool(self, pool_id: str) -> PoolSnapshot | None:
        """One pool, or None where no such pool is configured."""
        return self._pools.get(pool_id)

    @property
    def listeners(self) -> int:
        """How many subscribers there are."""
        return len(self._listeners)

    def publish(self, snapshot: PoolSnapshot) -> None:
        """Take a pool's new snapshot; when it says something new, it gets the next revision and goes out whole."""
        before = self._pools[snapshot.pool_id]
        if replace(snapshot, revision=before.revision) == before:
            return
        self._revision += 1
        after = replace(snapshot, revision=self._revision)
        self._pools[snapshot.pool_id] = after
        self._tell(notification(Push.POOL_CHANGED, after))

    def worked(self, job: CatalogJob) -> None:
        """Take a job on a model as it is now; the latest of each kind on each model is kept, up to a bound."""
        key = (str(job.kind), job.asked_id)
        self._jobs.pop(key, None)
        self._jobs[key] = job
        for old in [key for key, kept in self._jobs.items() if kept.over][: max(0, len(self._jobs) - MAX_JOBS)]:
            del self._jobs[old]
        self._tell(notification(Push.CATALOG_JOB, job))

    def sampled(self, gpus: tuple[Gpu, ...]) -> None:
        """Send a sample of the GPUs."""
        self._tell(notification(Push.GPU_SAMPLE, GpuSet(gpus=gpus)))

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Send every change from now on to ``listener``; the answer is how to end that."""
        self._next += 1
        number = self._next
        self._listeners[number] = listener

        def unsubscribe() -> None:
            self._listeners.pop(number, None)

        return unsubscribe

    def _tell(self, frame: bytes) -> None:
        for listener in tuple(self._listeners.values()):
            listener(frame)
