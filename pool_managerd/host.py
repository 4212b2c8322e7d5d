"""What the pools of one daemon share, and what they ask of the provisioners.

Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from contracts.config import Engine, Pool, Profile
from contracts.engines import Finding, Plan, PreparedEngine, ResolvedModel
from pool_managerd.condemned import Condemned
from pool_managerd.container import Containers
from pool_managerd.engine_log import Redacts
from pool_managerd.engine_scopes import EngineScopes
from pool_managerd.gpu import Gpus
from pool_managerd.gpu_watch import GpuWatch
from pool_managerd.handles import HandleFiles
from pool_managerd.hub import Hub
from pool_managerd.probe import Prober
from pool_managerd.retired import Retired
from pool_managerd.room import Room
from pool_managerd.taking_over import TakingOver
from pool_managerd.wall_clock import WallClock

Progress = Callable[[str], None]


class Models(Protocol):
    """Brings models to this disk."""

    async def ensure_present(self, ref: str, digest: str | None, progress: Progress, engine: Engine) -> ResolvedModel:
        """The model behind a reference, which this engine can load. Raises StepError."""


class Engines(Protocol):
    """Makes one pool's engine startable."""

    def plan(self, pool: Pool) -> Plan:
        """What ``ensure`` would do. Raises StepError."""

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """What would stop ``ensure``. Raises StepError."""

    async def ensure(self, pool: Pool, progress: Progress) -> PreparedEngine:
        """Do it. Raises StepError."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """What the pools of one daemon share."""

    profile: Profile
    models: Models
    prober: Prober
    gpus: Gpus
    watch: GpuWatch | None
    """None in profile trial, which leaves GPUs alone."""
    condemned: Condemned
    room: Room
    containers: Containers
    scopes: EngineScopes
    files: HandleFiles
    hub: Hub
    redactor: Redacts
    environ: Mapping[str, str]
    boot_id: str
    retired: Retired = field(default_factory=Retired)
    taking_over: TakingOver = field(default_factory=TakingOver)
    wall_clock: WallClock
