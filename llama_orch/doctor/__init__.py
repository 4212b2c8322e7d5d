"""What must hold on this machine before anything works: a file per check.

Decides the order of the checks. Never mends anything: it says what does.
"""

from __future__ import annotations

from llama_orch.doctor.base import Machine, Result, Status
from llama_orch.doctor.checks import CHECKS

__all__ = ["Machine", "Result", "Status", "examine"]


async def examine(machine: Machine) -> tuple[Result, ...]:
    """Every check's results, in order. One check's failure stops no other."""
    results: list[Result] = []
    for check in CHECKS:
        results += await check(machine)
    return tuple(results)
