"""NVIDIA's driver is installed, loaded, of one version, and has the card."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Sequence
from pathlib import Path

from llama_orch.doctor.base import Result, skipped
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import driver
from llama_orch.doctor.machine import Look, Machine
from llama_orch.doctor.nvml import Nvml, asked

_NVIDIA = "0x10de"
_DISPLAY = "0x03"
"""The class of graphics cards and 3D controllers begins so."""
_SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


async def _run(look: Look) -> Sequence[Result]:
    machine = look.machine
    if machine.config is None and machine.config_path.exists():
        return [skipped(driver.CHECK)]  # whether it needs a GPU stands in the file that cannot be used
    if machine.needs.no_gpu is not None:
        return [skipped(driver.CHECK, machine.needs.no_gpu)]
    said = await asked(look)
    facts = await asyncio.to_thread(_facts, machine, said)
    return driver.judge(facts, machine.distribution)


def _facts(machine: Machine, said: Nvml) -> driver.Facts:
    modules = (line.split(" ", 1)[0] for line in machine.text("/proc/modules").splitlines())
    return driver.Facts(
        version=said.driver.version if said.driver else None,
        cuda=said.driver.cuda if said.driver else None,
        error=said.error,
        fault=said.fault,
        hangs=said.hangs,
        cards=_cards(machine),
        modules=frozenset(modules),
        module_version=driver.module_version(machine.text("/proc/driver/nvidia/version")),
        # The library that was loaded, also where it then refused: its file has the version in its name.
        library_version=driver.library_version(machine.text("/proc/self/maps")),
        has_module=_has_module(machine),
        secure_boot=machine.text(_SECURE_BOOT).endswith("\x01"),
        uvm=machine.file("/dev/nvidia-uvm").exists(),
        in_container=machine.in_container,
    )


def _cards(machine: Machine) -> tuple[driver.Card, ...]:
    found = []
    for folder in sorted(machine.file("/sys/bus/pci/devices").glob("*")):
        if _line(folder / "vendor") == _NVIDIA and _line(folder / "class").startswith(_DISPLAY):
            link = folder / "driver"
            found.append(driver.Card(address=folder.name, driver=link.resolve().name if link.exists() else None))
    return tuple(found)


def _has_module(machine: Machine) -> bool | None:
    folder = f"/lib/modules/{platform.release()}"
    if not machine.file(folder).is_dir():
        return None
    return "/nvidia.ko" in machine.text(f"{folder}/modules.dep")


def _line(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


CHECK = Check(
    name="driver", about="NVIDIA's driver is loaded, of one version, and has the card", judge=driver, run=_run
)
