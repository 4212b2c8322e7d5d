"""An endpoint that somebody else runs.

Decides whether its address and its key can be used. Never starts anything, and never calls the endpoint: which version
runs there is asked when it is used.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from contracts.config import External, Pool, Profile
from contracts.engines import EngineEntry, Finding, Plan, PreparedEngine
from contracts.pools import Cause
from engine_provisioner.base import Checklist, Progress
from engine_provisioner.errors import error_of
from engine_provisioner.host import Host
from engine_provisioner.plan import StepKind, plan_for
from engine_provisioner.probes import generation_of, health_of
from engine_provisioner.providers.native import record

UNKNOWN = "unknown"
"""The version of an engine that nobody has asked yet."""


class ExternalProvider:
    """The provider of mode external, for every engine."""

    def __init__(self, host: Host, profile: Profile) -> None:
        self._host = host
        self._profile = profile

    def plan(self, pool: Pool) -> Plan:
        """See EngineProvider."""
        return plan_for(pool, self._profile)

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """See EngineProvider."""
        external = pool.provisioning.external
        if external is None:
            hint = 'external: {url: "http://127.0.0.1:8000"}'
            message = f"pool {pool.id} has no provisioning.external"
            return (Finding(check="endpoint", message=message, why="nobody knows where its engine is", hint=hint),)
        return (*_url_findings(external.url), *self._key_findings(external))

    async def ensure(self, pool: Pool, progress: Progress) -> PreparedEngine:
        """See EngineProvider."""
        steps = Checklist(self.plan(pool), progress)
        steps.begin(StepKind.CHECK)
        if findings := await self.preflight(pool):
            raise error_of(Cause.ENGINE_MISSING, findings)
        steps.begin(StepKind.ENDPOINT)
        external = pool.provisioning.external or External(url="")
        steps.begin(StepKind.RECORD)
        entry = EngineEntry(id=f"{pool.engine}-external-{pool.id}", engine=pool.engine, version=UNKNOWN)
        await record(self._host, entry)
        steps.end()
        return PreparedEngine(
            engine=pool.engine,
            engine_version=entry.version,
            provisioning_mode=pool.mode,
            url=external.url.rstrip("/"),
            key_env=external.api_key_env,
            engine_catalog_id=entry.id,
            health=health_of(pool.engine),
            generation=generation_of(pool.engine, pool.model),
        )

    def _key_findings(self, external: External) -> tuple[Finding, ...]:
        name = external.api_key_env
        if name is None or self._host.environ.get(name):
            return ()
        return (
            Finding(
                check="key",
                message=f"the environment variable {name} is not set",
                why="the endpoint's key is read from it, and stands in no file",
                hint=f"set {name} in the environment of pool-managerd (systemctl --user edit pool-managerd)",
            ),
        )


def _url_findings(url: str) -> tuple[Finding, ...]:
    """What is wrong with a URL. Never repeats it: a password may be in it."""
    why = "requests go to this address"
    hint = 'http:// or https://, a host, and nothing of a user: "http://127.0.0.1:8000"'
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        parts, good = None, False
    if not good or parts is None or parts.query or parts.fragment:
        message = "provisioning.external.url is no address of an engine"
        return (Finding(check="endpoint", message=message, why=why, hint=hint),)
    if parts.username is not None or parts.password is not None:
        message = "provisioning.external.url holds a user name or a password"
        return (Finding(check="endpoint", message=message, why="a secret never stands in a file", hint=hint),)
    return ()
