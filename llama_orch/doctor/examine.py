"""Runs the checks.

Decides that they run side by side, each for as long as it may, and that none of them stops another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from llama_orch.doctor.base import Result, Status, skipped
from llama_orch.doctor.checks import CHECKS
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.machine import Look, Machine, Unwaited

NO_ANSWER = "no-answer"
"""Behind a check's name: it was not over in time. Any check may end so."""


async def examine(machine: Machine, checks: Sequence[Check] = CHECKS) -> tuple[Result, ...]:
    """Every check's results, in the order of the checks."""
    look = Look(machine)
    try:
        results = await asyncio.gather(*(_one(check, look) for check in checks))
    finally:
        await look.close()
    return tuple(result for each in results for result in each)


async def examine_bounded(machine: Machine, checks: Sequence[Check] = CHECKS) -> tuple[Result, ...]:
    """As ``examine``, for a program that ends afterwards also where a driver or a disk hangs."""
    asyncio.get_running_loop().set_default_executor(Unwaited())
    return await examine(machine, checks)


async def _one(check: Check, look: Look) -> Sequence[Result]:
    try:
        async with asyncio.timeout(check.limit_s):
            return await check.run(look)
    except TimeoutError:
        text = f"it was not over after {check.limit_s:g} s"
        why = "a program, a disk or a driver that it asked does not answer, and would hold up the daemons as well"
        mend = (
            "journalctl -b -p warning shows what the kernel complains of; a network disk that is away is the usual one"
        )
        return [
            Result(
                check=check.name,
                id=f"{check.name}.{NO_ANSWER}",
                status=Status.FAILED,
                what=text,
                why=why,
                mend=mend,
            )
        ]
    except Exception as error:  # noqa: BLE001 - whatever a strange machine answers, the other checks go on
        return [skipped(check.name, f"this check failed itself: {type(error).__name__}: {error}")]
