"""The units find the programs that this shell finds."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace

from contracts.config import Mode, Pool, Profile
from engine_provisioner.plan import SERVER
from engine_provisioner.toolchain import find_toolkit
from llama_orch.doctor.base import Result
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import environment
from llama_orch.doctor.machine import Look, Machine
from llama_orch.doctor.services import services

_BUILD = ("git", "cmake", "c++")


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    seen = await services(look)
    there = seen.environment
    programs = await asyncio.to_thread(_programs, machine, there) if there is not None else []
    return environment.judge(machine.environ, there, programs, machine.needs.keys, installed=seen.installed)


def _programs(machine: Machine, there: Mapping[str, str]) -> list[environment.Program]:
    names = _names(machine)
    found = [
        environment.Program(name=name, here=_which(name, machine.environ), there=_which(name, there)) for name in names
    ]
    needs = machine.needs
    if needs.builds and needs.no_gpu is None:
        # The compiler of CUDA is also looked for where it usually lies.
        places = (find_toolkit(replace(machine.host, environ=environ)) for environ in (machine.environ, there))
        here, elsewhere = (toolkit.nvcc if toolkit else None for toolkit in places)
        found.append(environment.Program(name="nvcc", here=here, there=elsewhere))
    return found


def _names(machine: Machine) -> list[str]:
    """The programs that the pools need, by the names under which they are looked for."""
    config = machine.config
    if config is None:
        return []
    names: list[str] = []
    for pool in config.pools:
        container = ("podman", "docker")
        if pool.mode is Mode.SOURCE:
            names += _BUILD
        elif pool.mode is Mode.CONTAINER:
            names += container[:1] if machine.which(container[0]) else container[1:]
        elif (pool.mode is Mode.PACKAGE and config.profile is Profile.HOME) or _is_named(pool):
            names.append(SERVER)
    return list(dict.fromkeys(names))


def _is_named(pool: Pool) -> bool:
    """Whether its engine is whatever llama-server is on PATH."""
    binary = pool.provisioning.binary
    return pool.mode is Mode.BINARY and (binary is None or not (binary.path or binary.url))


def _which(name: str, environ: Mapping[str, str]) -> str | None:
    return shutil.which(name, path=environ.get("PATH", os.defpath))


CHECK = Check(
    name="environment",
    about="the units find the programs and variables that this shell has",
    judge=environment,
    run=_run,
)
