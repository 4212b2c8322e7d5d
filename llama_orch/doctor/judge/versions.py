"""The running daemons beside the installed program: started from the same files, since they were written.

Decides it from moments and paths, and from the versions that the daemons took note of when they started. The former
tell also of what was installed anew without a new number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    what="a running daemon is of another version than this program",
    why="the daemons and the command line of two versions may not understand each other",
    mend="systemctl --user restart llama-orch.target, or end llama-orch up and start it again",
)
ELSEWHERE = "install the same version here and there; then restart the daemons there"


class Daemon(Message, frozen=True, kw_only=True):
    """One running daemon."""

    name: str
    pid: int
    started_s: float
    """Unix time."""
    prefix: str | None = None
    """The environment that it runs in, as its command line shows it; None where that cannot be read."""


def judge(
    daemons: Sequence[Daemon],
    installed_s: float,
    prefix: str,
    said: Mapping[str, str],
    version: str,
    *,
    elsewhere: bool = False,
) -> list[Result]:
    """``said`` is the version that each daemon told, by its name; they may be those of another machine."""
    if not daemons and not said:
        return [skipped(CHECK, "no daemon of this user runs")]
    found = []
    for daemon in daemons:
        if daemon.prefix is not None and daemon.prefix != prefix:
            found.append(OTHER.found(f"{daemon.name} ({daemon.pid}) runs from {daemon.prefix}, and this is {prefix}"))
        elif daemon.started_s < installed_s - 1:
            found.append(OLDER.found(f"{daemon.name} ({daemon.pid}) runs since before this version was installed"))
    for name, told in said.items():
        if told != version:
            mend = ELSEWHERE if elsewhere else None
            found.append(PROTOCOL.found(f"{name} is version {told}, and this is {version}", mend))
    running = [f"{daemon.name} ({daemon.pid})" for daemon in daemons]
    return found or [ok(CHECK, f"{version}: {', '.join(running or said)}")]
