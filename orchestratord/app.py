"""Wires orchestratord together by constructor arguments, and runs it.

Decides the order of start and stop: who listens must be allowed to, the HTTP port opens last and closes first for new
work, and every open stream gets its terminal event before the process ends.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from adapters.base import Adapter
from adapters.http import EngineHttp
from adapters.registry import adapter_for
from contracts.config import Config, Durability, Pool, is_loopback, split_bind
from contracts.pools import Endpoint
from daemon_core.entry import DaemonContext, run_daemon
from daemon_core.errors import EXIT_CONFIG, StartupError
from daemon_core.reload import Reloadable, follow_reloads
from daemon_core.token import ApiToken, find_token
from daemon_core.unhurried import unhurried_logs
from daemon_core.version import version
from orchestratord.archive import Archive
from orchestratord.artifacts import ArtifactStore
from orchestratord.auth import Authenticator
from orchestratord.catalog import CatalogView
from orchestratord.clock import Clock, SystemClock
from orchestratord.database import Database
from orchestratord.database_file import DatabaseError
from orchestratord.entrance import Sources
from orchestratord.http.app import make_http_app
from orchestratord.jobs import Jobs
from orchestratord.keeper import Keeper
from orchestratord.kept_port import kept_port
from orchestratord.listener import CLOSE_TIMEOUT_S, listening
from orchestratord.manager import LinkedManager
from orchestratord.metrics import Metrics
from orchestratord.observer import Observer
from orchestratord.orchestrator import Orchestrator
from orchestratord.pool_link import PoolLink
from orchestratord.pools import LinkState, PoolDirectory
from orchestratord.recorder import Recorder
from orchestratord.retention import Bounds
from orchestratord.speed import give_back, give_back_at_rest, settle, tell_speed
from orchestratord.status_line import Present, status_line
from orchestratord.tls import Certificate
from orchestratord.vigil import Vigil, vigil_at

log = logging.getLogger(__name__)

NAME = "orchestratord"
STATUS_EVERY_S = 1.0
STOP_MARGIN_S = 10.0
"""What a stop takes besides the drain and the last bytes of connections."""
MAX_SEED = 2**32 - 2
MEMORY_BYTES = 64 << 20
"""What ended tasks and receipts take at most where they are kept in memory alone."""

AT_ONCE = frozenset(
    {"limits", "sessions", "server.drain_ms", "server.disconnect_grace_ms", "pools.queue", "pools.timeouts"}
)
"""What a reload applies; see ``daemon_core.config_change``."""
ELSEWHERE = frozenset({"models"})

Opened = Callable[[Path | None], Database]
"""See ``Database.opened``."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``orchestratord``."""
    return run_daemon(NAME, argv, serve)


async def serve(context: DaemonContext, opened: Opened = Database.opened) -> None:
    """Run until the context says stop. ``opened`` opens the task store.

    Raises StartupError where the configuration forbids to listen or the address is taken.
    """
    config = context.config
    host, port = split_bind(config.server.bind) or ("127.0.0.1", 8080)
    token = token_of(context, host)
    metrics, clock = Metrics(), SystemClock()
    certificate = certificate_of(config, context, clock)
    artifacts = ArtifactStore(context.paths.artifacts, config.artifacts, clock.unix_ms)
    archive = Archive(artifacts, context.redactor, clock.unix_ms)
    keeping = keeping_tasks(config, context, clock, opened)
    async with unhurried_logs(), archive, EngineHttp(redactor=context.redactor) as http, keeping as (keeper, vigil):

        def adapter_of(pool: Pool, endpoint: Endpoint) -> Adapter:
            if endpoint.api_key is not None:
                context.redactor.register(endpoint.api_key)
            return adapter_for(pool.engine, endpoint, http, pool.model)

        pools = PoolDirectory(config, adapter_of)
        sources = Sources(new_id=lambda: secrets.token_hex(12), new_seed=drawn_seed)
        manager = LinkedManager()
        jobs = Jobs(manager.works_for)
        observer = Observer(metrics, jobs)
        orchestrator = Orchestrator(
            config, pools, clock, sources, observer, keeper=keeper, manager=manager, vigil=vigil
        )
        catalog = CatalogView(context.paths.catalog, pools)
        metrics.watch(pools, orchestrator.backlog, lambda: catalog.entries)
        link = PoolLink(
            context.paths.socket,
            version(),
            on_report=orchestrator.report,
            on_link=lambda state: _linked(state, pools, jobs),
            on_job=lambda job: metrics.verified(job) if catalog.take(job) else None,
            on_notices=pools.noticed,
        )
        manager.link = link
        secret, auth = None if token is None else token.value, config.auth
        authenticator = Authenticator(secret, optional=auth.optional, trust_proxy=auth.trust_proxy)
        app = make_http_app(
            config,
            authenticator,
            orchestrator=orchestrator,
            pools=pools,
            link=link,
            metrics=metrics,
            catalog=catalog,
            archive=archive,
            ledger=keeper,
            redactor=context.redactor,
        )
        try:
            orchestrator.take_up()
        except DatabaseError as error:
            raise StartupError(error.message, error.hint) from error
        async with asyncio.TaskGroup() as group:
            beats = context.heartbeats
            keeping_up = group.create_task(keeper.run(beats), name="task-store")
            following = group.create_task(link.run(beats), name="pool-link")
            async with listening(app, config, kept_port(context, host, port), certificate) as url:
                tell_speed()
                settle()
                log.info("listening on %s, profile %s", url, config.profile)
                context.notifier.ready(f"listening on {url}")
                beside = _beside(context, pools, orchestrator, certificate)
                running = [group.create_task(work, name=name) for name, work in beside.items()]
                await orchestrator.run(context.stopping, context.hurry, beats)
                for each in (*running, keeping_up):
                    each.cancel()
            following.cancel()


