"""What else a pool needs beside its engine: its model, its GPUs for itself, a catalog that can be written.

Decides how these are told before an engine is built. Never prepares, fetches or changes anything.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path, PurePosixPath

from contracts.config import Config, Mode, Pool, Profile
from contracts.engines import Finding
from engine_provisioner.gpu_sharing import sharing_findings
from engine_provisioner.gpus import GpuUnavailable
from engine_provisioner.host import Host
from model_provisioner.errors import ModelError
from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.provisioner import preflight


class Surroundings:
    """The other half of a preflight. ``base_dir`` is where relative paths of models start, ``catalog`` a directory."""

    def __init__(self, config: Config, base_dir: Path, catalog: Path, host: Host) -> None:
        self._config = config
        self._base_dir = base_dir
        self._catalog = catalog
        self._host = host

    async def findings(self, pool: Pool) -> tuple[Finding, ...]:
        """All that is in the way of the pool, its engine left out."""
        return (*await self.refusals(pool), *await self.model(pool))

    async def refusals(self, pool: Pool) -> tuple[Finding, ...]:
        """What makes it pointless to prepare the engine."""
        return await asyncio.to_thread(lambda: (*self._shared(pool), *catalog_findings(self._catalog)))

    async def model(self, pool: Pool) -> tuple[Finding, ...]:
        """What is in the way of the pool's model; the engine can be prepared without it."""
        host = self._host
        gate = OutboundGate(policy=host.policy, environ=host.environ)
        return await asyncio.to_thread(model_findings, pool, self._base_dir, host.cache / "models", gate)

    def _shared(self, pool: Pool) -> tuple[Finding, ...]:
        if self._config.profile is not Profile.HOME:
            return ()
        try:
            return sharing_findings(pool, self._config.pools, self._host.gpus())
        except GpuUnavailable:
            return ()  # which the engine's own preflight tells


def model_findings(pool: Pool, base_dir: Path, cache: Path, gate: OutboundGate) -> tuple[Finding, ...]:
    """Why the pool's model cannot be loaded, as far as its reference and its first bytes tell. Blocks.

    ``base_dir`` is absolute, ``cache`` is where fetched models are; of one that is to be fetched the policy decides.
    An external endpoint has its model elsewhere.
    """
    if pool.mode is Mode.EXTERNAL:
        return ()
    try:
        preflight(pool.model, PurePosixPath(base_dir), pool.engine, cache_dir=cache, gate=gate)
    except ModelError as error:
        message = f"pool {pool.id}: {error.message}"
        why = "its engine has nothing to load, so the pool serves nobody"
        return (Finding(check="model", message=message, why=why, hint=error.hint),)
    return ()


def catalog_findings(catalog: Path) -> tuple[Finding, ...]:
    """Whether the engine catalog in this directory, which need not exist yet, can be written. Blocks."""
    there = next(folder for folder in (catalog, *catalog.absolute().parents) if folder.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return ()
    what = "cannot be written" if there.is_dir() else "is no directory"
    message = f"the engine catalog {catalog} cannot be written: {there} {what}"
    why = "no engine is used that is not recorded there"
    return (Finding(check="catalog", message=message, why=why, hint=f"ls -ld {there}; or set paths.data"),)
