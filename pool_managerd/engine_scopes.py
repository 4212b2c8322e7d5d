"""Sees whether engines can have scopes of their own, and says what it costs where they cannot.

Decides only that: what is typed is ``pool_managerd.scopes``'s, and whoever starts an engine starts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
from collections.abc import Mapping

from pool_managerd import proc, scopes
from pool_managerd.oom_kills import OomKills

_log = logging.getLogger(__name__)

TRY_S = 10.0
"""How long the service manager may take to make a scope."""


class EngineScopes:
    """What surrounds the engines of one daemon."""

    def __init__(self, environ: Mapping[str, str], pid: int | None = None) -> None:
        self.environ = environ
        self._wanted = scopes.is_service(environ, os.getpid() if pid is None else pid)
        group = proc.own_cgroup() or ""
        self._service = scopes.own_unit(group) or "pool-managerd.service"
        self.inside = OomKills(scopes.slice_of(group))
        """Of engines that have a scope."""
        self.outside = OomKills(group or None)
        """Of engines that have none, and of all else that this daemon starts, such as compilers."""

    async def around(self, instance: str) -> tuple[str, ...]:
        """What stands before an engine's program; nothing where it has to run as a child like any other."""
        if not self._wanted:
            return ()
        argv = scopes.scope_argv(instance, secrets.token_hex(4), self._service)
        trial = scopes.scope_argv(instance, secrets.token_hex(4), self._service, trial=True)
        if (problem := await self._try(trial)) is None:
            return argv
        text = (
            "%s: its engine gets no scope of its own (%s), so it ends whenever pool-managerd does, also at a restart "
            "or a crash of it (hint: systemctl --user status says whether the user's service manager answers)"
        )
        _log.warning(text, instance, problem)
        return ()

    async def _try(self, argv: tuple[str, ...]) -> str | None:
        """Run nothing in a scope; why that fails. Cheaper than to find out from an engine that it never was one."""
        path = self.environ.get("PATH")
        if shutil.which(argv[0], path=path) is None:
            return f"{argv[0]} is not installed"
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                "true",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env=scopes.with_bus({} if path is None else {"PATH": path}, self.environ),
            )
        except OSError as error:
            return f"{argv[0]}: {error.strerror or error}"
        try:
            async with asyncio.timeout(TRY_S):
                _, said = await process.communicate()
        except TimeoutError:
            return f"the service manager did not answer within {TRY_S:g} s"
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode == 0:
            return None
        return " ".join(said.decode(errors="replace").split()) or f"{argv[0]} ended with status {process.returncode}"
