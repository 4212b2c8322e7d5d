"""Decides what becomes of the engines that a former manager left behind.

Values in, a value with named buckets out. A process is one of ours only when its pid and its start time are those of a
handle, or when its environment names one of our handle files: a pid alone is never trusted, for the kernel gives it to
others. What runs for a configured pool is left to that pool, which takes it over when it would start the very same, and
ends it otherwise; what runs for nobody is ended. Never ends anything itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from contracts.base import Message

MARKER = "LLAMA_ORCH_HANDLE"
"""The environment variable in which every engine, with all its children, carries the path of its handle file."""


BLUE, GREEN = "blue", "green"
SIDES = (BLUE, GREEN)
"""A pool has two places for an engine: one serves, and on the other one its successor is proved."""


def instance_of(pool_id: str, side: str) -> str:
    """The name of a pool's place: that of its handle, pid and output files. No pool id holds a dot."""
    return pool_id if side == BLUE else f"{pool_id}.{side}"


def pool_of(instance: str) -> str:
    """The pool that a place belongs to."""
    return instance.partition(".")[0]


class Handle(Message, frozen=True, kw_only=True):
    """What a restarted manager needs to find an engine again. Holds no secret.

    A native engine has ``pid`` and ``start_time_ticks``, one in a container has ``runtime`` and ``container_id``. It is
    on disk before anything starts, then without ``pid`` and ``container_id``: what was just started is found by it.
    """

    pool_id: str
    boot_id: str
    port: int
    launch_hash: str
    """What was started, but for its port and its key: who would start the same may take this one over."""
    engine_version: str
    side: str = BLUE
    model_digest: str | None = None
    pid: int = 0
    start_time_ticks: int = 0
    """Field 22 of ``/proc/<pid>/stat``: with the boot, it makes a pid unique."""
    runtime: str | None = None
    container_id: str | None = None
    outlives: bool = False
    """Of a container: whether it goes on when its manager ends."""
    proved: bool = False
    """Whether it was ready: a generation that was seen once needs no second look while it is at work."""
    restarts: int = 0
    """How many engines of the pool had failed before it: who follows the pool would take another count for another
    engine."""

    @property
    def instance(self) -> str:
        """The place in which it runs."""
        return instance_of(self.pool_id, self.side)


class ProcessSeen(Message, frozen=True, kw_only=True):
    """A process of this machine. ``marker`` is the handle file that its environment names, where it can be read."""

    pid: int
    start_time_ticks: int
    group: int
    session: int
    marker: str | None = None


class Leftover(Message, frozen=True, kw_only=True):
    """The processes of a dead manager's engine."""

    instance: str
    processes: tuple[ProcessSeen, ...]


class Forgotten(Message, frozen=True, kw_only=True):
    """A handle with nothing behind it any more, and why."""

    instance: str
    reason: str


class Reconciliation(Message, frozen=True, kw_only=True):
    """What to do with what was found."""

    found: tuple[Leftover, ...] = ()
    """For pools that are configured: theirs to take over or to end."""
    end: tuple[Leftover, ...] = ()
    """For pools that are not."""
    remove: tuple[Handle, ...] = ()
    """Containers of pools that are not configured."""
    forget: tuple[Forgotten, ...] = ()


def reconcile(
    handles: Iterable[Handle],
    processes: Iterable[ProcessSeen],
    pools: Iterable[str],
    *,
    boot_id: str,
    markers: dict[str, str],
) -> Reconciliation:
    """Compare what was written down with what runs.

    ``pools`` are the configured pool ids. ``markers`` says which instance a handle file's path stands for: an engine
    whose handle was lost or never written is still found by it. What becomes of a configured pool's container is seen
    when it is asked for: only its runtime knows.
    """
    known = {handle.instance: handle for handle in handles}
    seen = tuple(processes)
    configured = frozenset(pools)
    found: list[Leftover] = []
    end: list[Leftover] = []
    remove: list[Handle] = []
    forget: list[Forgotten] = []
    for instance in sorted({*known, *markers.values()}):
        handle = known.get(instance)
        wanted = pool_of(instance) in configured
        ours = {path for path, owner in markers.items() if owner == instance}
        running = belonging(handle, ours, seen, boot_id)
        if running:
            (found if wanted else end).append(Leftover(instance=instance, processes=running))
        elif handle is not None and handle.runtime is not None:
            if not wanted:
                remove.append(handle)
        elif handle is not None:
            forget.append(Forgotten(instance=instance, reason=_why_gone(handle, seen, boot_id)))
    return Reconciliation(found=tuple(found), end=tuple(end), remove=tuple(remove), forget=tuple(forget))


def belonging(
    handle: Handle | None, markers: set[str], seen: tuple[ProcessSeen, ...], boot_id: str
) -> tuple[ProcessSeen, ...]:
    """The processes of one engine: its leader, those in the leader's group and session, those that carry its marker."""
    leader = leader_of(handle, seen, boot_id) if handle is not None else None
    return tuple(
        process
        for process in seen
        if process.marker in markers or (leader is not None and leader.pid in {process.group, process.session})
    )


def leader_of(handle: Handle, seen: Iterable[ProcessSeen], boot_id: str) -> ProcessSeen | None:
    """The very process that the handle was written for, where it lives."""
    if handle.boot_id != boot_id or not handle.pid:
        return None
    return next((process for process in seen if _same(handle, process)), None)


def _same(handle: Handle, process: ProcessSeen) -> bool:
    return process.pid == handle.pid and process.start_time_ticks == handle.start_time_ticks


def _why_gone(handle: Handle, seen: tuple[ProcessSeen, ...], boot_id: str) -> str:
    if handle.boot_id != boot_id:
        return "the machine was started anew since"
    if not handle.pid:
        return "it was never started"
    if any(process.pid == handle.pid for process in seen):
        return f"pid {handle.pid} belongs to another process now"
    return f"pid {handle.pid} is gone"
