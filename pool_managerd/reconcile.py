"""Decides what becomes of the engines that a former manager left behind.

Values in, a value with named buckets out. A process is one of ours only when its pid and its start time are those of a
handle, or when its environment names one of our handle files: a pid alone is never trusted, for the kernel gives it to
others. Every engine that still runs is ended for now; adopting one will be another bucket. Never ends anything itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from contracts.base import Message

MARKER = "LLAMA_ORCH_HANDLE"
"""The environment variable in which every engine, with all its children, carries the path of its handle file."""


class Handle(Message, frozen=True, kw_only=True):
    """What a restarted manager needs to find an engine again. Holds no secret."""

    pool_id: str
    pid: int
    start_time_ticks: int
    """Field 22 of ``/proc/<pid>/stat``: with the boot, it makes a pid unique."""
    boot_id: str
    port: int
    argv_hash: str
    engine_version: str
    model_digest: str | None = None


class ProcessSeen(Message, frozen=True, kw_only=True):
    """A process of this machine. ``marker`` is the handle file that its environment names, where it can be read."""

    pid: int
    start_time_ticks: int
    group: int
    session: int
    marker: str | None = None


class Leftover(Message, frozen=True, kw_only=True):
    """The processes of a dead manager's engine, to be ended before another one starts for that pool."""

    pool_id: str
    configured: bool
    processes: tuple[ProcessSeen, ...]


class Forgotten(Message, frozen=True, kw_only=True):
    """A handle with nothing behind it any more, and why."""

    pool_id: str
    reason: str


class Reconciliation(Message, frozen=True, kw_only=True):
    """What to do with what was found."""

    end: tuple[Leftover, ...] = ()
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

    ``pools`` are the configured pool ids. ``markers`` says which pool a handle file's path stands for: an engine whose
    handle was lost or never written is still found by it.
    """
    known = {handle.pool_id: handle for handle in handles}
    seen = tuple(processes)
    configured = frozenset(pools)
    end, forget = [], []
    for pool_id in sorted({*known, *configured, *markers.values()}):
        handle = known.get(pool_id)
        ours = {path for path, owner in markers.items() if owner == pool_id}
        found = belonging(handle, ours, seen, boot_id)
        if found:
            end.append(Leftover(pool_id=pool_id, configured=pool_id in configured, processes=found))
        elif handle is not None:
            forget.append(Forgotten(pool_id=pool_id, reason=_why_gone(handle, seen, boot_id)))
    return Reconciliation(end=tuple(end), forget=tuple(forget))


def belonging(
    handle: Handle | None, markers: set[str], seen: tuple[ProcessSeen, ...], boot_id: str
) -> tuple[ProcessSeen, ...]:
    """The processes of one engine: its leader, those in the leader's group and session, those that carry its marker."""
    leader = _leader(handle, seen, boot_id) if handle is not None else None
    return tuple(
        process
        for process in seen
        if process.marker in markers or (leader is not None and leader.pid in {process.group, process.session})
    )


def _leader(handle: Handle, seen: tuple[ProcessSeen, ...], boot_id: str) -> ProcessSeen | None:
    if handle.boot_id != boot_id:
        return None
    return next((process for process in seen if _same(handle, process)), None)


def _same(handle: Handle, process: ProcessSeen) -> bool:
    return process.pid == handle.pid and process.start_time_ticks == handle.start_time_ticks


def _why_gone(handle: Handle, seen: tuple[ProcessSeen, ...], boot_id: str) -> str:
    if handle.boot_id != boot_id:
        return "the machine was started anew since"
    if any(process.pid == handle.pid for process in seen):
        return f"pid {handle.pid} belongs to another process now"
    return f"pid {handle.pid} is gone"
