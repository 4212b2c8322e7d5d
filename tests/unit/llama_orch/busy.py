"""A busy house for whoever shows one: GPUs, pools in trouble, many tasks, names that want to drive a terminal."""

from contracts.pools import Cause, DeviceUse, Gates, PoolError, PoolHealth, PoolMetrics, PoolState
from contracts.tasks import Priority, TaskState, TaskStatus, Workload

GIB = 1 << 30
NOW_MS = 1_800_000_000_000
SERIES = """\
# HELP tasks_rejected_total Tasks that were refused
tasks_rejected_total{engine="llamacpp",reason="queue_full"} 12.0
tasks_rejected_total{engine="vllm",reason="queue_full"} 3.0
tasks_rejected_total{engine="llamacpp",reason="deadline"} 2.0
tasks_rejected_total{engine="llamacpp",reason="never"} 0.0
tasks_canceled_total{engine="llamacpp",engine_version="b1",pool_id="gpu0",replica_id="gpu0-0",reason="client"} 4.0
engine_restarts_total{pool_id="gpu1",cause="engine_exit"} 2.0
tokens_out_total{engine="llamacpp",engine_version="b1",pool_id="gpu0",replica_id="gpu0-0"} 123456.0
tokens_out_total{engine="vllm",engine_version="0.9",pool_id="gpu1",replica_id="gpu1-0"} NaN.
"""


def pool(pool_id: str, state: PoolState = PoolState.READY, **more: object) -> PoolHealth:
    chosen: dict[str, object] = {
        "metrics": PoolMetrics(queue_depth=0, active=0, slots=4),
        "model_ref": "hf:bartowski/Qwen2.5-14B-Instruct-GGUF/Qwen2.5-14B-Instruct-Q4_K_M.gguf",
        "restarts": 0,
    }
    ready = state is PoolState.READY
    return PoolHealth(
        pool_id=pool_id,
        state=state,
        live=ready,
        ready=ready,
        draining=False,
        gates=Gates(),
        **(chosen | more),  # type: ignore[arg-type]
    )


def use(index: int, used: float, total: float, utilization: float | None) -> DeviceUse:
    return DeviceUse(
        device=f"GPU-{index:08d}-1111-2222-3333-444444444444",
        vram_used_bytes=int(used * GIB),
        vram_total_bytes=int(total * GIB),
        utilization=utilization,
    )


def pools(queued: int = 996) -> tuple[PoolHealth, ...]:
    large, small = use(0, 21.5, 24, 0.97), use(1, 3.2, 12, 0.04)
    error = PoolError(
        cause=Cause.ENGINE_EXIT, message="status 1\x1b[2J\nbad \x1b]0;title\x07things", hint="read the log"
    )
    return (
        pool("gpu0", metrics=PoolMetrics(queue_depth=queued, active=4, slots=4, devices=(large,))),
        pool(
            "gpu1",
            PoolState.BACKOFF,
            restarts=2,
            last_error=error,
            metrics=PoolMetrics(queue_depth=0, active=0, slots=1, devices=(small,)),
        ),
        pool("a-pool-with-a-name-that-is-rather-long-for-a-terminal", PoolState.ENSURING_ENGINE, model_ref=None),
        pool("日本語のプール", PoolState.STOPPED, next_model_ref="hf:org/repo/次のモデル.gguf"),
    )


def tasks(count: int = 1000, now_ms: int = NOW_MS, tokens: int = 100) -> tuple[TaskStatus, ...]:
    """Newest first, as the daemon tells them: four run, the others wait."""
    return tuple(task(number, now_ms, tokens) for number in reversed(range(count)))


def task(number: int, now_ms: int = NOW_MS, tokens: int = 100) -> TaskStatus:
    runs = number < 4
    return TaskStatus(
        task_id=f"task-{number:024d}" if number else "さくら-\x1b[31mtask",
        job_id="j",
        state=TaskState.RUNNING if runs else TaskState.QUEUED,
        priority=Priority.BATCH if number % 2 else Priority.INTERACTIVE,
        workload=Workload.COMPLETION,
        model_ref="hf:bartowski/Qwen2.5-14B-Instruct-GGUF/Qwen2.5-14B-Instruct-Q4_K_M.gguf",
        created_ms=now_ms - 60_000 + number,
        queue_position=None if runs else number - 4,
        pool_id="gpu0" if runs else None,
        first_token_ms=10_000 if runs else None,
        tokens_out=tokens * number if runs else None,
    )
