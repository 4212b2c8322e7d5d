"""What a process and its children cost, from /proc."""

from __future__ import annotations

import os
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all that it started and that still lives."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(child) for child in children.read_text().split()] if children.exists() else []
    return [pid, *(each for child in found for each in tree(child))]


def cpu_s(pids: list[int]) -> float:
    """User and system time so far, in seconds."""
    return sum(_ticks(pid) for pid in pids) * TICK_S


def rss_mb(pids: list[int]) -> float:
    """Resident memory, in MB."""
    return sum(_rss_kb(pid) for pid in pids) / 1000


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _rss_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
