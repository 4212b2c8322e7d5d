"""Deals with what a former manager left running in a pool's places: takes it over, or ends it.

Decides nothing: what belongs to a pool is ``reconcile``'s, and an engine is taken over when its launch has the same
hash.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from container_runtime.errors import ContainerError
from contracts.config import Mode, Pool
from pool_managerd import proc, process
from pool_managerd.container import ADOPTED_TAIL, Containers, EngineContainer, step_error
from pool_managerd.engine_log import EngineLog
from pool_managerd.handles import HandleFiles
from pool_managerd.host import Host
from pool_managerd.launch import Launch
from pool_managerd.process import EngineProcess, RunningEngine
from pool_managerd.reconcile import Handle, belonging, instance_of, leader_of


@dataclass(frozen=True, kw_only=True)
class Taken:
    """An engine that was taken over. Holds its key."""

    side: str
    running: RunningEngine
    port: int
    key: str | None
    handle: Handle


async def take_over(launch: Launch, pool: Pool, sides: tuple[str, ...], log: EngineLog, host: Host) -> Taken | None:
    """Have the engine that runs in one of these places, where it is the very one that would be started.

    Raises StepError where its container's runtime cannot be asked.
    """
    for side in sides:
        handle = await asyncio.to_thread(host.files.read, instance_of(pool.id, side))
        if handle is None or handle.launch_hash != launch.hash:
            continue
        log.begin(f"{pool.id}: taking over the engine that runs on port {handle.port}")
        way = _process if handle.container_id is None else _container
        if (taken := await way(handle, launch, log, host)) is not None:
            if taken.key is not None:
                host.redactor.register(taken.key)
            return taken
    return None


async def _process(handle: Handle, launch: Launch, log: EngineLog, host: Host) -> Taken | None:
    seen = await asyncio.to_thread(proc.process_of, handle.pid)
    leader = None if seen is None else leader_of(handle, (seen,), host.boot_id)
    key_env = launch.engine.key_env
    key = proc.variable_of(handle.pid, key_env) if key_env else None
    if leader is None or (key_env and key is None):
        return None
    marker, output = host.files.marker(handle.instance), str(host.files.output(handle.instance))
    try:
        running = await EngineProcess.adopt(leader, marker, output, log)
    except OSError:
        return None
    return Taken(side=handle.side, running=running, port=handle.port, key=key, handle=handle)


async def _container(handle: Handle, launch: Launch, log: EngineLog, host: Host) -> Taken | None:
    listed = await host.containers.find(host.files.marker(handle.instance), handle.runtime)
    found = next((one for one in listed if one.container_id == handle.container_id), None)
    if found is None:
        return None
    runtime = host.containers.runtime(found.runtime)
    try:
        state = await runtime.inspect(found)
        environment = await runtime.environment(found)
    except ContainerError:
        return None
    key_env = launch.engine.key_env
    key = environment.get(key_env) if key_env else None
    if not state.running or not found.ports or (key_env and key is None):
        return None
    running = EngineContainer(runtime, found, log, tail=ADOPTED_TAIL, outlives=handle.outlives)
    return Taken(side=handle.side, running=running, port=running.port, key=key, handle=handle)


def restarts_before(files: HandleFiles, boot_id: str) -> dict[str, int]:
    """How many engines of a pool had failed before the one that a former manager left; only where that may live."""
    found = {}
    for handle in files.load():
        seen = proc.process_of(handle.pid) if handle.pid else None
        if handle.container_id is not None or (seen is not None and leader_of(handle, (seen,), boot_id) is not None):
            found[handle.pool_id] = handle.restarts
    return found


async def clear(pool: Pool, side: str, host: Host) -> None:
    """End whatever runs in one of a pool's places, whoever started it. Raises StillRunningError or StepError."""
    instance = instance_of(pool.id, side)
    marker = host.files.marker(instance)
    handle = await asyncio.to_thread(host.files.read, instance)
    seen = tuple(await asyncio.to_thread(lambda: tuple(proc.processes())))
    first = belonging(handle, {marker}, seen, host.boot_id)
    await process.end_all(lambda: process.remains(first, marker), pool.timeouts.stop_ms)
    runtime = handle.runtime if handle is not None else None
    if pool.mode is Mode.CONTAINER or runtime is not None:
        await end_containers(host.containers, marker, runtime, pool.timeouts.stop_ms)
    host.files.remove(instance)


async def end_containers(containers: Containers, marker: str, runtime: str | None, stop_ms: int) -> None:
    """End and remove the containers that carry a handle file's path. Raises StepError, also where it cannot be told.

    ``runtime`` is the one that must answer for it to be sure that none is left.
    """
    for found in await containers.find(marker, runtime):
        try:
            await containers.runtime(found.runtime).stop(found, timeout_ms=stop_ms)
        except ContainerError as error:
            raise step_error(error) from error
