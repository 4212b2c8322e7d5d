"""What a process and its children cost, from /proc."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

CPUCLOCK_SCHED = 2
"""Linux's CPU clock of a process, all its threads together (include/linux/posix-timers.h)."""


def tree(pid: int) -> list[int]:
    """A process and all that it started and that still lives."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in children.read_text().split()] if children.exists() else []
    return [pid, *(each for child in found for each in tree(child))]


def cpu_s(pids: list[int]) -> float:
    """User and system time so far, in seconds, to the nanosecond: a tick in /proc/<pid>/stat is 10 ms."""
    return sum(time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED) for pid in pids)


def machine_cpu_s() -> float:
    """What all processes of this machine together had so far."""
    user, nice, system, _idle, _waiting, interrupts, soft = Path("/proc/stat").read_text().split(None, 8)[1:8]
    return sum(map(int, (user, nice, system, interrupts, soft))) / os.sysconf("SC_CLK_TCK")


def own_cpu_s() -> float:
    """What this process and all that it started and saw end had so far."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def rss_mb(pids: list[int]) -> float:
    """Resident memory, in MB."""
    return sum(_rss_kb(pid) for pid in pids) / 1000


def _rss_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
