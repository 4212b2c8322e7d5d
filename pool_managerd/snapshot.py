"""Decides what the world sees of a pool.

Values in, a whole snapshot out. Moments become Unix milliseconds here and nowhere else. The hub sets the revision.
"""

from __future__ import annotations

from collections.abc import Callable

from contracts.config import Pool
from contracts.pools import DeviceUse, Gpu, PoolError, PoolHealth, PoolMetrics, PoolSnapshot, PoolState
from pool_managerd.footprint import kv_bytes_per_token
from pool_managerd.launch import command_of, launch_in
from pool_managerd.life import Failure, Life


def replica_id(pool_id: str) -> str:
    """The name of a pool's only replica."""
    return f"{pool_id}-0"


def snapshot(
    pool: Pool,
    life: Life,
    *,
    wall_offset_ms: int,
    gpus: tuple[Gpu, ...] = (),
    use: tuple[DeviceUse, ...] = (),
    redact: Callable[[str], str] = str,
) -> PoolSnapshot:
    """A pool as it is now. ``wall_offset_ms`` turns a moment of the owner's clock into Unix milliseconds.

    ``gpus`` are those of its mask, once NVML has shown them; ``redact`` takes secrets out of the command line.
    """
    engine, model = life.engine, life.model
    model_ctx = model.ctx_max if model is not None else None
    waits = life.state in {PoolState.BACKOFF, PoolState.QUARANTINED} and life.due is not None
    return PoolSnapshot(
        pool_id=pool.id,
        revision=0,
        # What drains to start again comes back by itself, so tasks may wait for it.
        state=PoolState.RELOADING if life.state is PoolState.DRAINING and life.again else life.state,
        replica_id=replica_id(pool.id),
        engine=pool.engine,
        provisioning_mode=pool.mode,
        model_ref=life.model_ref,
        next_model_ref=life.next_ref,
        previous_model_ref=life.previous_ref,
        ctx_max=pool.ctx if model_ctx is None else min(pool.ctx, model_ctx),
        slots=pool.slots,
        engine_version=engine.engine_version if engine is not None else None,
        engine_digest=engine.engine_digest if engine is not None else None,
        model_id=model.id if model is not None else None,
        model_digest=model.digest if model is not None else None,
        endpoint=life.endpoint,
        gates=life.gates,
        last_error=None if life.error is None else _error(life.error, wall_offset_ms),
        restarts=life.restarts,
        retry_at_ms=life.due + wall_offset_ms if waits and life.due is not None else None,
        devices=tuple(gpu.uuid for gpu in gpus) or tuple(map(str, pool.devices)),
        device_use=use,
        sampler_profile_version=pool.sampler_profile_version,
        kv_bytes_per_token=None if model is None else kv_bytes_per_token(model.kv, pool),
        driver_version=gpus[0].driver if gpus else None,
        argv=_argv(pool, life, gpus, redact),
    )


def health(seen: PoolSnapshot) -> PoolHealth:
    """A snapshot as its health page. Queue and running work are the orchestrator's: 0 here."""
    metrics = PoolMetrics(
        queue_depth=0, active=0, slots=seen.slots, vram_free_bytes=seen.vram_free_bytes if seen.device_use else None
    )
    return PoolHealth(
        pool_id=seen.pool_id,
        live=seen.live,
        ready=seen.ready,
        draining=seen.state in {PoolState.DRAINING, PoolState.RELOADING},
        state=seen.state,
        gates=seen.gates,
        restarts=seen.restarts,
        metrics=metrics,
        model_ref=seen.model_ref,
        next_model_ref=seen.next_model_ref,
        last_error=seen.last_error,
        retry_at_ms=seen.retry_at_ms,
    )


def _argv(pool: Pool, life: Life, gpus: tuple[Gpu, ...], redact: Callable[[str], str]) -> tuple[str, ...]:
    """What the engine that runs was started with: one that was taken over is the very one that would be started."""
    if life.endpoint is None or life.engine is None or life.engine.url is not None:
        return ()
    return command_of(launch_in(pool, life.engine, life.model, tuple(gpu.uuid for gpu in gpus)), redact)


def _error(failure: Failure, wall_offset_ms: int) -> PoolError:
    at_ms = failure.at + wall_offset_ms
    return PoolError(cause=failure.cause, message=failure.message, hint=failure.hint, at_ms=at_ms)
