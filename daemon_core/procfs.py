"""Reads from /proc which processes there are, whose child each is, in which group and session, and which boot this is.

Decides nothing. A process may end at any moment: what is read is how it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_DEAD = frozenset("ZX")


class Stat(NamedTuple):
    """What /proc/<pid>/stat says of a process."""

    pid: int
    alive: bool
    """False for a zombie: it has ended, and its parent has not asked how."""
    parent: int
    group: int
    session: int
    start_time_ticks: int
    """Since the machine's start. With the pid, it names one process for good."""


def stat_of(pid: int) -> Stat | None:
    """One process; None where there is none. Readable whoever it belongs to."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command stands in parentheses and may hold blanks and parentheses of its own; the third field follows it.
    state, parent, group, session, *rest = text.rpartition(")")[2].split()
    return Stat(pid, state not in _DEAD, int(parent), int(group), int(session), int(rest[15]))


def stats() -> Iterator[Stat]:
    """Every process, zombies too."""
    for name in os.listdir(_PROC):  # noqa: PTH208 - names are all that is wanted
        if name.isdigit() and (stat := stat_of(int(name))) is not None:
            yield stat


def boot_id() -> str:
    """This boot of the machine: pids and start times of another one mean nothing. Raises OSError."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
