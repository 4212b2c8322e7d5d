"""The files that say what runs: a handle per engine for the next manager, a pid file and a hand-off file for everybody.

Decides names and formats. Writes each file whole or not at all, never a secret into any, and trusts none of them: what
is read back is checked against the kernel by ``pool_managerd.reconcile``. For that a file that the disk does not let go
is only said: it keeps no engine from its end.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from catalog_core.atomic import remove_leftovers, write_atomic
from contracts.base import Message
from contracts.engines import Handoff
from pool_managerd.reconcile import SIDES, Handle, instance_of, pool_of

_log = logging.getLogger(__name__)


class HandleFiles:
    """The run-time files of all pools."""

    def __init__(self, *, handles: Path, runtime: Path, engines: Path) -> None:
        self._handles = handles
        self._runtime = runtime
        self._engines = engines

    @property
    def folder(self) -> Path:
        """Where the handles are."""
        return self._handles

    def marker(self, instance: str) -> str:
        """The path of an instance's handle file: what its engine carries in its environment, or as a label."""
        return str(self._handles / f"{instance}.json")

    def markers(self, pools: tuple[str, ...]) -> dict[str, str]:
        """Handle file -> instance, for the pools given and those that a file stands for."""
        found = {path.name.removesuffix(".json") for path in self._handles.glob("*.json")}
        ours = {instance_of(pool_id, side) for pool_id in pools for side in SIDES}
        return {self.marker(instance): instance for instance in {*found, *ours}}

    def output(self, instance: str) -> Path:
        """The pipe through which a native engine says what it has to say."""
        return self._engines / f"{instance}.out"

    def write(self, handle: Handle) -> None:
        """Write the handle and the pid file of an engine that was just started. Raises OSError."""
        write_atomic(self._handles / f"{handle.instance}.json", _json(handle))
        if handle.pid:
            write_atomic(self._runtime / f"{handle.instance}.pid", f"{handle.pid}\n".encode())

    def hand_over(self, handoff: Handoff) -> None:
        """Write the hand-off file of an engine that is ready. Raises OSError."""
        write_atomic(self._engines / f"{handoff.pool_id}.json", _json(handoff))

    def withdraw(self, pool_id: str) -> None:
        """Take back the hand-off file: the pool's engine is not ready any more. Never raises."""
        _remove(self._engines / f"{pool_id}.json", pool_id)

    def remove(self, instance: str) -> None:
        """Take back everything that says this instance runs. Never raises."""
        for path in (
            self.output(instance),
            self._runtime / f"{instance}.pid",
            self._handles / f"{instance}.json",
        ):
            _remove(path, pool_of(instance))

    def load(self) -> tuple[Handle, ...]:
        """Every handle that can be read. One that cannot is logged; its engine is still found by its marker."""
        found = (self._read(path) for path in sorted(self._handles.glob("*.json")))
        return tuple(handle for handle in found if handle is not None)

    def read(self, instance: str) -> Handle | None:
        """The handle of one instance, where there is one that can be read."""
        path = self._handles / f"{instance}.json"
        return self._read(path) if path.exists() else None

    def _read(self, path: Path) -> Handle | None:
        try:
            handle = msgspec.json.decode(path.read_bytes(), type=Handle)
        except (OSError, msgspec.DecodeError) as error:
            extra = {"pool_id": pool_of(path.name.removesuffix(".json"))}
            _log.warning("the handle file %s is of no use: %s", path, error, extra=extra)
            return None
        return handle if handle.instance == path.name.removesuffix(".json") else None


def _remove(path: Path, pool_id: str) -> None:
    """Remove a file, and what is left of a writer of it that was killed."""
    try:
        path.unlink(missing_ok=True)
        remove_leftovers(path)
    except OSError as error:
        _log.warning("pool %s: cannot remove a run-time file: %s", pool_id, error, extra={"pool_id": pool_id})


def _json(message: Message) -> bytes:
    return msgspec.json.format(msgspec.json.encode(message), indent=1) + b"\n"
