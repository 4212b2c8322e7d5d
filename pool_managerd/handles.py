"""The files that say what runs: a handle per engine for the next manager, a pid file and a hand-off file for everybody.

Decides names and formats. Writes each file whole or not at all, never a secret into any, and trusts none of them: what
is read back is checked against the kernel by ``pool_managerd.reconcile``.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from catalog_core.atomic import write_atomic
from contracts.base import Message
from contracts.engines import Handoff
from pool_managerd.reconcile import Handle

_log = logging.getLogger(__name__)


class HandleFiles:
    """The run-time files of all pools."""

    def __init__(self, *, handles: Path, runtime: Path, engines: Path) -> None:
        self._handles = handles
        self._runtime = runtime
        self._engines = engines

    def marker(self, pool_id: str) -> str:
        """The path of a pool's handle file: what its engine carries in its environment."""
        return str(self._handles / f"{pool_id}.json")

    def markers(self, pools: tuple[str, ...]) -> dict[str, str]:
        """Handle file -> pool id, for the pools given and those that a file stands for."""
        found = {path.stem for path in self._handles.glob("*.json")}
        return {self.marker(pool_id): pool_id for pool_id in {*found, *pools}}

    def write(self, handle: Handle) -> None:
        """Write the handle and the pid file of an engine that was just started. Raises OSError."""
        write_atomic(self._handles / f"{handle.pool_id}.json", _json(handle))
        write_atomic(self._runtime / f"{handle.pool_id}.pid", f"{handle.pid}\n".encode())

    def hand_over(self, handoff: Handoff) -> None:
        """Write the hand-off file of an engine that is ready. Raises OSError."""
        write_atomic(self._engines / f"{handoff.pool_id}.json", _json(handoff))

    def remove(self, pool_id: str) -> None:
        """Take back everything that says this pool has an engine."""
        for path in (
            self._engines / f"{pool_id}.json",
            self._runtime / f"{pool_id}.pid",
            self._handles / f"{pool_id}.json",
        ):
            path.unlink(missing_ok=True)

    def load(self) -> tuple[Handle, ...]:
        """Every handle that can be read. One that cannot is logged; its engine is still found by its marker."""
        handles = []
        for path in sorted(self._handles.glob("*.json")):
            try:
                handle = msgspec.json.decode(path.read_bytes(), type=Handle)
            except (OSError, msgspec.DecodeError) as error:
                _log.warning("the handle file %s is of no use: %s", path, error)
                continue
            if handle.pool_id == path.stem:
                handles.append(handle)
        return tuple(handles)


def _json(message: Message) -> bytes:
    return msgspec.json.format(msgspec.json.encode(message), indent=1) + b"\n"