def reloadable_of(orchestrator: Orchestrator, certificate: Certificate | None) -> Reloadable:
    """What a reload takes over."""
    beside = () if certificate is None else (certificate.renew,)
    return Reloadable(at_once=AT_ONCE, elsewhere=ELSEWHERE, apply=orchestrator.reconfigure, beside=beside)


def certificate_of(config: Config, context: DaemonContext, clock: Clock) -> Certificate | None:
    """What the port proves itself with. Raises StartupError where it cannot."""
    if config.server.tls is None:
        return None
    return Certificate(config.server.tls, context.config_path.parent, context.environ, clock.unix_ms)


@asynccontextmanager
async def keeping_tasks(
    config: Config, context: DaemonContext, clock: Clock, opened: Opened = Database.opened
) -> AsyncIterator[tuple[Keeper, Vigil]]:
    """The task store, and what watches which task ends the daemon, for the length of the block.

    Raises StartupError where the store's file cannot be used.
    """
    kept = config.store
    path = None if kept.durability is Durability.MEMORY else context.paths.tasks_db
    most = kept.max_bytes if path is not None else min(kept.max_bytes, MEMORY_BYTES)
    bounds = Bounds(tasks=config.server.keep_finished, max_bytes=most, max_age_ms=kept.max_age_ms)
    recorder = Recorder(config.profile, context.redactor, clock.unix_ms)
    seal = recorder.seal if config.artifacts.records else None
    try:
        database = opened(path)
        keeper = Keeper(
            database,
            clock=clock,
            bounds=bounds,
            durability=kept.durability,
            seal=seal,
            redactor=context.redactor,
        )
    except DatabaseError as error:
        raise StartupError(error.message, error.hint) from error
    try:
        with vigil_at(None if path is None else path.with_suffix(".starts")) as vigil:
            yield keeper, vigil
    finally:
        keeper.close()


def _linked(state: LinkState, pools: PoolDirectory, jobs: Jobs) -> None:
    pools.linked(state)
    if state is LinkState.UP:
        jobs.tell_all()


def drawn_seed() -> int:
    """A seed for a task that gives none. Never 0, which TGI refuses."""
    return 1 + secrets.randbelow(MAX_SEED)


def token_of(context: DaemonContext, host: str) -> ApiToken | None:
    """The token, which no log shows from here on. Raises TokenError or StartupError where one is needed."""
    token = find_token(context.config.auth, context.environ, context.config_path.parent)
    check_exposure(context.config, host, token)
    if token is not None:
        context.redactor.register(token.value)
        log.info("token %s from %s", token.fingerprint, token.source)
    return token


def check_exposure(config: Config, host: str, token: ApiToken | None) -> None:
    """Refuse to listen where nobody could be told from anybody.

    Raises StartupError with exit status 78.
    """
    if token is None and not is_loopback(host):
        text = f"server.bind {config.server.bind} can be reached from outside, and there is no token"
        hint = "set LLORCH_API_TOKEN or auth.token_file (llama-orch init makes a token), or bind to 127.0.0.1"
        raise StartupError(text, hint, EXIT_CONFIG)
    if token is None and not config.auth.optional:
        text = "there is no token, and auth.optional is false, so nobody could use the API"
        hint = "llama-orch init makes a token; or set LLORCH_API_TOKEN, auth.token_file or auth.optional: true"
        raise StartupError(text, hint, EXIT_CONFIG)


def _beside(
    context: DaemonContext, pools: PoolDirectory, orchestrator: Orchestrator, certificate: Certificate | None
) -> dict[str, Coroutine[None, None, None]]:
    """What runs while the port is open."""
    return {
        "status": _tell_status(context, pools, orchestrator),
        "rest": give_back_at_rest(lambda: orchestrator.rested, give_back),
        "reload": follow_reloads(context, NAME, reloadable_of(orchestrator, certificate)),
        "stop": _ask_for_time(context, orchestrator),
    }


async def _ask_for_time(context: DaemonContext, orchestrator: Orchestrator) -> None:
    """A drain may take longer than the unit gives a stop, where the configuration says so."""
    await context.stopping.wait()
    context.notifier.extend(orchestrator.config.server.drain_ms / 1000 + CLOSE_TIMEOUT_S + STOP_MARGIN_S)


async def _tell_status(context: DaemonContext, pools: PoolDirectory, orchestrator: Orchestrator) -> None:
    """Keep the line that ``systemctl status`` shows up to date."""
    shown = ""
    while True:
        now = Present(
            ready=sum(1 for entry in pools if entry.usable),
            pools=sum(1 for _ in pools),
            managed=pools.managed,
            queued=len(orchestrator.backlog),
            running=orchestrator.runner.running,
            draining=orchestrator.draining,
            trouble=orchestrator.trouble,
        )
        line = status_line(now)
        if line != shown:
            context.notifier.status(line)
            shown = line
        await asyncio.sleep(STATUS_EVERY_S)
