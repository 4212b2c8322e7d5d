"""The running daemons beside the installed program: started from the same files, since they were written.

Decides it from moments and paths. No daemon is asked: one that runs old code cannot say so.
"""

from __future__ import annotations

from collections.abc import Sequence

from contracts.base import Message
from llama_orch.doctor.base import Kind, Result, ok, skipped

CHECK = "versions"

OLDER = Kind(
    id="versions.older",
    what="a daemon runs since before this llama-orch was installed",
    why="it is of another version than the command line: some commands may be refused, or mean something else",
    mend="systemctl --user restart llama-orch.target, or end llama-orch up and start it again",
)
OTHER = Kind(
    id="versions.other",
    what="a daemon runs from another installation",
    why="it may be of another version than the command line",
    mend="use the llama-orch of that installation, or restart the daemons from this one",
    note=True,
)
PROTOCOL = Kind(
    id="versions.protocol",
    what="pool-managerd says another version than this program has",
    why="the daemons and the command line of two versions may not understand each other",
    mend="systemctl --user restart llama-orch.target, or end llama-orch up and start it again",
)


class Daemon(Message, frozen=True, kw_only=True):
    """One running daemon."""

    name: str
    pid: int
    started_s: float
    """Unix time."""
    prefix: str | None = None
    """The environment that it runs in, as its command line shows it; None where that cannot be read."""


def judge(daemons: Sequence[Daemon], installed_s: float, prefix: str, said: str | None, version: str) -> list[Result]:
    """``said`` is the version that pool-managerd tells on its socket, where it does."""
    if not daemons and said is None:
        return [skipped(CHECK, "no daemon of this user runs")]
    found = []
    for daemon in daemons:
        if daemon.prefix is not None and daemon.prefix != prefix:
            found.append(OTHER.found(f"{daemon.name} ({daemon.pid}) runs from {daemon.prefix}, and this is {prefix}"))
        elif daemon.started_s < installed_s - 1:
            found.append(OLDER.found(f"{daemon.name} ({daemon.pid}) runs since before this version was installed"))
    if said is not None and said != version:
        found.append(PROTOCOL.found(f"pool-managerd is version {said}, and this is {version}"))
    names = ", ".join(f"{daemon.name} ({daemon.pid})" for daemon in daemons)
    return found or [ok(CHECK, f"{version}: {names or 'pool-managerd'}")]
