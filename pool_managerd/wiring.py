"""Fits the provisioners to what a pool's steps need: their errors become StepErrors with the same cause and mend.

Decides nothing. What was prepared for a pool stays on the disk, without secrets: a proof of its answers has it.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from catalog_core.atomic import write_atomic
from contracts.config import Engine, Pool, Profile
from contracts.engines import Finding, Plan, PreparedEngine, ResolvedModel
from daemon_core.redaction import Redactor, secrets_of
from engine_provisioner.base import EngineProvider
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host
from engine_provisioner.registry import provider_for
from model_provisioner.errors import ModelError
from model_provisioner.provisioner import ModelProvisioner
from pool_managerd.errors import StepError
from pool_managerd.host import Progress

_log = logging.getLogger(__name__)


class ProvisionedModels:
    """Models by way of ``model_provisioner``."""

    def __init__(self, provisioner: ModelProvisioner) -> None:
        self._provisioner = provisioner

    async def ensure_present(self, ref: str, digest: str | None, progress: Progress, engine: Engine) -> ResolvedModel:
        """See ``pool_managerd.host.Models``."""
        try:
            return await self._provisioner.ensure_present(ref, digest, progress, engine=engine)
        except ModelError as error:
            raise StepError(error.cause, error.message, error.hint) from error

    async def pull(self, ref: str, digest: str | None, progress: Progress) -> ResolvedModel:
        """A model that somebody asks for by its reference: whatever engine it is for, and also if it is Retired.

        Raises StepError.
        """
        try:
            return await self._provisioner.ensure_present(ref, digest, progress, revive=True)
        except ModelError as error:
            raise StepError(error.cause, error.message, error.hint) from error


class ProvisionedEngines:
    """One pool's engine by way of ``engine_provisioner``. ``kept`` is where what was prepared is written down."""

    def __init__(self, profile: Profile, host: Host, kept: Path) -> None:
        self._profile = profile
        self._host = host
        self._kept = kept

    def plan(self, pool: Pool) -> Plan:
        """See ``pool_managerd.host.Engines``."""
        try:
            return self._provider(pool).plan(pool)
        except ProvisionError as error:
            raise _step_error(error) from error

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """See ``pool_managerd.host.Engines``."""
        try:
            return await self._provider(pool).preflight(pool)
        except ProvisionError as error:
            raise _step_error(error) from error

    async def ensure(self, pool: Pool, progress: Progress) -> PreparedEngine:
        """See ``pool_managerd.host.Engines``."""
        try:
            engine = await self._provider(pool).ensure(pool, progress)
        except ProvisionError as error:
            raise _step_error(error) from error
        await asyncio.to_thread(self._keep, pool, engine)
        return engine

    def _keep(self, pool: Pool, engine: PreparedEngine) -> None:
        """Write down what was prepared; an engine starts without that, too."""
        redactor = Redactor((*secrets_of(self._host.environ), *secrets_of(pool.env)))
        shown = msgspec.json.encode(redactor.value(msgspec.to_builtins(engine)))
        try:
            write_atomic(self._kept / f"{pool.id}.json", msgspec.json.format(shown, indent=1) + b"\n")
        except OSError as error:
            _log.warning("pool %s: cannot write what was prepared: %s", pool.id, error, extra={"pool_id": pool.id})

    def _provider(self, pool: Pool) -> EngineProvider:
        return provider_for(pool, self._profile, self._host)


def _step_error(error: ProvisionError) -> StepError:
    return StepError(error.cause, error.message, error.hint)
