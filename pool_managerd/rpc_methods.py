"""Answers the calls of orchestratord and the operator's tools.

Decides which parameters a call takes and which error a bad one gets. Changes nothing itself: what is asked of a pool
goes to its owner's inbox, and the answer says that it was taken, not that it is done.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import UNSET

from contracts.base import Message
from contracts.config import Pool
from contracts.pools import PoolSnapshot
from contracts.rpc import (
    MAX_FRAME_BYTES,
    MAX_LOG_LINES,
    PROTOCOL,
    DrainParams,
    Empty,
    Findings,
    GpuSet,
    Hello,
    JobsParams,
    LogLine,
    LogParams,
    LogTail,
    Method,
    PoolRef,
    ReloadParams,
    Request,
    RpcCode,
    answer,
    raw,
    same_major,
)
from pool_managerd import catalog_methods
from pool_managerd.catalog_methods import CatalogMethods
from pool_managerd.engine_log import latest
from pool_managerd.errors import StepError
from pool_managerd.gpu import Gpus
from pool_managerd.host import Engines
from pool_managerd.hub import Hub
from pool_managerd.life import DrainAsked, Event, ReloadAsked, RestartAsked, WorkEnded
from pool_managerd.log_feed import MAX_ID_CHARS, MAX_SHOWN_CHARS, LogFeed
from pool_managerd.rpc_params import params_of, pool_named
from pool_managerd.rpc_server import RpcError
from pool_managerd.snapshot import health
from pool_managerd.taking_over import TakingOver

_log = logging.getLogger(__name__)

NAME = "pool-managerd"


class PoolMethods:
    """The methods of pool-managerd. ``post`` puts an event into a pool's inbox."""

    def __init__(
        self,
        *,
        version: str,
        hub: Hub,
        post: Callable[[str, Event], None],
        gpus: Gpus,
        pools: Mapping[str, Pool],
        engines: Mapping[str, Engines],
        feed: LogFeed,
        logs: Path,
        taking_over: TakingOver,
        catalog: CatalogMethods | None = None,
    ) -> None:
        self._version = version
        self._hub = hub
        self._post = post
        self._gpus = gpus
        self._pools = pools
        self._engines = engines
        self._feed = feed
        self._logs = logs
        self._taking_over = taking_over
        self._catalog = catalog

    def hello(self, request: Request) -> Hello:
        """See ``pool_managerd.rpc_server.Methods``."""
        theirs = params_of(request, Hello)
        if not same_major(PROTOCOL, theirs.protocol):
            text = f"{NAME} speaks protocol {PROTOCOL}, {theirs.name} speaks {theirs.protocol}: update the older one"
            raise RpcError(RpcCode.VERSION_MISMATCH, text, {"ours": PROTOCOL, "theirs": theirs.protocol})
        return Hello(protocol=PROTOCOL, name=NAME, version=self._version)

    async def worth_following(self) -> None:
        """See ``pool_managerd.rpc_server.Methods``."""
        await self._taking_over.settled()

    def subscribe(self, request: Request, listener: Callable[[bytes], None]) -> tuple[bytes, Callable[[], None]]:
        """See ``pool_managerd.rpc_server.Methods``."""
        return answer(request.id, self._hub.pools()), self._hub.subscribe(listener)

    def follow(self, request: Request, listener: Callable[[bytes], None]) -> tuple[bytes, Callable[[], None]]:
        """See ``pool_managerd.rpc_server.Methods``."""
        params = params_of(request, LogParams)
        wanted = tuple(self._pools) if params.pool_id is None else (self._snapshot(params.pool_id).pool_id,)
        each = max(0, min(params.lines, MAX_LOG_LINES)) // max(1, len(wanted))
        lines = [
            LogLine(pool_id=pool_id, line=line[:MAX_SHOWN_CHARS])
            for pool_id in wanted
            for line in latest(self._logs / f"{pool_id}.log", each)
        ]
        return answer(request.id, _fitting(lines)), self._feed.follow(params.pool_id, listener)

    async def call(self, request: Request) -> bytes:
        """See ``pool_managerd.rpc_server.Methods``."""
        if request.correlation_id is not UNSET:
            extra = {"correlation_id": request.correlation_id[:MAX_ID_CHARS], "method": request.method}
            if (pool_id := pool_named(request)) is not None:
                extra["pool_id"] = pool_id[:MAX_ID_CHARS]
            _log.info("a client of orchestratord asks for %s", request.method, extra=extra)
        return answer(request.id, await self._result(request))

    async def _result(self, request: Request) -> Message:
        match request.method:
            case Method.POOL_LIST:
                return self._hub.pools()
            case Method.POOL_HEALTH:
                return health(self._snapshot(params_of(request, PoolRef).pool_id))
            case Method.POOL_DRAIN:
                drain = params_of(request, DrainParams)
                return self._ask(drain.pool_id, DrainAsked(deadline_ms=max(0, drain.deadline_ms)))
            case Method.POOL_RESTART:
                return self._ask(params_of(request, PoolRef).pool_id, RestartAsked())
            case Method.POOL_IDLE:
                return self._ask(params_of(request, PoolRef).pool_id, WorkEnded())
            case Method.POOL_RELOAD:
                reload = params_of(request, ReloadParams)
                event = ReloadAsked(model_ref=reload.new_model_ref, deadline_ms=max(0, reload.deadline_ms))
                return self._ask(reload.pool_id, event)
            case Method.POOL_JOBS:
                jobs = params_of(request, JobsParams)
                self._feed.works_for(self._snapshot(jobs.pool_id).pool_id, jobs.correlation_ids)
                return Empty()
            case Method.GPU_LIST:
                return GpuSet(gpus=(await asyncio.to_thread(self._gpus.inventory)).gpus)
            case Method.ENGINE_PLAN | Method.ENGINE_PREFLIGHT:
                return await self._engine(request)
            case method if self._catalog is not None and method in catalog_methods.ANSWERED:
                return await self._catalog.call(request)
            case _:
                known = ", ".join(sorted(ANSWERED))
                raise RpcError(RpcCode.METHOD_NOT_FOUND, f"no method {request.method!r}; there are: {known}")

    def _ask(self, pool_id: str, event: Event) -> Empty:
        self._snapshot(pool_id)
        self._post(pool_id, event)
        return Empty()

    def _snapshot(self, pool_id: str) -> PoolSnapshot:
        found = self._hub.pool(pool_id)
        if found is None:
            known = ", ".join(self._pools)
            raise RpcError(RpcCode.UNKNOWN_POOL, f"no pool {pool_id!r}; there are: {known}", {"pool_id": pool_id})
        return found

    async def _engine(self, request: Request) -> Message:
        pool_id = self._snapshot(params_of(request, PoolRef).pool_id).pool_id
        pool, engines = self._pools[pool_id], self._engines[pool_id]
        try:
            if request.method == Method.ENGINE_PLAN:
                return engines.plan(pool)
            return Findings(pool_id=pool_id, findings=await engines.preflight(pool))
        except StepError as error:
            data = {"pool_id": pool_id, "cause": str(error.cause), "hint": error.hint or ""}
            raise RpcError(RpcCode.CONFLICT, error.message, data) from error


def _fitting(lines: list[LogLine]) -> LogTail:
    """As many of the latest lines as surely fit into a frame."""
    room, kept = MAX_FRAME_BYTES // 2, []
    for line in reversed(lines):
        room -= len(raw(line))
        if room < 0:
            break
        kept.append(line)
    return LogTail(lines=tuple(reversed(kept)))


ANSWERED = catalog_methods.ANSWERED | frozenset(
    {
        Method.HELLO,
        Method.SUBSCRIBE,
        Method.POOL_LIST,
        Method.POOL_HEALTH,
        Method.POOL_DRAIN,
        Method.POOL_RESTART,
        Method.POOL_RELOAD,
        Method.POOL_JOBS,
        Method.POOL_LOG,
        Method.POOL_IDLE,
        Method.GPU_LIST,
        Method.ENGINE_PLAN,
        Method.ENGINE_PREFLIGHT,
    }
)
"""What this version answers."""
