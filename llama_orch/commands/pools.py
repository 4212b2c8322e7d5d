"""``llama-orch pools``: how the pools are, and why one is not ready."""

from __future__ import annotations

import asyncio

from contracts.pools import Capabilities, Capability, PoolHealth, PoolList, PoolState
from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.output import Output
from llama_orch.session import Session, find_session

COLUMNS = ("POOL", "STATE", "ENGINE", "MODEL", "ACTIVE", "QUEUED", "VRAM FREE", "RESTARTS")


def pools(*, url: UrlOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show every pool: its state, engine, model and load."""
    health, capabilities = asyncio.run(_ask(find_session(config, url)))
    out = Output(as_json=as_json)
    out.data({"managed": health.managed, "pools": health.pools, "capabilities": capabilities.pools})
    known = {pool.pool_id: pool for pool in capabilities.pools}
    out.table(COLUMNS, [_row(pool, known.get(pool.pool_id)) for pool in health.pools], "no pools")
    for pool in health.pools:
        if pool.last_error is not None:
            # A pool that is ready serves in spite of it, as after a reload that failed.
            last = "ready, last error: " if pool.ready else ""
            out.line(f"\n{pool.pool_id}: {last}{pool.last_error.cause}: {pool.last_error.message}")
            if pool.last_error.hint:
                out.line(f"  hint: {pool.last_error.hint}")
        elif pool.state is PoolState.STOPPED and health.managed:
            out.line(f"\n{pool.pool_id}: it was drained; llama-orch reload {pool.pool_id} starts it again")
    if not health.managed:
        out.note("pool-managerd cannot be reached: these are the last known states")


async def _ask(session: Session) -> tuple[PoolList, Capabilities]:
    async with session.client() as client:
        return await client.pools(), await client.capabilities()


def _row(pool: PoolHealth, capability: Capability | None) -> tuple[object, ...]:
    engine = model = None
    if capability is not None:
        engine = " ".join(part for part in (capability.engine, capability.engine_version) if part)
        model = capability.model_ref
    metrics = pool.metrics
    free = None if metrics.vram_free_bytes is None else f"{metrics.vram_free_bytes / (1 << 30):.1f} GiB"
    active = f"{metrics.active}/{metrics.slots}"
    return pool.pool_id, pool.state, engine, model, active, metrics.queue_depth, free, pool.restarts
