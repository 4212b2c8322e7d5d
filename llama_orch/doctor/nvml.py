"""Asks NVIDIA's driver once for everything that checks want to know of it.

Decides nothing. A driver that hangs hangs a thread that nobody waits for.
"""

from __future__ import annotations

import asyncio

import pynvml

from contracts.base import Message
from contracts.pools import Gpu
from engine_provisioner.cuda import Driver
from engine_provisioner.gpu_faults import DriverFault, driver_fault, no_answer
from engine_provisioner.gpus import GpuUnavailable
from engine_provisioner.nvml import Survey, connected, driver, survey
from llama_orch.doctor.machine import Look

ANSWER_S = 5.0
"""A GPU that sleeps takes a second."""


class Nvml(Message, frozen=True, kw_only=True):
    """What the driver said."""

    seen: Survey = Survey()
    driver: Driver | None = None
    error: int | None = None
    fault: DriverFault | None = None
    """Why it said nothing."""
    hangs: bool = False

    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that work, as providers ask for them. Raises GpuUnavailable."""
        if self.fault is not None:
            raise GpuUnavailable(self.fault.message, self.fault.hint)
        if self.seen.lost and not self.seen.gpus:
            raise GpuUnavailable("; ".join(gpu.message for gpu in self.seen.lost), self.seen.lost[0].hint)
        return self.seen.gpus


async def asked(look: Look) -> Nvml:
    """The driver's answer, asked for once."""
    return await look.once("nvml", _ask)


async def _ask() -> Nvml:
    try:
        async with asyncio.timeout(ANSWER_S):
            return await asyncio.to_thread(_look)
    except TimeoutError:
        return Nvml(hangs=True, fault=no_answer(ANSWER_S))


def _look() -> Nvml:
    try:
        with connected():
            return Nvml(seen=survey(), driver=driver())
    except pynvml.NVMLError as error:
        return Nvml(error=error.value, fault=driver_fault(error.value, str(error)))
