"""Starts an engine's container, or takes one over, and ends it: what ``process`` does for native engines.

Decides nothing: what a container may be is ``container_runtime.spec``'s, and when it starts and ends is the pool's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Mapping
from typing import Protocol

from container_runtime.base import ContainerRuntime
from container_runtime.choose import runtime_named
from container_runtime.errors import ContainerError, RuntimeCause
from container_runtime.spec import ContainerHandle, ContainerSpec, ContainerState
from engine_provisioner.container_checks import CAUSES
from pool_managerd.diagnosis import Exit
from pool_managerd.engine_log import EngineLog, Redacts
from pool_managerd.errors import StepError
from pool_managerd.launch import LABEL_HANDLE

_log = logging.getLogger(__name__)

_LAST_WORDS_S = 1.0
"""How long the rest of the output may take after the exit."""
_LOOK_AGAIN_S = 1.0
RUNTIMES = ("podman", "docker")
ADOPTED_TAIL = 200
"""Lines of an adopted container that are logged again, for those that were printed while no manager ran."""


class Containers(Protocol):
    """The container runtimes of this machine, and our containers in them."""

    def runtime(self, name: str) -> ContainerRuntime:
        """The runtime of this name."""

    async def find(self, marker: str, runtime: str | None) -> tuple[ContainerHandle, ...]:
        """The containers that carry the path of a handle file, running or not.

        ``runtime`` is the one in which it was started, where that is known: when that one cannot tell, StepError.
        """


class MachineContainers:
    """The runtimes that are installed here."""

    def __init__(self, environ: Mapping[str, str], redactor: Redacts) -> None:
        self._environ = environ
        self._redactor = redactor

    def runtime(self, name: str) -> ContainerRuntime:
        """See Containers."""
        return runtime_named(name, self._environ, self._redactor.text)

    async def find(self, marker: str, runtime: str | None) -> tuple[ContainerHandle, ...]:
        """See Containers. Where the runtime is not known, every one that answers is asked."""
        found: list[ContainerHandle] = []
        for name in RUNTIMES if runtime is None else (runtime,):
            if shutil.which(name, path=self._environ.get("PATH")) is None:
                continue  # what was uninstalled runs nothing
            try:
                found += await self.runtime(name).find({LABEL_HANDLE: marker})
            except ContainerError as error:
                if runtime is not None:
                    raise step_error(error) from error
                _log.debug("%s cannot list containers: %s", name, error.message)
        return tuple(found)


class EngineContainer:
    """One engine's container. A RunningEngine.

    With ``tail``, only so many lines that it has printed before go into the log: its last manager has logged them all.
    ``outlives``: see RunningEngine.
    """

    def __init__(
        self,
        runtime: ContainerRuntime,
        handle: ContainerHandle,
        log: EngineLog,
        tail: int | None = None,
        *,
        outlives: bool = False,
    ) -> None:
        self.handle = handle
        self.outlives = outlives
        self._tail = tail
        self._runtime = runtime
        self._log = log
        self._reading = asyncio.get_running_loop().create_task(self._read(), name=f"output of {handle.name}")

    @classmethod
    async def run(
        cls,
        runtime: ContainerRuntime,
        spec: ContainerSpec,
        key: str | None,
        log: EngineLog,
        within: tuple[str, ...] = (),
    ) -> EngineContainer:
        """Start it, where there is one in a scope of its own (``within`` is what stands before the runtime's program).

        Raises StepError where it does not start; nothing of it is left then.
        """
        try:
            return cls(runtime, await runtime.run(spec, key, within), log, outlives=bool(within))
        except ContainerError as error:
            raise step_error(error) from error

    @property
    def port(self) -> int:
        """Its port on loopback, as the runtime gave it; 0 where it had ended before it had one."""
        return self.handle.ports[0].host if self.handle.ports else 0

    async def wait(self) -> Exit:
        """See RunningEngine."""
        while (state := await self._ended()) is None:  # noqa: ASYNC110 - nobody tells when the runtime answers again
            await asyncio.sleep(_LOOK_AGAIN_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await asyncio.shield(self._reading)
        return Exit(status=state.exit_code, oom_killed=state.oom_killed)

    async def end(self, stop_ms: int) -> None:
        """See RunningEngine. Raises StepError where the runtime cannot."""
        try:
            await self._runtime.stop(self.handle, timeout_ms=stop_ms)
        except ContainerError as error:
            raise step_error(error) from error
        finally:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    async def leave(self) -> None:
        """See RunningEngine."""
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def pids(self) -> frozenset[int]:
        """See RunningEngine."""
        try:
            return frozenset((await self._runtime.inspect(self.handle)).pids)
        except ContainerError:
            return frozenset()

    async def _ended(self) -> ContainerState | None:
        """How it ended; None where the runtime could not tell this time."""
        try:
            return await self._runtime.wait(self.handle)
        except ContainerError as error:
            if error.cause is RuntimeCause.CONTAINER_GONE:
                return ContainerState(running=False)
            _log.warning("the container %s: %s", self.handle.name, error.message, extra={"pool_id": self._log.pool_id})
            return None

    async def _read(self) -> None:
        try:
            async with contextlib.aclosing(self._runtime.logs(self.handle, follow=True, tail=self._tail)) as lines:
                async for line in lines:
                    self._log.feed(f"{line}\n".encode())
        except ContainerError as error:
            text = "the output of the container %s cannot be read: %s"
            _log.warning(text, self.handle.name, error.message, extra={"pool_id": self._log.pool_id})


def step_error(error: ContainerError) -> StepError:
    """A runtime's error as a pool's."""
    return StepError(CAUSES[error.cause], error.message, error.hint)
