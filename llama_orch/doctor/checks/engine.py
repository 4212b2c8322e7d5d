"""Every pool's engine can be had."""

from __future__ import annotations

from collections.abc import Sequence

from catalog_core.engines import FsEngineCatalog
from contracts.config import Pool, Profile
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host
from engine_provisioner.registry import provider_for
from llama_orch.doctor.base import Machine, Result, failed, ok, skipped

CHECK = "engine"
WHY = "the pool cannot start its engine"
GPU_CHECK = "gpu"
"""What the preflight says of GPUs, the check before this one has said."""


async def check(machine: Machine) -> Sequence[Result]:
    """The preflight of each pool's engine; it changes nothing."""
    if machine.config is None or machine.paths is None:
        return [skipped(CHECK)]
    paths = machine.paths
    host = Host(
        environ=machine.environ,
        catalog=FsEngineCatalog(paths.catalog),
        cache=paths.cache,
        policy=machine.config.policy,
    )
    results: list[Result] = []
    for pool in machine.config.pools:
        results += await _preflight(pool, machine.config.profile, host)
    return results


async def _preflight(pool: Pool, profile: Profile, host: Host) -> list[Result]:
    try:
        findings = await provider_for(pool, profile, host).preflight(pool)
    except ProvisionError as error:
        return [failed(CHECK, f"pool {pool.id}: {error.message}", WHY, error.hint)]
    found = [
        failed(CHECK, f"pool {pool.id}: {finding.message}", finding.why, finding.hint)
        for finding in findings
        if finding.check != GPU_CHECK
    ]
    return found or [ok(CHECK, f"pool {pool.id}: {pool.engine}, mode {pool.mode}")]
