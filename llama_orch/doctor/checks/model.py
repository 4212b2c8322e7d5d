"""Every pool's model is here and can be read, or may be fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from contracts.config import Mode
from engine_provisioner.surroundings import model_findings
from llama_orch.doctor.base import Machine, Result, failed, ok, skipped
from model_provisioner.outbound_gate import OutboundGate

CHECK = "model"


async def check(machine: Machine) -> Sequence[Result]:
    """The model of each pool, as far as its reference and its first bytes tell."""
    if machine.config is None or machine.paths is None:
        return [skipped(CHECK)]
    gate = OutboundGate(policy=machine.config.policy, environ=machine.environ)
    base_dir = machine.config_path.absolute().parent
    results: list[Result] = []
    for pool in machine.config.pools:
        if pool.mode is Mode.EXTERNAL:
            results.append(skipped(CHECK, f"pool {pool.id}: its endpoint has the model"))
            continue
        findings = await asyncio.to_thread(model_findings, pool, base_dir, machine.paths.models, gate)
        results += [failed(CHECK, finding.message, finding.why, finding.hint) for finding in findings]
        if not findings:
            results.append(ok(CHECK, f"pool {pool.id}: {pool.model}"))
    return results
