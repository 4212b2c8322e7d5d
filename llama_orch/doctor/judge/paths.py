"""The directories of llama-orch: there or to be made, and writable. Decides how it is told that one is not."""

from __future__ import annotations

from collections.abc import Sequence

from contracts.base import Message
from llama_orch.doctor.base import Kind, Result, ok

CHECK = "paths"
UNIX_SOCKET_PATH_MAX = 107
"""Bytes that the kernel takes for the path of a Unix socket, without the terminating zero."""

NOT_WRITABLE = Kind(
    id="paths.not-writable",
    what="a directory of llama-orch cannot be made or written",
    why="models, engines, tasks, logs and the socket live there",
    mend="give it to this user, or set paths: to another one",
)
LONG_SOCKET = Kind(
    id="paths.long-socket",
    what="the path of pool-managerd's socket is too long",
    why=f"the kernel takes {UNIX_SOCKET_PATH_MAX} bytes, so the daemons could not meet",
    mend="set paths.runtime to a shorter directory",
)


class Place(Message, frozen=True, kw_only=True):
    """One directory by the name of its setting, and the nearest of its parents that is there."""

    name: str
    path: str
    there: str
    writable: bool


def judge(places: Sequence[Place], socket: str, socket_bytes: int) -> list[Result]:
    """A result for each directory that is no good, or one for all of them."""
    found = [
        NOT_WRITABLE.found(
            f"{place.name}: {place.there} cannot be written", f"ls -ld {place.there}; or set paths.{place.name}"
        )
        for place in places
        if not place.writable
    ]
    if socket_bytes > UNIX_SOCKET_PATH_MAX:
        found.append(LONG_SOCKET.found(f"the path of the socket has {socket_bytes} bytes: {socket}"))
    return found or [ok(CHECK, ", ".join(place.path for place in places))]
