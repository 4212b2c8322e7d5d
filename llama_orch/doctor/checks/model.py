"""Every pool's model is here and can be read, or may be fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

from catalog_core.errors import CatalogError
from catalog_core.models import FsModelCatalog
from contracts.config import Config, Mode, Pool
from contracts.engines import ModelEntry
from daemon_core.paths import Paths
from engine_provisioner.surroundings import model_findings
from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import model
from llama_orch.doctor.machine import Look
from llama_orch.models.words import ref_text
from model_provisioner import local, reference
from model_provisioner.errors import ModelError
from model_provisioner.outbound_gate import OutboundGate


async def models(look: Look) -> tuple[tuple[Pool, model.Seen], ...]:
    """What is seen of each pool's model. Looked at once."""
    return await look.once("models", lambda: _models(look))


async def _models(look: Look) -> tuple[tuple[Pool, model.Seen], ...]:
    machine = look.machine
    config, paths = machine.config, machine.paths
    if config is None or paths is None:
        return ()
    gate = OutboundGate(policy=config.policy, environ=machine.environ)
    base = machine.config_path.absolute().parent
    return await asyncio.to_thread(_seen, config, base, paths, gate)


def _seen(config: Config, base: Path, paths: Paths, gate: OutboundGate) -> tuple[tuple[Pool, model.Seen], ...]:
    try:
        entries = FsModelCatalog(paths.catalog).list()
    except CatalogError:
        entries = ()  # what is wrong with a catalog, the daemons say and mend
    return tuple((pool, _one(pool, base, paths, gate, tuple(entries))) for pool in config.pools)


def _one(pool: Pool, base: Path, paths: Paths, gate: OutboundGate, entries: tuple[ModelEntry, ...]) -> model.Seen:
    if pool.mode is Mode.EXTERNAL:
        return model.Seen(elsewhere=True)
    shown = ref_text(pool.model)
    if findings := model_findings(pool, base, paths.models, gate):
        return model.Seen(shown=shown, findings=findings)
    place = reference.parse(pool.model, PurePosixPath(base))
    if isinstance(place, reference.LocalFile):
        trained = None
        with suppress(ModelError):  # which is among the findings
            trained = local.inspect(place.path).facts.ctx_max
        return model.Seen(shown=shown, here=True, trained=trained)
    entry = next(
        (each for each in entries if each.ref == reference.shown(place) and Path(each.local_path).exists()), None
    )
    return model.Seen(shown=shown, here=entry is not None, trained=entry.ctx_max if entry else None)


async def _run(look: Look) -> Sequence[Result]:
    if look.machine.config is None or look.machine.paths is None:
        return [skipped(model.CHECK)]
    return model.judge(await models(look))


CHECK = Check(
    name="model",
    about="every pool's model is here or may be fetched, and was trained for its ctx",
    judge=model,
    run=_run,
)
