"""A llama-server that the distribution's package manager installs.

Decides when a missing one may be installed: on Arch-like systems, by pacman, where policy allows it, and with the
rights that llama-orch has anyhow. Never escalates them and never runs another package manager: elsewhere the error
gives the operator that system's own command. Never leaves an install half done: who gives it up waits until pacman has
ended. Which version is there, the caller asks the program.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine

from contracts.config import Package, Pool
from contracts.engines import Finding
from contracts.pools import Cause
from engine_provisioner.base import Checklist, Progress
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import CommandError, CommandResult, Host
from engine_provisioner.packages import (
    NAME_RULE,
    PACMAN,
    Family,
    family_of,
    install_hint,
    is_package_name,
    pacman_install,
)
from engine_provisioner.plan import SERVER, StepKind
from engine_provisioner.providers.native import Program, engine_finding

_log = logging.getLogger(__name__)

INSTALL_S = 3600.0
"""How long pacman may take: it downloads, and it must not be ended in the middle."""
FINISH_S = 900.0
"""How long one that was given up may still take; what has not ended then hangs."""
POLICY_LINE = "policy.allow_package_installs: true"


class PackageSource:
    """Finds the llama-server on PATH, and has a missing one installed where that is allowed."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """See Source."""
        try:
            package = _package_of(pool)
            if await self.present(pool) is None:
                self._require_installable(package)
        except ProvisionError as error:
            return (engine_finding(error),)
        return ()

    async def present(self, pool: Pool) -> Program | None:
        """See Source."""
        return await asyncio.to_thread(self._locate, _package_of(pool))

    async def obtain(self, pool: Pool, steps: Checklist, progress: Progress) -> Program:
        """See Source."""
        package = _package_of(pool)
        steps.begin(StepKind.FIND)
        program = await self.present(pool)
        steps.begin(StepKind.INSTALL)
        if program is not None:
            progress(f"{program.argv[0]} is installed")
            return program
        self._require_installable(package)
        await self._install(package, progress)
        program = await self.present(pool)
        if program is None:
            text = f"{package.name} is installed, and there is still no {SERVER} on PATH"
            hint = f"set provisioning.package.name to the package that has {SERVER}: pacman -F {SERVER}"
            raise ProvisionError(Cause.ENGINE_MISSING, text, hint)
        return program

    def _locate(self, package: Package) -> Program | None:
        path = self._host.which(SERVER)
        if path is None:
            return None
        return Program(
            argv=(str(path.absolute()),),
            digest_of=path.resolve(),
            wanted_version=package.version,
            missing_hint=install_hint(package.name, self._host.distribution()),
        )

    def _require_installable(self, package: Package) -> None:
        """See that the missing package may be installed from here. Raises ProvisionError with the command."""
        distribution = self._host.distribution()
        command = install_hint(package.name, distribution)
        missing = f"there is no {SERVER} on PATH"
        if family_of(distribution) is not Family.ARCH:
            hint = f"{command} (for you to run: llama-orch installs packages on Arch-like systems only)"
            raise ProvisionError(Cause.ENGINE_MISSING, missing, hint)
        if not self._host.policy.allow_package_installs:
            text = f"{missing}, and policy does not allow to install {package.name}"
            raise ProvisionError(Cause.POLICY_DENIED, text, f"set {POLICY_LINE}, or run: {command}")
        if self._host.which(PACMAN) is None:
            text = f"{missing}, and no {PACMAN} either that could install {package.name}"
            raise ProvisionError(Cause.ENGINE_MISSING, text, f"put {PACMAN} on PATH, or run: {command}")

    async def _install(self, package: Package, progress: Progress) -> None:
        """Run pacman with the rights that we have. Raises ProvisionError."""
        argv = pacman_install(package.name)
        command = install_hint(package.name, self._host.distribution())
        by_hand = f"run it yourself, llama-orch takes no other rights: {command}"
        line = " ".join(argv)
        _log.info("installing a package: %s (allowed by %s)", line, POLICY_LINE, extra={"package": package.name})
        progress(f"running {line}")
        try:
            running = self._host.run(argv, timeout_s=INSTALL_S, env={"LC_ALL": "C"})
            result = await _finished(running, lambda: progress(f"waiting until {PACMAN} has ended"), FINISH_S)
        except CommandError as error:
            raise ProvisionError(Cause.ENGINE_FETCH, str(error), by_hand) from error
        if result.status != 0:
            text = f"{line} ended with status {result.status}: {result.last_line}"
            raise ProvisionError(Cause.ENGINE_FETCH, text, by_hand)


async def _finished(
    running: Coroutine[None, None, CommandResult], waiting: Callable[[], None], patience_s: float
) -> CommandResult:
    """The result. A caller that is cancelled stays until it is there, for so long, and is cancelled only then."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(running)
    given_up = False
    deadline = math.inf
    while not task.done() and loop.time() < deadline:
        try:
            await asyncio.wait({task}, timeout=deadline - loop.time() if given_up else None)
        except asyncio.CancelledError:
            if not given_up:
                given_up, deadline = True, loop.time() + patience_s
                waiting()
    if not given_up:
        return await task
    task.cancel()
    await asyncio.wait({task})
    raise asyncio.CancelledError


def _package_of(pool: Pool) -> Package:
    """The package that the pool names. Raises ProvisionError."""
    package = pool.provisioning.package
    if package is None:
        text = f"pool {pool.id} has no provisioning.package"
        raise ProvisionError(Cause.ENGINE_MISSING, text, 'package: {name: "llama.cpp"}')
    if not is_package_name(package.name):
        text = f"provisioning.package.name {package.name!r} is no name of a package"
        raise ProvisionError(Cause.ENGINE_MISSING, text, f"allowed: {NAME_RULE}")
    return package
