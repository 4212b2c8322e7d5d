"""Runs all pools of a daemon: clears away what a former manager left, starts the owners, samples the GPUs, ends it all.

Decides nothing about a single pool: its owner does, and what becomes of leftovers is ``pool_managerd.reconcile``'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from pool_managerd import proc, process
from pool_managerd.devices import Inventory
from pool_managerd.engine_effects import EngineEffects
from pool_managerd.errors import StillRunningError
from pool_managerd.gpu import Gpus
from pool_managerd.handles import HandleFiles
from pool_managerd.hub import Hub
from pool_managerd.life import Event, Start, StopAsked
from pool_managerd.owner import Owner
from pool_managerd.reconcile import Leftover, ProcessSeen, Reconciliation, reconcile

_log = logging.getLogger(__name__)

SAMPLE_S = 2.0
END_AGAIN_S = 2.0
LEFTOVER_STOP_MS = 5_000
"""How long an engine of a dead manager has to end by itself."""


@dataclass(frozen=True, kw_only=True)
class SupervisedPool:
    """A pool's owner and what it acts through."""

    owner: Owner
    effects: EngineEffects


class Supervisor:
    """All pools of one daemon."""

    def __init__(
        self, *, pools: Mapping[str, SupervisedPool], files: HandleFiles, hub: Hub, gpus: Gpus | None, boot_id: str
    ) -> None:
        self._pools = pools
        self._files = files
        self._hub = hub
        self._gpus = gpus
        self._boot_id = boot_id

    def post(self, pool_id: str, event: Event) -> None:
        """Give an event to a pool's owner. Raises KeyError where there is no such pool."""
        self._pools[pool_id].owner.post(event)

    async def run(self) -> None:
        """Run until cancelled. ``stop`` comes first where there is time for it; what lives after that is killed."""
        found = await asyncio.to_thread(self._reconcile)
        leftovers = {leftover.pool_id: leftover for leftover in found.end}
        try:
            async with asyncio.TaskGroup() as group:
                for pool_id, pool in self._pools.items():
                    pool.owner.post(Start())
                    group.create_task(self._own(pool.owner, leftovers.pop(pool_id, None)), name=f"{pool_id}: owner")
                for leftover in leftovers.values():
                    group.create_task(self._end(leftover), name=f"{leftover.pool_id}: leftover")
                if self._gpus is not None:
                    group.create_task(self._sample(self._gpus), name="gpu samples")
        finally:
            for pool in self._pools.values():
                process.kill_now(pool.effects.leftovers())

    async def stop(self, patience_s: float) -> bool:
        """End all engines at once, and wait for it; whether all ended in time."""
        for pool in self._pools.values():
            pool.owner.post(StopAsked())
        try:
            async with asyncio.timeout(patience_s), asyncio.TaskGroup() as group:
                for pool in self._pools.values():
                    group.create_task(pool.owner.stopped())
        except TimeoutError:
            return False
        return True

    # --- what a former manager left -----------------------------------------------------------------------------------

    def _reconcile(self) -> Reconciliation:
        pools = tuple(self._pools)
        found = reconcile(
            self._files.load(), proc.processes(), pools, boot_id=self._boot_id, markers=self._files.markers(pools)
        )
        for gone in found.forget:
            _log.info(
                "%s: forgetting its former engine: %s", gone.pool_id, gone.reason, extra={"pool_id": gone.pool_id}
            )
            self._files.remove(gone.pool_id)
        return found

    async def _own(self, owner: Owner, leftover: Leftover | None) -> None:
        if leftover is not None:
            await self._end(leftover)
        await owner.run()

    async def _end(self, leftover: Leftover) -> None:
        """End an engine that a dead manager left, however long it takes: no other one may start for its pool before."""
        pool_id, extra = leftover.pool_id, {"pool_id": leftover.pool_id}
        pids = ", ".join(str(seen.pid) for seen in leftover.processes)
        _log.warning("%s: ending what a former manager left running: pid %s", pool_id, pids, extra=extra)
        while True:
            try:
                await process.end_all(lambda: self._still_there(leftover), LEFTOVER_STOP_MS)
                break
            except StillRunningError as error:
                _log.error("%s: %s", pool_id, error, extra=extra)
                await asyncio.sleep(END_AGAIN_S)
        self._files.remove(pool_id)

    def _still_there(self, leftover: Leftover) -> tuple[ProcessSeen, ...]:
        """What is left of it: those seen at first, and what carries its marker."""
        marker = self._files.marker(leftover.pool_id)
        known = {(seen.pid, seen.start_time_ticks) for seen in leftover.processes}
        return tuple(
            seen for seen in proc.processes() if seen.marker == marker or (seen.pid, seen.start_time_ticks) in known
        )

    # --- GPUs ---------------------------------------------------------------------------------------------------------

    async def _sample(self, gpus: Gpus) -> None:
        """Show how full and busy the GPUs are; a driver that goes away or comes back is said once."""
        problem: str | None = None
        while True:
            inventory: Inventory = await asyncio.to_thread(gpus.inventory)
            if inventory.problem != problem:
                problem = inventory.problem
                _log.warning("GPUs: %s", problem or "can be listed again")
            if inventory.gpus:
                self._hub.sampled(inventory.gpus)
                for pool in self._pools.values():
                    pool.effects.sampled(inventory.gpus)
                    pool.owner.refresh()
            await asyncio.sleep(SAMPLE_S)
