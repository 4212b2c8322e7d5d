"""Proves that an engine computes on the GPUs of its pool, and sees its VRAM come back when it has ended.

Decides nothing: what NVML must show is ``devices``' and ``vram``'s. Looks until it is shown, for a bounded time.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from contracts.config import Pool
from contracts.engines import PreparedEngine, ResolvedModel
from contracts.pools import Gpu
from pool_managerd import devices, vram
from pool_managerd.errors import StepError
from pool_managerd.host import Host, Progress
from pool_managerd.process import RunningEngine

_log = logging.getLogger(__name__)

_ON_GPU_WAIT_S = 3.0
"""How long after a generation NVML may take to list the engine's process."""
_LOOK_S = 0.2
VRAM_BACK_S = 10.0
"""How long after an engine's end the driver may take to give its VRAM back."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The engine that is to be proved. ``gpus`` are those of its pool's mask."""

    pool: Pool
    engine: PreparedEngine
    model: ResolvedModel | None
    gpus: tuple[Gpu, ...]


async def find_devices(pool: Pool, host: Host) -> tuple[Gpu, ...]:
    """The GPUs of the pool's mask, which are there and may be used. Raises StepError."""
    found = devices.find(pool.devices, await asyncio.to_thread(host.gpus.inventory))
    if isinstance(found, devices.Trouble):
        raise StepError(found.cause, found.message, found.hint)
    if (event := host.condemned.of(gpu.uuid for gpu in found)) is not None:
        raise StepError(event.cause, event.message, event.hint)
    return found


async def prove(subject: Subject, running: RunningEngine, host: Host, progress: Progress) -> frozenset[int]:
    """NVML must show the engine on its GPUs, with most of its model; it may take a moment to.

    What it holds decides whether the next one like it fits. The answer is the engine's pids. Raises StepError.
    """
    mask = tuple(gpu.uuid for gpu in subject.gpus)
    need = None
    if subject.model is not None:
        need = await host.room.need(subject.pool, subject.engine, subject.model, subject.gpus)
    least = vram.least_on_gpu(need) if need is not None else None
    loop = asyncio.get_running_loop()
    give_up = loop.time() + _ON_GPU_WAIT_S
    while True:
        pids = await running.pids()
        seen = await asyncio.to_thread(host.gpus.processes)
        trouble = devices.on_its_devices(mask, pids, seen, least)
        if trouble is None:
            break
        if trouble.final or loop.time() >= give_up:
            raise StepError(trouble.cause, trouble.message, trouble.hint)
        await asyncio.sleep(_LOOK_S)
    if (said := devices.by_presence_alone(mask, pids, seen)) is not None:
        progress(said)
    if subject.model is not None:
        held = tuple(one for one in seen if isinstance(one, devices.DeviceProcess) and one.pid in pids)
        total = await host.room.remember(subject.pool, subject.engine, subject.model, subject.gpus, held)
        if total is not None:
            wanted = f"; {need.basis}: {vram.gib(need.total_on(len(mask)))}" if need is not None else ""
            progress(f"on its GPUs, with {vram.gib(total)} of VRAM{wanted}")
    return pids


async def vram_back(pool_id: str, pids: frozenset[int], host: Host) -> None:
    """Wait until NVML shows none of these processes any more: the next engine needs the room.

    Never longer than ``VRAM_BACK_S``, also where the driver does not answer.
    """
    held: frozenset[int] = frozenset()
    try:
        async with asyncio.timeout(VRAM_BACK_S):
            while held := await _held_by(pids, host):  # noqa: ASYNC110 - NVML tells nobody when it is over
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        text = "pool %s: NVML still shows ended processes with VRAM: pid %s"
        if not held:
            text = "pool %s: the driver does not tell whether the VRAM of ended processes is back: pid %s"
        _log.warning(text, pool_id, ", ".join(map(str, sorted(held or pids))), extra={"pool_id": pool_id})


async def _held_by(pids: frozenset[int], host: Host) -> frozenset[int]:
    seen = await asyncio.to_thread(host.gpus.processes)
    return pids & {one.pid for one in seen if isinstance(one, devices.DeviceProcess)}
