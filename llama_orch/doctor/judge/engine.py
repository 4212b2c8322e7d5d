"""Every pool's engine can be had, as the preflight of its provider says.

Decides which check tells which finding: what another check is about, that one tells.
"""

from __future__ import annotations

from collections.abc import Sequence

from contracts.base import Message
from contracts.engines import Finding
from llama_orch.doctor.base import Kind, Result, ok, skipped

CHECK = "engine"

LACKING = Kind(
    id="engine.lacking",
    what="something is in the way of a pool's engine: tools, flags, an image, policy, room",
    why="the pool cannot start its engine",
    mend="as the finding says; llama-orch preflight --pool ID says all of it",
)

TOLD_ELSEWHERE = frozenset({"gpu", "cuda", "container-device", "container-runtime"})
"""The checks driver, gpus, cuda, toolkit_cdi, podman and docker tell these."""
DEVICES = "container-device"
_NO_RUNTIME = "no container runtime works here"


class Seen(Message, frozen=True, kw_only=True):
    """What the preflight of one pool found; ``about`` says which engine it is and where from."""

    pool_id: str
    about: str
    findings: tuple[Finding, ...] = ()


def judge(seen: Sequence[Seen]) -> list[Result]:
    """Each pool in turn."""
    return [result for each in seen for result in _one(each)]


def devices(seen: Sequence[Seen]) -> tuple[Finding, ...]:
    """What was found of the devices of containers, each once."""
    found = (finding for each in seen for finding in each.findings if finding.check == DEVICES)
    return tuple(dict.fromkeys(found))


def _one(seen: Seen) -> list[Result]:
    found = [
        LACKING.found(f"pool {seen.pool_id}: {finding.message}", finding.hint, why=finding.why)
        for finding in seen.findings
        if finding.check not in TOLD_ELSEWHERE and _NO_RUNTIME not in finding.message
    ]
    if not found and seen.findings:
        return [skipped(CHECK, f"pool {seen.pool_id}: another check says what is in the way of {seen.about}")]
    return found or [ok(CHECK, f"pool {seen.pool_id}: {seen.about}")]
