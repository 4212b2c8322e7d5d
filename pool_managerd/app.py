"""Wires pool-managerd together by constructor arguments, and runs it.

Decides the order of start and stop: the socket answers before any pool is ready, and on the way out nobody may connect
any more, then work may end for a while, then all engines end at once, then the rest. Before a restart the engines that
outlive us go on. Holds no policy about pools.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import aiohttp

import engine_provisioner.host
from catalog_core.engines import FsEngineCatalog
from catalog_core.errors import CatalogError
from catalog_core.models import FsModelCatalog
from contracts.config import Config, Pool, Profile
from contracts.pools import Cause, PoolState
from daemon_core import procfs
from daemon_core.deadline import in_time
from daemon_core.entry import DaemonContext, run_daemon
from daemon_core.errors import EXIT_CONFIG, StartupError
from daemon_core.paths import make_private_dir
from daemon_core.reload import Reloadable, follow_reloads
from daemon_core.version import version
from engine_provisioner.gpu_sharing import shared_gpus
from model_provisioner import events
from model_provisioner.cache import ModelCache
from model_provisioner.digest import DigestMemory
from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.provisioner import ModelProvisioner
from model_provisioner.survivors import surviving
from model_provisioner.verify import ModelVerifier
from pool_managerd.catalog_jobs import CatalogJobs
from pool_managerd.catalog_methods import CatalogMethods
from pool_managerd.condemned import Condemned
from pool_managerd.container import Containers, MachineContainers
from pool_managerd.engine_effects import EngineEffects
from pool_managerd.engine_log import EngineLog
from pool_managerd.engine_scopes import EngineScopes
from pool_managerd.gpu import Gpus, NvmlGpus
from pool_managerd.gpu_proof import VRAM_BACK_S
from pool_managerd.gpu_watch import GpuWatch
from pool_managerd.handles import HandleFiles
from pool_managerd.host import Engines, Host, Models
from pool_managerd.hub import Hub
from pool_managerd.in_use import InUse
from pool_managerd.instance_lock import single_instance
from pool_managerd.leftovers import restarts_before
from pool_managerd.life import Life, RestartAsked
from pool_managerd.log_feed import LogFeed
from pool_managerd.owner import Owner
from pool_managerd.probe import Prober, Timing
from pool_managerd.process import KILL_WAIT_S
from pool_managerd.retired import Retired
from pool_managerd.room import Room
from pool_managerd.rpc_methods import NAME, PoolMethods
from pool_managerd.rpc_server import RpcServer
from pool_managerd.snapshot import snapshot
from pool_managerd.status_line import status_line
from pool_managerd.stock import Stock, StockWatch
from pool_managerd.supervisor import KILL_S, SupervisedPool, Supervisor
from pool_managerd.taking_over import TakingOver
from pool_managerd.vram_memory import VramMemory
from pool_managerd.wall_clock import WallClock
from pool_managerd.wiring import ProvisionedEngines, ProvisionedModels

_log = logging.getLogger(__name__)

LOCK = "pool-managerd.lock"
AT_ONCE = frozenset({"server.drain_ms"})
"""What a reload applies; see ``daemon_core.config_change``."""
ELSEWHERE = frozenset({"server", "auth", "limits", "sessions", "artifacts", "store", "pools.queue"})
"""What of a changed configuration is not ours otherwise."""
ORCHESTRATOR = "orchestratord"


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``pool-managerd``; the answer is the exit status."""
    return run_daemon(NAME, argv, serve)


async def serve(context: DaemonContext) -> None:
    """Run with the real provisioners and the real GPUs until the context says stop. Raises StartupError."""
    gpus = NvmlGpus()
    connector = aiohttp.TCPConnector(force_close=True)  # an idle connection would hold one of an engine's threads
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as client:
        try:
            stock, engines = stock_of(context), engines_of(context)
            await asyncio.to_thread(refuse_overlaps, gpus, context.config)
            parts = assemble(context, models=stock.models, engines=engines, gpus=gpus, client=client, stock=stock)
            await run(context, parts)
        finally:
            await asyncio.to_thread(gpus.close)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a running daemon consists of."""

    hub: Hub
    supervisor: Supervisor
    server: RpcServer
    refuse: Callable[[Config], None]
    """Raises StartupError for a configuration that this machine's GPUs do not allow. Blocks."""
    beside: tuple[Callable[[], Coroutine[None, None, None]], ...] = ()
    """What runs beside the pools until the end."""


async def run(context: DaemonContext, parts: Parts) -> None:
    """Serve until the context says stop; at the end no engine is left, but before a restart those that outlive us.

    Raises StartupError where another instance runs, or a directory or the socket is of no use.
    """
    paths = context.paths
    for directory in (paths.state, paths.logs, paths.handles, paths.prepared, paths.runtime, paths.engines):
        make_private_dir(directory)
    with single_instance(paths.state / LOCK):
        await parts.server.start()
        _log.info("listening on %s, profile %s", paths.socket, context.config.profile)
        unsubscribe = parts.hub.subscribe(_status_of(context, parts.hub))
        context.notifier.ready(_line(context, parts.hub))
        try:
            await _until_stopped(context, parts)
        finally:
            unsubscribe()
            await parts.server.close()


