"""The address of orchestratord: free, or orchestratord's own.

Decides what a refused bind means, and whose a listening socket is, from what the kernel lists.
"""

from __future__ import annotations

import errno
import re

from contracts.base import Message
from llama_orch.doctor.base import Kind, Result, ok

CHECK = "ports"

TAKEN = Kind(
    id="ports.taken",
    what="another program listens on server.bind",
    why="orchestratord could not listen",
    mend="ss -ltnp shows who has it: end that, or set server.bind",
)
PRIVILEGED = Kind(
    id="ports.privileged",
    what="server.bind has a port that only root may take",
    why="orchestratord runs without root, so it could not listen",
    mend="set server.bind to a port above 1023, and put a reverse proxy in front (docs/reverse-proxy.md)",
)
NOT_HERE = Kind(
    id="ports.not-here",
    what="server.bind has an address that this machine does not have",
    why="orchestratord could not listen; an address that comes by DHCP can change, or be late at boot",
    mend="ip -brief address lists those there are; 0.0.0.0 is all of them",
)
REFUSED = Kind(
    id="ports.refused",
    what="server.bind cannot be taken for another reason",
    why="orchestratord could not listen",
    mend="set server.bind to host:port of this machine",
)

_LISTEN = "0A"
_ORCHESTRATORD = re.compile(r"(?:\S+ ){0,2}(?:\S*/)?orchestratord(?: .*)?")
"""As a program, or as a module of an interpreter; another one may only have the word among its arguments."""
_SYSTEMD = re.compile(r"\S*/systemd --user(?: .*)?")


class Owner(Message, frozen=True, kw_only=True):
    """A process that has the socket."""

    pid: int
    command: str


def listening_inodes(table: str, port: int) -> frozenset[str]:
    """The inodes of sockets that listen on a port, from /proc/net/tcp or tcp6."""
    found = set()
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            found.add(fields[9])
    return frozenset(found)


def judge(bind: str, port: int, error: int | None, words: str, owner: Owner | None) -> list[Result]:
    """``error`` is the number of a refused bind."""
    if error is None:
        return [ok(CHECK, f"{bind}: free")]
    if owner is not None and _ORCHESTRATORD.fullmatch(owner.command):
        return [ok(CHECK, f"{bind}: orchestratord listens (process {owner.pid})")]
    if owner is not None and _SYSTEMD.fullmatch(owner.command):
        return [ok(CHECK, f"{bind}: systemd keeps the socket while orchestratord starts anew")]
    match error:
        case errno.EADDRINUSE if owner is not None:
            mend = f"kill {owner.pid}, or set server.bind to another port"
            return [TAKEN.found(f"{bind}: taken by {owner.command} (process {owner.pid})", mend)]
        case errno.EADDRINUSE:
            mend = f"sudo ss -ltnp 'sport = :{port}' shows who has it; or set server.bind"
            return [TAKEN.found(f"{bind}: {words}, by another user's program", mend)]
        case errno.EACCES | errno.EPERM:
            return [PRIVILEGED.found(f"{bind}: {words}")]
        case errno.EADDRNOTAVAIL:
            return [NOT_HERE.found(f"{bind}: {words}")]
        case _:
            return [REFUSED.found(f"{bind}: {words}")]
