"""Pools as pool-managerd reports them and as clients see them.

Decides the names of states, gates and causes. The transitions between states are ``pool_managerd.transitions``'s.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from contracts.base import Message, Strict
from contracts.config import Engine, FullPolicy, Mode, Profile
from contracts.engines import ModelState
from contracts.tasks import Workload


class PoolState(StrEnum):
    """Where a pool's engine is on its way."""

    STOPPED = "stopped"
    STAGING_MODEL = "staging_model"
    ENSURING_ENGINE = "ensuring_engine"
    STARTING = "starting"
    PROBING = "probing"
    READY = "ready"
    DRAINING = "draining"
    RELOADING = "reloading"
    FAILED = "failed"
    BACKOFF = "backoff"
    BROKEN = "broken"
    QUARANTINED = "quarantined"


class GateState(StrEnum):
    """What is known of one readiness gate."""

    PENDING = "pending"
    OK = "ok"
    FAILED = "failed"


class Cause(StrEnum):
    """Why a pool is not ready."""

    MODEL_MISSING = "model_missing"
    MODEL_INVALID = "model_invalid"
    MODEL_DIGEST = "model_digest"
    MODEL_FETCH = "model_fetch"
    MODEL_RETIRED = "model_retired"
    """An operator or a failed verification took the model out of use."""
    POLICY_DENIED = "policy_denied"
    ENGINE_MISSING = "engine_missing"
    ENGINE_FETCH = "engine_fetch"
    ENGINE_BUILD = "engine_build"
    CONTAINER_RUNTIME = "container_runtime"
    ENGINE_EXIT = "engine_exit"
    ENGINE_FLAGS = "engine_flags"
    """The engine does not take an argument: only another configuration mends that."""
    ENGINE_UNHEALTHY = "engine_unhealthy"
    START_TIMEOUT = "start_timeout"
    NO_GPU = "no_gpu"
    """There is no GPU, or the driver shows none of the mask."""
    DRIVER = "driver"
    """The driver is there and does not work, or does not fit what the engine was built for."""
    ON_CPU = "on_cpu"
    """The engine answers, and not from a GPU."""
    WRONG_DEVICE = "wrong_device"
    """The engine uses a GPU that is not in its pool's mask."""
    GPU_LOST = "gpu_lost"
    """A GPU fell off the bus."""
    GPU_ERROR = "gpu_error"
    """A GPU reported a fatal Xid or an uncorrectable memory error."""
    VRAM_SHORT = "vram_short"
    """Refused before the start: the estimate does not fit the VRAM that is free."""
    VRAM_OOM = "vram_oom"
    """The engine ran out of VRAM."""
    RAM_SHORT = "ram_short"
    """Refused before the start: the host has too little memory free."""
    HOST_OOM = "host_oom"
    """The kernel ended the engine for want of memory."""
    INTERNAL = "internal"


class Gates(Message, frozen=True, kw_only=True):
    """The three readiness gates, in order."""

    model: GateState = GateState.PENDING
    engine: GateState = GateState.PENDING
    health: GateState = GateState.PENDING


class PoolError(Message, frozen=True, kw_only=True):
    """The last thing that went wrong in a pool, with its mend. ``at_ms`` is Unix milliseconds."""

    cause: Cause
    message: str
    hint: str | None = None
    at_ms: int = 0


class Endpoint(Message, frozen=True, kw_only=True):
    """Where a running engine is reached. Travels over the Unix socket only; the key never reaches a disk or a log."""

    url: str
    """``http://127.0.0.1:PORT``, without a trailing slash."""
    api_key: str | None = None

    def __repr__(self) -> str:
        return f"Endpoint(url={self.url!r}, api_key={'***' if self.api_key else None})"


class DeviceUse(Message, frozen=True, kw_only=True):
    """One GPU of a pool's mask, in bytes and as a ratio of 0 to 1."""

    device: str
    vram_total_bytes: int
    vram_used_bytes: int
    utilization: float | None = None


class PoolSnapshot(Message, frozen=True, kw_only=True):
    """All that pool-managerd knows of a pool; sent whole at every change, with a revision that only grows."""

    pool_id: str
    revision: int
    state: PoolState
    replica_id: str
    engine: Engine
    provisioning_mode: Mode
    model_ref: str
    ctx_max: int
    slots: int
    next_model_ref: str | None = None
    """What a reload is preparing beside the model that serves."""
    engine_version: str | None = None
    engine_digest: str | None = None
    model_id: str | None = None
    model_digest: str | None = None
    model_state: ModelState | None = None
    """What the catalog says of the model that serves; None where none of ours does."""
    previous_model_ref: str | None = None
    """What a reload goes back to where the new model fails."""
    endpoint: Endpoint | None = None
    gates: Gates = Gates()
    last_error: PoolError | None = None
    restarts: int = 0
    retry_at_ms: int | None = None
    devices: tuple[str, ...] = ()
    device_use: tuple[DeviceUse, ...] = ()
    sampler_profile_version: str = "v1"
    kv_bytes_per_token: int | None = None
    """What one more token of a conversation takes in the KV cache; None where the model does not say."""
    driver_version: str | None = None
    """Of the NVIDIA driver; None without one."""
    argv: tuple[str, ...] = ()
    """What the engine was started with, without secrets; empty for one that somebody else started."""

    @property
    def ready(self) -> bool:
        """All three gates hold and new tasks may be sent."""
        return self.state is PoolState.READY

    @property
    def live(self) -> bool:
        """An engine process or endpoint exists."""
        return self.endpoint is not None

    @property
    def vram_free_bytes(self) -> int:
        """Free VRAM over the devices of the mask; 0 where it is not known."""
        return sum(use.vram_total_bytes - use.vram_used_bytes for use in self.device_use)


