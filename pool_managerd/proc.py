"""Reads what the kernel says about processes, and signals one without ever hitting another that got its pid.

Decides nothing: which processes are ours is ``pool_managerd.reconcile``'s.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

from daemon_core import procfs
from pool_managerd.reconcile import MARKER, ProcessSeen

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


def processes() -> Iterator[ProcessSeen]:
    """Every living process, with its marker where this user may read its environment. Zombies do not count."""
    yield from filter(None, map(_seen, procfs.stats()))


def process_of(pid: int) -> ProcessSeen | None:
    """One process; None when there is none, or a zombie."""
    stat = procfs.stat_of(pid)
    return None if stat is None else _seen(stat)


def send(process: ProcessSeen, number: signal.Signals) -> None:
    """Signal this very process; nothing happens when it is gone, whoever has its pid by now, or not ours to signal."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return
    try:
        # The descriptor stands for one process for good, so what is read now is about the one that gets the signal.
        current = process_of(process.pid)
        if current is not None and current.start_time_ticks == process.start_time_ticks:
            signal.pidfd_send_signal(descriptor, number)
    except (ProcessLookupError, PermissionError):
        return
    finally:
        os.close(descriptor)


def own_cgroup() -> str | None:
    """Our control group, as the kernel names it."""
    return cgroup_of(os.getpid())


def cgroup_of(pid: int) -> str | None:
    """A process's control group; None where it is gone."""
    try:
        return (_PROC / str(pid) / "cgroup").read_text().rpartition("::")[2].strip()
    except OSError:
        return None


def oom_kills(group: str) -> int:
    """How many processes of a control group, and of those below it, the kernel has ended for want of memory.

    0 where nobody counts. What is counted below stays when that group is gone.
    """
    try:
        events = (_CGROUPS / group.lstrip("/") / "memory.events").read_text()
    except OSError:
        return 0
    counts = dict(line.split() for line in events.splitlines())
    return int(counts.get("oom_kill", 0))


def variable_of(pid: int, name: str) -> str | None:
    """One variable of the environment in which a process was started; None where it has none or we may not look."""
    try:
        environ = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    prefix = f"{name}=".encode()
    found = next((line for line in environ.split(b"\0") if line.startswith(prefix)), None)
    return None if found is None else os.fsdecode(found.removeprefix(prefix))


def _seen(stat: procfs.Stat) -> ProcessSeen | None:
    if not stat.alive:
        return None
    return ProcessSeen(
        pid=stat.pid,
        start_time_ticks=stat.start_time_ticks,
        group=stat.group,
        session=stat.session,
        marker=variable_of(stat.pid, MARKER),
    )
