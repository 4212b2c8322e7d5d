"""Every pool's engine can be had."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from container_runtime.base import Redact
from container_runtime.choose import Choice
from contracts.config import Config, Mode, Pool
from contracts.engines import Finding
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host
from engine_provisioner.providers.container import ContainerProvider
from engine_provisioner.registry import provider_for
from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import engine
from llama_orch.doctor.machine import Look
from llama_orch.doctor.nvml import asked
from llama_orch.doctor.runtimes import chosen

PREFLIGHT_S = 15.0
"""It asks compilers how they are, and starts a container to see the GPUs from inside."""
LIMIT_S = 25.0


async def preflights(look: Look) -> tuple[engine.Seen, ...]:
    """What the preflight of each pool's engine finds; it changes nothing. Done once."""
    return await look.once("preflights", lambda: _preflights(look))


async def _preflights(look: Look) -> tuple[engine.Seen, ...]:
    config = look.machine.config
    if config is None:
        return ()
    said = await asked(look)
    host = replace(look.machine.host, gpus=said.gpus, driver=lambda: said.driver)
    return tuple(await asyncio.gather(*(_preflight(look, pool, config, host) for pool in config.pools)))


async def _preflight(look: Look, pool: Pool, config: Config, host: Host) -> engine.Seen:
    about = f"{pool.engine}, mode {pool.mode}"
    try:
        async with asyncio.timeout(PREFLIGHT_S):
            found = await _found(look, pool, config, host)
    except ProvisionError as error:
        why = "the pool cannot start its engine"
        found = (Finding(check="engine", message=error.message, why=why, hint=error.hint),)
    except TimeoutError:
        text = f"its preflight did not end within {PREFLIGHT_S:g} s"
        why = "what holds it up here holds the pool up, too"
        found = (Finding(check="engine", message=text, why=why, hint=f"llama-orch preflight --pool {pool.id}"),)
    return engine.Seen(pool_id=pool.id, about=about, findings=found)


async def _found(look: Look, pool: Pool, config: Config, host: Host) -> tuple[Finding, ...]:
    provider = provider_for(pool, config.profile, host)
    if pool.mode is Mode.CONTAINER:

        async def choose(_environ: Mapping[str, str], _redact: Redact) -> Choice:
            return await chosen(look)  # which was asked already, and for a few seconds only

        provider = ContainerProvider(host, config.profile, choose)
    return await provider.preflight(pool)


async def _run(look: Look) -> Sequence[Result]:
    if look.machine.config is None or look.machine.paths is None:
        return [skipped(engine.CHECK)]
    return engine.judge(await preflights(look))


CHECK = Check(
    name="engine", about="every pool's engine can be had: its preflight", judge=engine, run=_run, limit_s=LIMIT_S
)