class QueueInfo(Message, frozen=True, kw_only=True):
    """A pool's queue right now."""

    capacity: int
    policy: FullPolicy
    depth: int
    batch_share: float = 0.0
    """While both priorities wait, at least this share of the starts goes to batch."""


class PoolMetrics(Message, frozen=True, kw_only=True):
    """What the pool's health page adds to its state."""

    queue_depth: int
    active: int
    slots: int
    vram_free_bytes: int | None = None
    devices: tuple[DeviceUse, ...] = ()
    """The GPUs of the pool's mask as they were last looked at; none without NVML."""


class PoolHealth(Message, frozen=True, kw_only=True):
    """``GET /v1/pools/{id}/health``."""

    pool_id: str
    live: bool
    ready: bool
    draining: bool
    state: PoolState
    gates: Gates
    restarts: int
    metrics: PoolMetrics
    model_ref: str | None = None
    next_model_ref: str | None = None
    """What a reload is preparing beside the model that serves."""
    last_error: PoolError | None = None
    retry_at_ms: int | None = None
    managed: bool = True
    """False while pool-managerd cannot be reached: this is what it said last, and what runs goes on."""


class PoolList(Message, frozen=True, kw_only=True):
    """``GET /v1/pools``. ``managed`` is false while pool-managerd cannot be reached: this is what it said last."""

    pools: tuple[PoolHealth, ...]
    managed: bool
    notices: tuple[str, ...] = ()
    """What an operator should know although everything runs: an index that had to be rebuilt."""


class StrictInfo(Message, frozen=True, kw_only=True):
    """Whether a pool takes tasks of strict determinism."""

    available: bool
    why: str | None = None
    """What such a task is refused with, or what it would wait for; null where it is available."""
    hint: str | None = None
    replica_set: str | None = None
    """Pools with the same one give the same answers, and a strict task waits for pools of one alone."""


class Capability(Message, frozen=True, kw_only=True):
    """What one pool can do, as discovered from its running engine."""

    pool_id: str
    engine: Engine
    provisioning_mode: Mode
    model_ref: str
    ctx_max: int
    slots: int
    workloads: tuple[Workload, ...]
    features: tuple[str, ...]
    sampler_profile_version: str
    queue: QueueInfo
    devices: tuple[str, ...]
    ready: bool
    engine_version: str | None = None
    engine_digest: str | None = None
    model_id: str | None = None
    model_digest: str | None = None
    strict: StrictInfo | None = None


class PolicyInfo(Message, frozen=True, kw_only=True):
    """The policies that are in force."""

    outbound_default: str
    allow_package_installs: bool
    allow_binary_downloads: bool
    hook: bool = False
    """Whether an executable of the operator's is asked as well."""


class LimitInfo(Message, frozen=True, kw_only=True):
    """What one client may ask for; null where there is no such limit."""

    max_body_bytes: int
    max_streams_per_client: int
    keep_finished: int
    """How many finished tasks can still be read."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class SessionPolicy(Message, frozen=True, kw_only=True):
    """How long a session lives, and what its turns may use up together; null where there is no budget."""

    ttl_ms: int
    max_turns: int
    max_sessions: int
    token_budget: int | None = None
    time_budget_ms: int | None = None


class ArtifactPolicy(Message, frozen=True, kw_only=True):
    """What is kept of artifacts, and whether tasks leave records among them."""

    max_bytes: int
    max_age_ms: int
    records: bool


class Capabilities(Message, frozen=True, kw_only=True):
    """``GET /v1/capabilities``."""

    api_version: str
    profile: Profile
    policies: PolicyInfo
    pools: tuple[Capability, ...]
    limits: LimitInfo | None = None
    sessions: SessionPolicy | None = None
    artifacts: ArtifactPolicy | None = None
    version: str | None = None
    """The version of llama-orch that orchestratord has run since it was started."""


class Gpu(Message, frozen=True, kw_only=True):
    """One NVIDIA GPU as NVML reports it; sizes in bytes, utilization 0 to 1."""

    index: int
    uuid: str
    name: str
    vram_total_bytes: int
    vram_used_bytes: int
    driver: str
    utilization: float | None = None
    compute_capability: str | None = None
    """Such as ``8.6``; None where the driver does not tell."""


MAX_DEADLINE_MS = 86_400_000
Deadline = Annotated[int, Meta(ge=0, le=MAX_DEADLINE_MS)]
"""How long work that runs may go on, in milliseconds, when its engine is to end."""


class DrainRequest(Strict, frozen=True, kw_only=True):
    """``POST /v1/pools/{id}/drain``: running work may finish until the deadline, then the engine stops."""

    deadline_ms: Deadline = 30_000


class ReloadRequest(Strict, frozen=True, kw_only=True):
    """``POST /v1/pools/{id}/reload``: once the new engine serves, work on the old one may finish until the deadline."""

    new_model_ref: Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"\S")]
    deadline_ms: Deadline = 30_000


API_VERSION = "1.0"
