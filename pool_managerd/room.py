"""Sees to it that an engine has room before it starts, and keeps what it took once it is proved.

Decides nothing: what an engine needs and whether that fits is ``vram``'s and ``ram``'s. Reads how much is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from contracts.config import Pool, Profile
from contracts.engines import PreparedEngine, ResolvedModel
from contracts.pools import Gpu
from engine_provisioner.host import Resources, resources
from pool_managerd import vram
from pool_managerd.devices import DeviceProcess
from pool_managerd.errors import StepError
from pool_managerd.gpu import Gpus
from pool_managerd.ram import ram_refusal
from pool_managerd.vram_memory import VramMemory


@dataclass(frozen=True, kw_only=True)
class Room:
    """The memory of this machine, and what is known of engines' needs of it."""

    profile: Profile
    gpus: Gpus
    memory: VramMemory
    resources: Callable[[], Resources] = resources

    async def check(self, pool: Pool, engine: PreparedEngine, model: ResolvedModel, mask: tuple[Gpu, ...]) -> None:
        """Raises StepError, with the numbers, where the engine does not fit into what is free or leaves layers out."""
        self._all_on_gpus(pool, model)
        refusal = await self._refusal(pool, engine, model, mask)
        if refusal is not None:
            raise StepError(refusal.cause, refusal.message, refusal.hint)

    async def beside(self, pool: Pool, engine: PreparedEngine, model: ResolvedModel, mask: tuple[Gpu, ...]) -> bool:
        """Whether the engine fits next to the one that serves. Raises StepError where it leaves layers to the CPU."""
        self._all_on_gpus(pool, model)
        if await self._ram_refusal(pool, model) is not None:
            return False
        need = await self.need(pool, engine, model, mask)
        if self.profile is Profile.TRIAL or need is None:
            return True
        return vram.fits_beside(need, await self._now(mask), pool.tensor_split)

    async def need(
        self, pool: Pool, engine: PreparedEngine, model: ResolvedModel, mask: tuple[Gpu, ...]
    ) -> vram.Need | None:
        """What the engine needs on its GPUs; None for one that somebody else runs.

        Raises StepError where it leaves layers to the CPU: one that is taken over was not checked before its start.
        """
        self._all_on_gpus(pool, model)
        need = vram.estimate(model, pool)
        if need is None or not mask:
            return need
        key = vram.memory_key(engine, model, pool, mask)
        return vram.with_measured(need, await asyncio.to_thread(self.memory.recall, key))

    async def remember(
        self,
        pool: Pool,
        engine: PreparedEngine,
        model: ResolvedModel,
        mask: tuple[Gpu, ...],
        held: tuple[DeviceProcess, ...],
    ) -> int | None:
        """Keep what the proved engine's processes hold, in bytes; None where the driver does not tell."""
        sizes = [process.used_bytes for process in held]
        total = sum(size for size in sizes if size is not None)
        if None in sizes or not total:
            return None
        key = vram.memory_key(engine, model, pool, mask)
        await asyncio.to_thread(self.memory.remember, key, total)
        return total

    def _all_on_gpus(self, pool: Pool, model: ResolvedModel) -> None:
        refusal = vram.layers_refusal(model, pool) if self.profile is Profile.HOME else None
        if refusal is not None:
            raise StepError(refusal.cause, refusal.message, refusal.hint)

    async def _refusal(
        self, pool: Pool, engine: PreparedEngine, model: ResolvedModel, mask: tuple[Gpu, ...]
    ) -> vram.Refusal | None:
        host = await self._ram_refusal(pool, model)
        if host is not None or self.profile is Profile.TRIAL:
            return host
        need = await self.need(pool, engine, model, mask)
        return None if need is None else vram.refusal(need, await self._now(mask), pool.tensor_split)

    async def _ram_refusal(self, pool: Pool, model: ResolvedModel) -> vram.Refusal | None:
        available = (await asyncio.to_thread(self.resources)).memory_bytes
        return None if available is None else ram_refusal(model, pool, available, self.profile)

    async def _now(self, mask: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
        """The GPUs of the mask as they are right now."""
        found = {gpu.uuid: gpu for gpu in (await asyncio.to_thread(self.gpus.inventory)).gpus}
        return tuple(found.get(gpu.uuid, gpu) for gpu in mask)