async def _until_stopped(context: DaemonContext, parts: Parts) -> None:
    config = context.config

    def apply(read: Config) -> None:
        nonlocal config
        config = read

    reloadable = Reloadable(at_once=AT_ONCE, elsewhere=ELSEWHERE, refuse=parts.refuse, apply=apply)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(parts.supervisor.run(), name="pools")
        reloading = group.create_task(follow_reloads(context, NAME, reloadable), name="reload")
        beside = [group.create_task(work(), name=work.__qualname__) for work in parts.beside]
        for each in (running, *beside):
            context.heartbeats.guard(each)
        context.heartbeats.ask("the socket's server", parts.server.ping)
        with context.heartbeats.while_serving():
            await context.stopping.wait()
        parts.server.stop_accepting()
        longest_s = patience_s(config)
        # Work goes on as long as at a stop of orchestratord, where that follows the pools: it says when there is none.
        drains = parts.server.followed_by(ORCHESTRATOR) and not context.returning.is_set()
        drain_s = config.server.drain_ms / 1000 if drains else 0.0
        context.notifier.extend(drain_s + longest_s + KILL_S)
        if context.returning.is_set():
            ending = parts.supervisor.step_aside(longest_s)
        else:
            ending = parts.supervisor.stop(longest_s, drain_s)
        if not await in_time(ending, context.hurry):
            _log.error("not every engine ended in time: what is left is killed")
        for task in (running, reloading, *beside):
            task.cancel()


def patience_s(config: Config) -> float:
    """How long the slowest engine may take to end: by itself, by force, and until the driver gives its VRAM back."""
    vram_s = VRAM_BACK_S if config.profile is Profile.HOME else 0.0
    return max(pool.timeouts.stop_ms for pool in config.pools) / 1000 + KILL_WAIT_S + vram_s


def assemble(
    context: DaemonContext,
    *,
    models: Models,
    engines: Callable[[Pool], Engines],
    gpus: Gpus,
    client: aiohttp.ClientSession,
    containers: Containers | None = None,
    timing: Timing | None = None,
    stock: Stock | None = None,
) -> Parts:
    """Put the parts together; needs a running loop, starts nothing. Without ``stock`` no ``catalog.*`` is answered."""
    config, paths = context.config, context.paths
    loop = asyncio.get_running_loop()
    wall_clock = WallClock(_unix_ms, lambda: loop.time() * 1000)
    files = HandleFiles(handles=paths.handles, runtime=paths.runtime, engines=paths.engines)
    boot_id = procfs.boot_id()
    before = restarts_before(files, boot_id)
    lives = {
        pool.id: Life(rules=pool.restart, model_ref=pool.model, restarts=before.get(pool.id, 0))
        for pool in config.pools
    }
    hub = Hub(snapshot(pool, lives[pool.id], wall_offset_ms=wall_clock.offset_ms) for pool in config.pools)
    containers = containers or MachineContainers(context.environ, context.redactor)
    taking_over = TakingOver()
    watch = GpuWatch(gpus, loop) if config.profile is Profile.HOME else None
    condemned, retired = Condemned(), Retired()
    host = Host(
        profile=config.profile,
        models=models,
        prober=Prober(client, timing),
        gpus=gpus,
        watch=watch,
        condemned=condemned,
        retired=retired,
        room=Room(profile=config.profile, gpus=gpus, memory=VramMemory(paths.state)),
        containers=containers,
        scopes=EngineScopes(context.environ),
        taking_over=taking_over,
        files=files,
        hub=hub,
        redactor=context.redactor,
        environ=context.environ,
        boot_id=boot_id,
        wall_clock=wall_clock,
    )
    sources = {pool.id: engines(pool) for pool in config.pools}
    feed = LogFeed(loop.time, loop.call_later)
    pools = {}
    for pool in config.pools:
        log = EngineLog(paths.logs / f"{pool.id}.log", pool.id, context.redactor, feed=feed, engine=pool.engine)
        effects = EngineEffects(pool=pool, engines=sources[pool.id], log=log, host=host)
        pools[pool.id] = SupervisedPool(owner=Owner(pool.id, lives[pool.id], effects), effects=effects)
    supervisor = Supervisor(
        pools=pools,
        files=files,
        containers=containers,
        hub=hub,
        watch=watch,
        condemned=condemned,
        taking_over=taking_over,
        boot_id=boot_id,
        heartbeats=context.heartbeats,
    )
    catalog, beside = (None, ()) if stock is None else _catalog_of(stock, context, hub, retired, supervisor)
    methods = PoolMethods(
        version=version(),
        hub=hub,
        post=supervisor.post,
        gpus=gpus,
        pools={pool.id: pool for pool in config.pools},
        engines=sources,
        feed=feed,
        logs=paths.logs,
        taking_over=taking_over,
        catalog=catalog,
    )
    return Parts(
        hub=hub,
        supervisor=supervisor,
        server=RpcServer(paths.socket, methods),
        refuse=partial(refuse_overlaps, gpus),
        beside=beside,
    )


