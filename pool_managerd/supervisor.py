"""Runs all pools of a daemon: clears away what nobody wants, starts the owners, watches the GPUs, ends it all.

Decides at the end which engines go on without a manager: those that outlive it, unless they were asked to stop. Decides
nothing else about a pool: its owner does, and what becomes of leftovers is ``pool_managerd.reconcile``'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from daemon_core.heartbeat import Heartbeats
from pool_managerd import proc, process
from pool_managerd.condemned import Condemned
from pool_managerd.container import Containers
from pool_managerd.devices import GpuEvent, Inventory
from pool_managerd.engine_effects import EngineEffects
from pool_managerd.gpu_watch import GpuWatch
from pool_managerd.handles import HandleFiles
from pool_managerd.hub import Hub
from pool_managerd.leftovers import end_containers
from pool_managerd.life import DevicesFailed, DrainAsked, Event, ReloadAsked, RestartAsked, Start, StopAsked
from pool_managerd.owner import Owner
from pool_managerd.reconcile import Handle, Leftover, Reconciliation, pool_of, reconcile
from pool_managerd.taking_over import TakingOver

_log = logging.getLogger(__name__)

SAMPLE_S = 2.0
END_AGAIN_S = 2.0
KILL_S = 10.0
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
        self,
        *,
        pools: Mapping[str, SupervisedPool],
        files: HandleFiles,
        containers: Containers,
        hub: Hub,
        watch: GpuWatch | None,
        condemned: Condemned,
        taking_over: TakingOver,
        boot_id: str,
        heartbeats: Heartbeats | None = None,
    ) -> None:
        self._heartbeats = heartbeats or Heartbeats()
        self._pools = pools
        self._files = files
        self._containers = containers
        self._hub = hub
        self._watch = watch
        self._condemned = condemned
        self._taking_over = taking_over
        self._stopping = False
        self._boot_id = boot_id
        self._said: tuple[str | None, tuple[str, ...]] = (None, ())
        """What is wrong with the GPUs, as it was last logged."""

    def post(self, pool_id: str, event: Event) -> None:
        """Give an event to a pool's owner. Raises KeyError where there is no such pool."""
        pool = self._pools[pool_id]
        if isinstance(event, RestartAsked | ReloadAsked):
            self._condemned.pardon(pool.effects.mask)  # an operator who asks knows what was done about the GPU
        pool.owner.post(event)

    async def run(self) -> None:
        """Run until cancelled. ``stop`` or ``step_aside`` comes first where there is time for it.

        What lives after a stop is killed. Without one (a restart, or a defect of ours) what outlives us goes on.
        """
        try:
            found, open_pools = await asyncio.to_thread(self._reconcile)
            self._taking_over.begin(open_pools)
            async with asyncio.TaskGroup() as group:
                for pool_id, pool in self._pools.items():
                    pool.owner.post(Start())
                    self._heartbeats.guard(group.create_task(pool.owner.run(), name=f"{pool_id}: owner"))
                    self._heartbeats.ask(f"the owner of pool {pool_id}", pool.owner.ping)
                for leftover in found.end:
                    group.create_task(self._end(leftover), name=f"{leftover.instance}: leftover")
                for handle in found.remove:
                    group.create_task(self._remove(handle), name=f"{handle.instance}: leftover")
                if self._watch is not None:
                    self._watch.subscribe(self._happened)
                    group.create_task(self._sample(self._watch), name="gpu samples")
                with self._heartbeats.while_serving():
                    await asyncio.Event().wait()
        finally:
            await self._end_or_leave()

    async def _end_or_leave(self) -> None:
        """Nothing of ours is left that was to stop, or that nobody could take over. No pool waits for another."""
        try:
            async with asyncio.timeout(KILL_S), asyncio.TaskGroup() as group:
                for pool in self._pools.values():
                    goes_on = not self._stopping and pool.effects.outlives
                    group.create_task(pool.effects.leave() if goes_on else pool.effects.kill())
        except TimeoutError:
            _log.error("a container runtime does not answer: a container may be left, and the next start ends it")

    async def stop(self, patience_s: float, drain_s: float = 0.0) -> bool:
        """End all engines, and wait for it; whether all ended in time.

        ``drain_s`` is how long work may go on before that: who follows the pools says when there is none.
        """
        self._stopping = True
        event = DrainAsked(deadline_ms=round(drain_s * 1000)) if drain_s else StopAsked()
        return await self._ended(tuple(self._pools.values()), event, patience_s + drain_s)

    async def step_aside(self, patience_s: float) -> bool:
        """End the engines that would not outlive us; whether they ended in time. The others serve on."""
        mortal = tuple(pool for pool in self._pools.values() if not pool.effects.outlives)
        return await self._ended(mortal, StopAsked(), patience_s)

    async def _ended(self, pools: tuple[SupervisedPool, ...], event: Event, patience_s: float) -> bool:
        for pool in pools:
            pool.owner.post(event)
        try:
            async with asyncio.timeout(patience_s), asyncio.TaskGroup() as group:
                for pool in pools:
                    group.create_task(pool.owner.stopped())
        except TimeoutError:
            return False
        return True

    def refresh(self) -> None:
        """Show every pool again: something that a snapshot shows beside the pool's own state has changed."""
        for pool in self._pools.values():
            pool.owner.refresh()

    # --- what a former manager left -----------------------------------------------------------------------------------

    def _reconcile(self) -> tuple[Reconciliation, frozenset[str]]:
        """What to do with what was found, and the pools that may go on with it."""
        pools = tuple(self._pools)
        handles = self._files.load()
        found = reconcile(handles, proc.processes(), pools, boot_id=self._boot_id, markers=self._files.markers(pools))
        for gone in found.forget:
            _say(gone.instance, logging.INFO, "forgetting its former engine: %s", gone.reason)
            self._files.remove(gone.instance)
        for left in found.found:
            text = "a former manager left an engine running (pid %s): it is taken over, or ended before another starts"
            _say(left.instance, logging.WARNING, text, _pids(left))
        contained = {handle.pool_id for handle in handles if handle.container_id is not None} & set(pools)
        return found, frozenset({pool_of(left.instance) for left in found.found} | contained)

    async def _end(self, leftover: Leftover) -> None:
        """End an engine that nobody wants any more."""
        instance = leftover.instance
        _say(instance, logging.WARNING, "ending the engine of a pool that is gone: pid %s", _pids(leftover))
        marker = self._files.marker(instance)
        members = partial(process.remains, leftover.processes, marker)
        await self._clear_away(instance, lambda: process.end_all(members, LEFTOVER_STOP_MS))

    async def _remove(self, handle: Handle) -> None:
        """End the container of a pool that is gone."""
        instance = handle.instance
        _say(instance, logging.WARNING, "ending the container of a pool that is gone: %s", handle.container_id)
        marker, runtime = self._files.marker(instance), handle.runtime
        await self._clear_away(instance, lambda: end_containers(self._containers, marker, runtime, LEFTOVER_STOP_MS))

    async def _clear_away(self, instance: str, end: Callable[[], Awaitable[None]]) -> None:
        """End what is left, however long it takes, then take back its files. Why it fails is said once."""
        said = None
        while True:
            try:
                await end()
                break
            except Exception as error:  # noqa: BLE001 - what nobody wants must not end what serves
                if (why := str(error)) != said:
                    said = why
                    _say(instance, logging.ERROR, "it cannot be ended, trying until it can be: %s", why)
                await asyncio.sleep(END_AGAIN_S)
        self._files.withdraw(pool_of(instance))
        self._files.remove(instance)

    # --- GPUs ---------------------------------------------------------------------------------------------------------

    async def _sample(self, watch: GpuWatch) -> None:
        """Show how full and busy the GPUs are, and have it noticed when one fails."""
        while True:
            try:
                self._show(await watch.look())
            except Exception as error:  # noqa: BLE001 - a sample that fails must not end the pools
                _log.error("GPUs: a defect: %r", error, exc_info=error)
            await asyncio.sleep(SAMPLE_S)

    def _show(self, inventory: Inventory) -> None:
        self._condemned.seen(inventory)
        lost = tuple(gone.message for gone in inventory.lost)
        if (said := (inventory.problem, lost)) != self._said:
            self._said = said
            _log.warning("GPUs: %s", inventory.problem or "; ".join(lost) or "all answer again")
        if inventory.gpus:
            self._hub.sampled(inventory.gpus)
            for pool in self._pools.values():
                pool.effects.sampled(inventory.gpus)
                pool.owner.refresh()

    def _happened(self, event: GpuEvent) -> None:
        """When a GPU cannot be trusted any more, every pool that uses it is told."""
        self._condemned.happened(event)
        level = logging.ERROR if event.fatal else logging.WARNING
        _log.log(level, "%s (%s)", event.message, event.hint, extra={"gpu": event.uuid, "cause": event.cause})
        for pool in self._pools.values():
            if event.fatal and event.uuid in pool.effects.mask:
                pool.owner.post(DevicesFailed(cause=event.cause, message=event.message, hint=event.hint))


def _pids(leftover: Leftover) -> str:
    return ", ".join(str(seen.pid) for seen in leftover.processes)


def _say(instance: str, level: int, text: str, *args: object) -> None:
    _log.log(level, f"pool {instance}: {text}", *args, extra={"pool_id": pool_of(instance)})
