"""Remembers the GPUs that nothing may be started on, although NVML may still list them.

Decides when such a GPU is trusted again: when it was away and is back (a reset, a restart of the driver, a hand on the
card), or when an operator says so by restarting or reloading a pool on it. A GPU with an uncontained memory error goes
on answering, and computing wrongly; that it answers proves nothing. Never asks NVML, never ends anything.
"""

from __future__ import annotations

from collections.abc import Iterable

from pool_managerd.devices import GpuEvent, Inventory


class Condemned:
    """The GPUs that reported something fatal."""

    def __init__(self) -> None:
        self._why: dict[str, GpuEvent] = {}
        self._away: set[str] = set()

    def happened(self, event: GpuEvent) -> None:
        """Take note of an event."""
        if event.fatal:
            self._why[event.uuid] = event

    def seen(self, inventory: Inventory) -> None:
        """Take note of which GPUs are there: one that was away and is back is trusted again."""
        here = {gpu.uuid for gpu in inventory.gpus}
        self._away |= self._why.keys() - here
        self.pardon(self._away & here)

    def pardon(self, uuids: Iterable[str]) -> None:
        """Trust these again."""
        for uuid in tuple(uuids):
            self._why.pop(uuid, None)
            self._away.discard(uuid)

    def of(self, uuids: Iterable[str]) -> GpuEvent | None:
        """Why one of these may not be used; None where they all may."""
        return next((self._why[uuid] for uuid in uuids if uuid in self._why), None)
