"""Does to the world what a pool's owner decided: the real ``Effects``.

Decides only which engine of the pool is meant: the one that serves, its successor that is being proved on the pool's
other side, or the one that is retired. What is done to one engine is ``pool_managerd.attempt``'s.
"""

from __future__ import annotations

import asyncio
import random

from msgspec.structs import replace

from contracts.config import Mode, Pool
from contracts.engines import PreparedEngine, ResolvedModel
from contracts.pools import DeviceUse, Endpoint, Gpu, PoolState
from pool_managerd import devices, process
from pool_managerd.attempt import Attempt
from pool_managerd.engine_log import EngineLog
from pool_managerd.host import Engines, Host
from pool_managerd.leftovers import clear
from pool_managerd.life import EngineExited, Life
from pool_managerd.owner import Successor
from pool_managerd.reconcile import BLUE, GREEN, SIDES, ProcessSeen, instance_of
from pool_managerd.snapshot import snapshot

_LOOK_AT_DEVICES_S = 1.0


class EngineEffects:
    """The effects of one pool."""

    def __init__(self, *, pool: Pool, engines: Engines, log: EngineLog, host: Host) -> None:
        self._pool = pool
        self._engines = engines
        self._log = log
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._serving = self._attempt(pool.model, SIDES, log)
        self._successor: Attempt | None = None
        self._retired: Attempt | None = None
        self._use: tuple[DeviceUse, ...] = ()
        self._mask: frozenset[str] = frozenset()

    # --- clock and chance ---------------------------------------------------------------------------------------------

    def now(self) -> int:
        """The loop's clock in milliseconds."""
        return round(self._loop.time() * 1000)

    def draw(self) -> float:
        """A random number in [0, 1)."""
        return random.random()  # noqa: S311 - spreads restarts, protects nothing

    async def sleep_until(self, due: int) -> None:
        """Wait for a moment of the loop's clock."""
        await asyncio.sleep(max(0, due - self.now()) / 1000)

    # --- the serving engine -------------------------------------------------------------------------------------------

    async def stage_model(self, model_ref: str) -> ResolvedModel | None:
        """Steps check_devices and stage_model of a new engine, which may use either side of the pool."""
        self._mask = self.mask  # while the devices of the new one are looked for
        self._serving = self._attempt(model_ref, SIDES, self._log)
        model = await self._serving.stage()
        self._use = devices.use_of(self._serving.gpus)
        return model

    async def ensure_engine(self) -> PreparedEngine:
        """Step ensure_engine."""
        return await self._serving.ensure()

    async def spawn(self, engine: PreparedEngine, model: ResolvedModel | None) -> Endpoint:
        """Steps take_over, check_room and spawn."""
        return await self._serving.spawn(engine, model)

    async def prove(self) -> None:
        """Steps await_health, prove_generation and prove_devices."""
        await self._serving.prove()

    async def watch(self, model_ref: str) -> None:  # noqa: ARG002 - the engine knows what it serves
        """Step hand_over, then the liveness of the ready engine."""
        await self._serving.watch()

    async def exited(self, run: int) -> EngineExited:
        """Wait for the serving engine's end that nobody asked for."""
        serving = self._serving
        end = await serving.exited()
        stolen = await serving.port_stolen()
        return EngineExited(run=run, cause=end.cause, message=end.message, hint=end.hint, port_taken=stolen)

    # --- its successor ------------------------------------------------------------------------------------------------

    async def prepare_successor(self, model_ref: str) -> Successor | None:
        """All steps of a start beside the serving engine; None where there is no room for two."""
        await self.abandon_successor()
        await self.retire()
        other = GREEN if self._serving.side == BLUE else BLUE
        successor = self._successor = self._attempt(model_ref, (other,), self._log.another())
        model = await successor.stage()
        engine = await successor.ensure()
        if not await successor.fits_beside():
            self._successor = None
            return None
        endpoint = await successor.spawn(engine, model)
        await _prove_while_it_runs(successor)
        return Successor(model=model, engine=engine, endpoint=endpoint)

    async def abandon_successor(self) -> None:
        """End the successor, if there is one. Raises StillRunningError or StepError."""
        if (successor := self._successor) is not None:
            await successor.end()
            if self._successor is successor:
                self._successor = None

    def switch_over(self) -> bool:
        """The successor serves from now on. Whether the one before is to be ended: not what somebody else runs."""
        if self._successor is None:
            raise AssertionError("no successor")
        ours = self._pool.mode is not Mode.EXTERNAL
        self._retired, self._serving, self._successor = self._serving if ours else None, self._successor, None
        return ours

    async def retire(self) -> None:
        """End the engine that served before the switch. Raises StillRunningError or StepError."""
        if (retired := self._retired) is not None:
            await retired.end()
            if self._retired is retired:
                self._retired = None

    # --- the end ------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """End whatever runs for this pool, also what a cancelled start left behind. Raises StillRunningError."""
        self._host.files.withdraw(self._pool.id)
        try:
            async with asyncio.TaskGroup() as group:
                for attempt in self._attempts():
                    group.create_task(attempt.end())
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several
        self._successor = self._retired = None
        for side in SIDES:
            await clear(self._pool, side, self._host)
        self._log.end()

    @property
    def outlives(self) -> bool:
        """Whether every engine of the pool goes on when this manager ends."""
        return all(attempt.outlives for attempt in self._attempts())

    async def leave(self) -> None:
        """Let the engines go on, for the next manager: nothing is ended, and no file is taken back."""
        for attempt in self._attempts():
            await attempt.leave()

    async def kill(self) -> None:
        """End what runs without patience: for the way out, when nobody waits any more. Never raises."""
        process.kill_now(self._marked())
        for attempt in self._attempts():
            await attempt.kill()

    def _attempts(self) -> tuple[Attempt, ...]:
        return tuple(one for one in (self._serving, self._successor, self._retired) if one is not None)

    def _marked(self) -> tuple[ProcessSeen, ...]:
        """Whatever carries one of this pool's handle files in its environment."""
        markers = [self._host.files.marker(instance_of(self._pool.id, side)) for side in SIDES]
        return tuple(seen for marker in markers for seen in process.marked(marker))

    # --- GPUs ---------------------------------------------------------------------------------------------------------

    async def devices_well(self) -> None:
        """Wait until every GPU of the mask answers."""
        while True:
            inventory = await asyncio.to_thread(self._host.gpus.inventory)
            found = devices.find(self._pool.devices, inventory)
            if not isinstance(found, devices.Trouble) and not self._host.condemned.of(gpu.uuid for gpu in found):
                return
            await asyncio.sleep(_LOOK_AT_DEVICES_S)

    @property
    def mask(self) -> frozenset[str]:
        """The UUIDs of the GPUs in this pool's mask, as far as they are known by now."""
        self._mask = frozenset(gpu.uuid for gpu in self._serving.gpus) or self._mask
        return self._mask

    # --- what others see ----------------------------------------------------------------------------------------------

    def publish(self, life: Life) -> None:
        """Show the pool as it is now; what the next manager needs to show the same is on disk before that."""
        if life.state is PoolState.READY:
            self._serving.serves(life.restarts)
        offset, redact = self._host.wall_clock.offset_ms, self._host.redactor.text
        gpus = self._serving.gpus
        seen = snapshot(self._pool, life, wall_offset_ms=offset, gpus=gpus, use=self._use, redact=redact)
        seen = self._host.retired.show(seen)
        if (error := seen.last_error) is not None:
            # It may quote what an engine or a build printed, and what an operator typed.
            hint = error.hint and redact(error.hint)
            seen = replace(seen, last_error=replace(error, message=redact(error.message), hint=hint))
        self._host.hub.publish(seen)
        self._host.taking_over.is_now(self._pool.id, life.state)

    def sampled(self, gpus: tuple[Gpu, ...]) -> None:
        """Take a sample of all GPUs: the next snapshot shows how this pool's are used."""
        mine = {gpu.uuid for gpu in self._serving.gpus}
        self._use = devices.use_of(gpu for gpu in gpus if gpu.uuid in mine)

    def _attempt(self, model_ref: str, sides: tuple[str, ...], log: EngineLog) -> Attempt:
        return Attempt(
            pool=self._pool, model_ref=model_ref, sides=sides, engines=self._engines, log=log, host=self._host
        )


async def _prove_while_it_runs(attempt: Attempt) -> None:
    """Prove an engine, or say at once that it has ended. Raises StepError."""

    async def fail_at_its_end() -> None:
        raise await attempt.exited()

    try:
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(fail_at_its_end())
            await attempt.prove()
            watching.cancel()
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from several
