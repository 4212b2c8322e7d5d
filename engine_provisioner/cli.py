"""``engine-provisioner``: plan, check and prepare the engines of a configuration, with no daemon running.

Decides how results read and which exit status they have: 0, 1 (a finding or a failure), 2 (usage), 78 (configuration).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from catalog_core.engines import FsEngineCatalog
from contracts.base import Message
from contracts.config import Config, Pool
from contracts.engines import Finding, Plan, PreparedEngine
from contracts.pools import Cause
from daemon_core import config_file
from daemon_core.errors import EXIT_FAILURE, EXIT_USAGE, StartupError
from daemon_core.paths import Paths, default_config_path
from engine_provisioner.base import EngineProvider
from engine_provisioner.errors import ProvisionError, render
from engine_provisioner.host import Host
from engine_provisioner.registry import provider_for

app = typer.Typer(
    name="engine-provisioner",
    help="Plan, check and prepare the engines of a configuration.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path | None, typer.Option("--config", metavar="PATH", help="The configuration file.")]
PoolOption = Annotated[str | None, typer.Option("--pool", metavar="ID", help="Only this pool.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


class Failure(Message, frozen=True, kw_only=True):
    """Why a pool has no engine."""

    cause: Cause
    message: str
    hint: str
    findings: tuple[Finding, ...] = ()


class Result(Message, frozen=True, kw_only=True, omit_defaults=True):
    """What a command found out about one pool; only its own field is set, or ``error``."""

    pool_id: str
    plan: Plan | None = None
    findings: tuple[Finding, ...] | None = None
    engine: PreparedEngine | None = None
    error: Failure | None = None

    @property
    def good(self) -> bool:
        """Whether nothing is in the way."""
        return self.error is None and not self.findings


Work = Callable[[EngineProvider, Pool], Awaitable[Result]]


@app.command()
def plan(config: ConfigOption = None, pool: PoolOption = None, *, json: JsonOption = False) -> None:
    """Print what ensure would do. Looks at nothing but the configuration."""

    async def work(provider: EngineProvider, pool: Pool) -> Result:
        return Result(pool_id=pool.id, plan=provider.plan(pool))

    _run(config, pool, work, json=json)


@app.command()
def preflight(config: ConfigOption = None, pool: PoolOption = None, *, json: JsonOption = False) -> None:
    """Find everything that is in the way, at once. Changes nothing."""

    async def work(provider: EngineProvider, pool: Pool) -> Result:
        return Result(pool_id=pool.id, findings=await provider.preflight(pool))

    _run(config, pool, work, json=json)


@app.command()
def ensure(config: ConfigOption = None, pool: PoolOption = None, *, json: JsonOption = False) -> None:
    """Prepare the engines, and record them in the engine catalog."""

    async def work(provider: EngineProvider, pool: Pool) -> Result:
        return Result(pool_id=pool.id, engine=await provider.ensure(pool, lambda line: _say(f"{pool.id}: {line}")))

    _run(config, pool, work, json=json)


def main() -> None:
    """The program."""
    app()


def _run(config_path: Path | None, wanted: str | None, work: Work, *, json: bool) -> NoReturn:
    """Do the work for every pool that is meant, print the results, and end with their exit status."""
    environ = dict(os.environ)
    try:
        config = config_file.load(config_path or default_config_path(environ))
        paths = Paths.resolve(config.paths, environ)
    except StartupError as error:
        _say(f"engine-provisioner: {error.render()}")
        raise typer.Exit(error.exit_code) from error
    pools = _chosen(config, wanted)
    host = Host(environ=environ, catalog=FsEngineCatalog(paths.catalog), cache=paths.cache, policy=config.policy)
    results = asyncio.run(_results(config, pools, host, work))
    text = msgspec.json.format(msgspec.json.encode(results)).decode() if json else _readable(results)
    sys.stdout.write(f"{text}\n")
    raise typer.Exit(0 if all(result.good for result in results) else EXIT_FAILURE)


def _chosen(config: Config, wanted: str | None) -> tuple[Pool, ...]:
    pools = tuple(pool for pool in config.pools if wanted in {None, pool.id})
    if not pools:
        known = ", ".join(pool.id for pool in config.pools)
        _say(f"engine-provisioner: there is no pool {wanted!r}\n  the configuration has: {known}")
        raise typer.Exit(EXIT_USAGE)
    return pools


async def _results(config: Config, pools: tuple[Pool, ...], host: Host, work: Work) -> list[Result]:
    return [await _result(config, pool, host, work) for pool in pools]


async def _result(config: Config, pool: Pool, host: Host, work: Work) -> Result:
    try:
        return await work(provider_for(pool, config.profile, host), pool)
    except ProvisionError as error:
        failure = Failure(cause=error.cause, message=error.message, hint=error.hint, findings=error.findings)
        return Result(pool_id=pool.id, error=failure)


def _readable(results: list[Result]) -> str:
    return "\n".join(line for result in results for line in _lines(result))


def _lines(result: Result) -> list[str]:
    name = result.pool_id
    if result.error is not None:
        error = result.error
        failure = ProvisionError(error.cause, error.message, error.hint, error.findings)
        return [f"{name}: failed", failure.render()]
    if result.plan is not None:
        steps = enumerate(result.plan.steps, start=1)
        return [f"{name}:", *(f"  {number}. {step.detail}" for number, step in steps)]
    if result.findings is not None:
        found = result.findings
        return [f"{name}: {len(found)} found", *map(render, found)] if found else [f"{name}: nothing is in the way"]
    engine = result.engine
    if engine is None:  # pragma: no cover - every command fills its field
        return [name]
    what = " ".join([engine.bin_or_entry or engine.url or "", *engine.args])
    return [f"{name}: {engine.engine} {engine.engine_version} ({engine.engine_digest or 'no digest'})", f"  {what}"]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
