"""``plan``, ``preflight`` and ``ensure``: the engines of a configuration, prepared with no daemon running.

Decides which pools are meant, that each of them is tried whatever became of the one before, and how the command is
ended: Ctrl-C, SIGTERM and a closed terminal end what was started with it. ``engine-provisioner`` has these commands
alone, ``llama-orch`` has them among its own. Exit status: 0, 1 (a finding or a failure), 2 (usage), 75 (the network may
do it next time), 78 (configuration), 130 (interrupted).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from catalog_core.engines import FsEngineCatalog
from contracts.config import Config, Pool
from contracts.pools import Cause
from daemon_core import config_file
from daemon_core.errors import EXIT_USAGE, StartupError
from daemon_core.paths import Paths, default_config_path
from daemon_core.redaction import Redactor, secrets_of
from engine_provisioner.base import EngineProvider
from engine_provisioner.display import shown
from engine_provisioner.errors import ProvisionError, error_of
from engine_provisioner.host import Host
from engine_provisioner.registry import provider_for
from engine_provisioner.report import Result, document, exit_status, failed, readable
from engine_provisioner.surroundings import Surroundings

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help="Configuration file (default: ~/.config/llama-orch/config.yaml)."),
]
PoolOption = Annotated[str | None, typer.Option("--pool", metavar="ID", help="Only this pool.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]

Work = Callable[[EngineProvider, Pool, Surroundings], Awaitable[Result]]
ENDING = (signal.SIGTERM, signal.SIGHUP)


def plan(*, pool: PoolOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Print what ensure would do. Looks at nothing but the configuration."""

    async def work(provider: EngineProvider, pool: Pool, _surroundings: Surroundings) -> Result:
        return Result(pool_id=pool.id, plan=provider.plan(pool))

    _run(config, pool, work, as_json=as_json)


def preflight(*, pool: PoolOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Find everything that is in the way of the engines and their models, at once. Changes nothing."""

    async def work(provider: EngineProvider, pool: Pool, surroundings: Surroundings) -> Result:
        findings = (*await provider.preflight(pool), *await surroundings.findings(pool))
        return Result(pool_id=pool.id, findings=findings)

    _run(config, pool, work, as_json=as_json)


def ensure(*, pool: PoolOption = None, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Prepare the engines: build, pull, fetch or find them, and record them in the engine catalog."""

    async def work(provider: EngineProvider, pool: Pool, surroundings: Surroundings) -> Result:
        with shown(pool.id, provider.plan(pool), sys.stderr) as progress:
            if refusals := await surroundings.refusals(pool):
                cause = Cause.WRONG_DEVICE if refusals[0].check == "gpu" else Cause.INTERNAL
                raise error_of(cause, refusals)
            for finding in await surroundings.model(pool):  # said now, not after an hour of compiling
                progress.say(f"{finding.message}: {finding.hint}")
            return Result(pool_id=pool.id, engine=await provider.ensure(pool, progress.say))

    _run(config, pool, work, as_json=as_json)


COMMANDS: tuple[Callable[..., None], ...] = (plan, preflight, ensure)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console script ``engine-provisioner``."""
    app = typer.Typer(
        help="Plan, check and prepare the engines of a configuration.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for command in COMMANDS:
        app.command(command.__name__)(command)
    try:
        app(argv, prog_name="engine-provisioner")
    except StartupError as error:
        sys.stderr.write(f"engine-provisioner: {error.render()}\n")
        sys.exit(error.exit_code)
    raise AssertionError("typer ends with an exit status")


def _run(config_path: Path | None, wanted: str | None, work: Work, *, as_json: bool) -> NoReturn:
    """Do the work for every pool that is meant, print the results, and end with their exit status."""
    environ = dict(os.environ)
    path = config_path or default_config_path(environ)
    config = config_file.load(path)
    paths = Paths.resolve(config.paths, environ)
    pools = _chosen(config, wanted)
    host = Host(environ=environ, catalog=FsEngineCatalog(paths.catalog), cache=paths.cache, policy=config.policy)
    surroundings = Surroundings(config, path.absolute().parent, paths.catalog, host)
    secrets = (value for known in (environ, *(pool.env for pool in config.pools)) for value in secrets_of(known))
    redactor = Redactor(tuple(secrets))

    def provider_of(pool: Pool) -> EngineProvider:
        return provider_for(pool, config.profile, host)

    def say(result: Result) -> None:
        if not as_json:
            _print(readable(result, redactor))

    try:
        results = asyncio.run(_results(pools, provider_of, surroundings, work, say))
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error
    if as_json:
        _print(document(results, redactor))
    raise typer.Exit(exit_status(results))


def _chosen(config: Config, wanted: str | None) -> tuple[Pool, ...]:
    pools = tuple(pool for pool in config.pools if wanted in {None, pool.id})
    if not pools:
        known = ", ".join(pool.id for pool in config.pools)
        raise StartupError(f"there is no pool {wanted!r}", f"the configuration has: {known}", EXIT_USAGE)
    return pools


async def _results(
    pools: tuple[Pool, ...],
    provider_of: Callable[[Pool], EngineProvider],
    surroundings: Surroundings,
    work: Work,
    say: Callable[[Result], None],
) -> list[Result]:
    """One result after the other, each told as it comes. Ends what it started when it is canceled."""
    _cancel_on_signals()
    results = []
    for pool in pools:
        try:
            result = await work(provider_of(pool), pool, surroundings)
        except ProvisionError as error:
            result = failed(pool.id, error)
        say(result)
        results.append(result)
    return results


def _cancel_on_signals() -> None:
    """SIGINT does this by itself; one that is ignored (nohup) stays ignored."""
    main_task = asyncio.current_task()
    for number in ENDING:
        if main_task is not None and signal.getsignal(number) is not signal.SIG_IGN:
            asyncio.get_running_loop().add_signal_handler(number, main_task.cancel)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
