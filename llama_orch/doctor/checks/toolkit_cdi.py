"""Containers get the GPUs of their pools, of the driver that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from container_runtime import cdi
from container_runtime.host import CDI_DIRECTORIES, cdi_files
from llama_orch.doctor.base import Result
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.checks.engine import LIMIT_S, preflights
from llama_orch.doctor.judge import engine, toolkit_cdi
from llama_orch.doctor.machine import Look, Machine
from llama_orch.doctor.nvml import asked
from llama_orch.doctor.runtimes import docker, podman


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    needs = machine.needs
    if not needs.containers or needs.no_gpu is not None:
        return toolkit_cdi.judge((), (), None, needs.containers, needs.no_gpu)
    said = await asked(look)
    files = await asyncio.to_thread(_files, machine)
    found = engine.devices(await preflights(look))
    works = (await podman(look)).detection.usable or (await docker(look)).detection.usable
    version = said.driver.version if said.driver else None
    return toolkit_cdi.judge(files, found, version, needs.containers, needs.no_gpu, runtime=works)


def _files(machine: Machine) -> list[toolkit_cdi.File]:
    folders = tuple(machine.file(str(folder)) for folder in CDI_DIRECTORIES)
    return [_file(machine, offers) for offers in cdi_files(folders)]


def _file(machine: Machine, offers: cdi.CdiFile) -> toolkit_cdi.File:
    path = "/" + str(machine.file(offers.path).relative_to(machine.root)) if machine.root.name else offers.path
    return toolkit_cdi.File(offers=offers, driver=toolkit_cdi.driver_in(machine.text(path)))


CHECK = Check(
    name="toolkit_cdi",
    about="NVIDIA's container toolkit has described the GPUs, of the driver that runs",
    judge=toolkit_cdi,
    run=_run,
    limit_s=LIMIT_S,
)