def _catalog_of(
    stock: Stock, context: DaemonContext, hub: Hub, retired: Retired, supervisor: Supervisor
) -> tuple[CatalogMethods, tuple[Callable[[], Coroutine[None, None, None]], ...]]:
    """What answers the calls about models, and what has to run for that."""
    hub.notices = stock.notices
    stock.in_use.follow(lambda: hub.pools().pools)
    jobs = CatalogJobs(show=hub.worked, redact=context.redactor.text, now_ms=stock.now_ms)

    def changed() -> None:
        supervisor.refresh()
        for pool in hub.pools().pools:
            refused = pool.last_error is not None and pool.last_error.cause is Cause.MODEL_RETIRED
            if refused and pool.state in {PoolState.BACKOFF, PoolState.BROKEN}:
                supervisor.post(pool.pool_id, RestartAsked())  # the model may be in use again

    watch = StockWatch(stock, retired, changed)
    return CatalogMethods(stock, jobs, watch.look), (jobs.run, watch.run)


def stock_of(context: DaemonContext) -> Stock:
    """Where the models come from. A relative path in a reference starts at the configuration file.

    Mends both indices first: what had to be mended is part of the answer.
    """
    paths = context.paths
    base = context.config_path.absolute().parent
    catalog = FsModelCatalog(paths.catalog, discover=partial(surviving, paths.provenance, paths.models))
    notices = _recover(catalog, paths.provenance) + _recover(FsEngineCatalog(paths.catalog), paths.provenance)
    in_use = InUse(context.config.pools, paths.handles)
    cache = ModelCache(
        paths.models,
        catalog,
        settings=context.config.models,
        journal=paths.provenance,
        base_dir=base,
        clock=_unix_ms,
        holds=in_use,
    )
    gate = OutboundGate(policy=context.config.policy, environ=context.environ)
    provisioner = ModelProvisioner(
        paths.models, catalog, paths.provenance, base, _unix_ms, gate=gate, environ=context.environ, room=cache
    )
    digests = DigestMemory(paths.models / "digests.json")
    return Stock(
        models=ProvisionedModels(provisioner),
        catalog=catalog,
        cache=cache,
        verifier=ModelVerifier(catalog, cache, digests, journal=paths.provenance, clock=_unix_ms),
        in_use=in_use,
        journal=paths.provenance,
        base_dir=PurePosixPath(base),
        now_ms=_unix_ms,
        notices=notices,
    )


def engines_of(context: DaemonContext) -> Callable[[Pool], Engines]:
    """Where the engines come from."""
    catalog = FsEngineCatalog(context.paths.catalog)
    host = engine_provisioner.host.Host(
        environ=context.environ, catalog=catalog, cache=context.paths.cache, policy=context.config.policy
    )
    return lambda _pool: ProvisionedEngines(context.config.profile, host, context.paths.prepared)


def refuse_overlaps(gpus: Gpus, config: Config) -> None:
    """One GPU under two names, its index and its UUID: only with the GPUs at hand is it seen. Raises StartupError."""
    if config.profile is Profile.HOME:
        for shared in shared_gpus(config.pools, gpus.inventory().all):
            raise StartupError(shared.message, shared.hint, EXIT_CONFIG)


def _recover(catalog: FsModelCatalog | FsEngineCatalog, journal: Path) -> tuple[str, ...]:
    """Put a damaged index aside and say what could be saved; a healthy one is only looked at."""
    try:
        recovery = catalog.recover()
    except CatalogError as error:
        raise StartupError(error.message, error.hint) from error
    if recovery is None:
        return ()
    damaged = events.note_recovery(journal, recovery, at_ms=_unix_ms())
    return (recovery.render(),) if damaged else ()


def _unix_ms() -> int:
    """What a person reads as the time."""
    return time.time_ns() // 1_000_000


# --- what systemd and the operator see --------------------------------------------------------------------------------


def _line(context: DaemonContext, hub: Hub) -> str:
    stopping, returning = context.stopping.is_set(), context.returning.is_set()
    return status_line(hub.pools().pools, stopping=stopping, returning=returning)


def _status_of(context: DaemonContext, hub: Hub) -> Callable[[bytes], None]:
    """Keeps the unit's status line true, saying nothing twice."""
    said = _line(context, hub)

    def tell(_frame: bytes) -> None:
        nonlocal said
        line = _line(context, hub)
        if line != said:
            said = line
            context.notifier.status(line)

    return tell
