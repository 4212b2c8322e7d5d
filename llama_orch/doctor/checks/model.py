"""Every pool's model is here and can be read, or may be fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from catalog_core.errors import CatalogError
from catalog_core.models import FsModelCatalog
from contracts.config import Mode, Pool
from daemon_core.paths import Paths
from engine_provisioner.surroundings import model_findings
from llama_orch.doctor.base import Machine, Result, failed, note, ok, skipped
from llama_orch.models.words import ref_text
from model_provisioner import reference
from model_provisioner.outbound_gate import OutboundGate

CHECK = "model"


async def check(machine: Machine) -> Sequence[Result]:
    """The model of each pool, as far as its reference and its first bytes tell."""
    if machine.config is None or machine.paths is None:
        return [skipped(CHECK)]
    gate = OutboundGate(policy=machine.config.policy, environ=machine.environ)
    base_dir = machine.config_path.absolute().parent
    pools, paths = machine.config.pools, machine.paths
    return [result for pool in pools for result in await _pool(pool, base_dir, paths, gate)]


async def _pool(pool: Pool, base_dir: Path, paths: Paths, gate: OutboundGate) -> list[Result]:
    if pool.mode is Mode.EXTERNAL:
        return [skipped(CHECK, f"pool {pool.id}: its endpoint has the model")]
    findings = await asyncio.to_thread(model_findings, pool, base_dir, paths.models, gate)
    if findings:
        return [failed(CHECK, finding.message, finding.why, finding.hint) for finding in findings]
    shown = ref_text(pool.model)
    if await asyncio.to_thread(_is_here, pool.model, base_dir, paths.catalog):
        return [ok(CHECK, f"pool {pool.id}: {shown}")]
    later = f"llama-orch models pull {shown} fetches it now and shows how far it is; else the pool does when it starts"
    return [note(CHECK, f"pool {pool.id}: {shown} is not here yet", later)]


def _is_here(ref: str, base_dir: Path, catalog: Path) -> bool:
    """Whether a reference in which there is nothing wrong means a file, or one that was fetched. Blocks."""
    place = reference.parse(ref, PurePosixPath(base_dir))
    if isinstance(place, reference.LocalFile):
        return True
    try:
        entries = FsModelCatalog(catalog).list()
    except CatalogError:
        return False  # what is wrong with a catalog, the daemons say and mend
    return any(entry.ref == reference.shown(place) and Path(entry.local_path).exists() for entry in entries)
