"""Every pool's model is here and can be read, or can be fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from catalog_core.errors import CatalogError
from catalog_core.models import FsModelCatalog
from contracts.config import Mode, Pool
from engine_provisioner.surroundings import model_findings
from llama_orch.doctor.base import Machine, Result, failed, note, ok, skipped
from llama_orch.models.words import OWN, kind_of, ref_text
from model_provisioner import holds

CHECK = "model"


async def check(machine: Machine) -> Sequence[Result]:
    """The model of each pool, as far as its reference, its first bytes and the catalog tell."""
    if machine.config is None or machine.paths is None:
        return [skipped(CHECK)]
    base_dir = machine.config_path.absolute().parent
    catalog = machine.paths.catalog
    return [result for pool in machine.config.pools for result in await _pool(pool, base_dir, catalog)]


async def _pool(pool: Pool, base_dir: Path, catalog: Path) -> list[Result]:
    if pool.mode is Mode.EXTERNAL:
        return [skipped(CHECK, f"pool {pool.id}: its endpoint has the model")]
    findings = await asyncio.to_thread(model_findings, pool, base_dir)
    if findings:
        return [failed(CHECK, finding.message, finding.why, finding.hint) for finding in findings]
    shown = ref_text(pool.model)
    if kind_of(pool.model) == OWN or await asyncio.to_thread(_is_here, pool.model, base_dir, catalog):
        return [ok(CHECK, f"pool {pool.id}: {shown}")]
    later = f"llama-orch models pull {shown} fetches it now, with its progress; else the pool does when it starts"
    return [note(CHECK, f"pool {pool.id}: {shown} is not here yet", later)]


def _is_here(ref: str, base_dir: Path, catalog: Path) -> bool:
    """Whether what the reference means was fetched before. Blocks."""
    try:
        entries = FsModelCatalog(catalog).list()
    except CatalogError:
        return False  # what is wrong with a catalog, the daemons say and mend
    same = (entry for entry in entries if holds.same(entry.ref, ref, PurePosixPath(base_dir)))
    return any(Path(entry.local_path).exists() for entry in same)
