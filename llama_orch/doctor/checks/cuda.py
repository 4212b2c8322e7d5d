"""The CUDA toolkit fits the driver and the compiler."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

from engine_provisioner import cuda as provisioned
from engine_provisioner.toolchain import find_toolkit
from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import cuda
from llama_orch.doctor.machine import Look, Machine
from llama_orch.doctor.nvml import Nvml, asked

_NAMED = ("NVCC_CCBIN", "CUDAHOSTCXX", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")
"""With one of these another compiler is taken, or any."""


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    needs = machine.needs
    if needs.no_gpu is not None:
        return [skipped(cuda.CHECK, needs.no_gpu)]
    facts = await _facts(machine, await asked(look)) if needs.builds else cuda.Facts()
    return cuda.judge(facts, needs.builds, machine.distribution)


async def _facts(machine: Machine, said: Nvml) -> cuda.Facts:
    toolkit = await asyncio.to_thread(find_toolkit, machine.host)
    if toolkit is None:
        return cuda.Facts()
    answered = await machine.run(toolkit.nvcc, "--version")
    gcc = None
    if not any(machine.environ.get(name) for name in _NAMED):
        version = await machine.run(machine.environ.get("CXX", "").partition(" ")[0] or "g++", "-dumpfullversion")
        found = re.match(r"(\d+)\.\d+\.\d+\s*$", version.output) if version else None
        gcc = int(found[1]) if found else None
    return cuda.Facts(
        nvcc=toolkit.nvcc,
        release=provisioned.release_in(answered.output) if answered else None,
        driver=said.driver,
        gcc=gcc,
        newest_gcc=await asyncio.to_thread(_newest_gcc, toolkit),
    )


def _newest_gcc(toolkit: provisioned.Toolkit) -> int | None:
    roots = (toolkit.root, provisioned.root_of(toolkit.nvcc), provisioned.root_of(str(Path(toolkit.nvcc).resolve())))
    for root in filter(None, roots):
        header = Path(root, "include/crt/host_config.h")
        if header.is_file():
            return cuda.newest_gcc(header.read_text(encoding="utf-8", errors="replace"))
    return None


CHECK = Check(name="cuda", about="the CUDA toolkit fits the driver and the compiler", judge=cuda, run=_run)
