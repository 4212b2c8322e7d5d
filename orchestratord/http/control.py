"""The routes of the control plane: what there is, how it is, and what an operator can do about it.

Decides how the live state is put into words. What changes a pool is pool-managerd's: it is asked over the socket.
"""

from __future__ import annotations

import asyncio

import msgspec
from aiohttp import web

from contracts import rpc
from contracts.base import nearest
from contracts.errors import ErrorCode
from contracts.pools import (
    API_VERSION,
    ArtifactPolicy,
    Capabilities,
    Capability,
    DrainRequest,
    LimitInfo,
    PolicyInfo,
    PoolHealth,
    PoolList,
    PoolMetrics,
    PoolState,
    QueueInfo,
    ReloadRequest,
    SessionPolicy,
)
from daemon_core.version import version
from orchestratord import determinism
from orchestratord.catalog import CatalogView
from orchestratord.errors import api_error
from orchestratord.http.edge import json_response
from orchestratord.http.errors import Body, decode
from orchestratord.http.manager import ask
from orchestratord.metrics import Metrics
from orchestratord.orchestrator import Orchestrator
from orchestratord.pool_link import PoolLink
from orchestratord.pools import PoolDirectory, PoolEntry

HEALTHY = b'{"status": "ok"}'
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class ControlRoutes:
    """Handlers over the live state."""

    def __init__(
        self,
        pools: PoolDirectory,
        orchestrator: Orchestrator,
        link: PoolLink,
        metrics: Metrics,
        *,
        catalog: CatalogView,
    ) -> None:
        self._pools = pools
        self._orchestrator = orchestrator
        self._link = link
        self._metrics = metrics
        self._catalog = catalog
        self._openapi: bytes | None = None
        # Now, since an upgrade changes what is installed and not what runs.
        self._version = version()

    def table(self) -> list[web.RouteDef]:
        """Where each handler is found."""
        return [
            web.get("/healthz", self.healthz),
            web.get("/metrics", self.metrics),
            web.get("/openapi.json", self.openapi),
            web.get("/v1/capabilities", self.capabilities),
            web.get("/v1/pools", self.pools),
            web.get("/v1/pools/{pool_id}/health", self.health),
            web.post("/v1/pools/{pool_id}/drain", self.drain),
            web.post("/v1/pools/{pool_id}/reload", self.reload),
        ]

    async def healthz(self, _request: web.Request) -> web.Response:
        """``GET /healthz``: the daemon answers. Says nothing else, since it asks for no token."""
        return web.Response(body=HEALTHY, content_type="application/json")

    async def metrics(self, _request: web.Request) -> web.Response:
        """``GET /metrics``."""
        await self._catalog.refresh_quietly()
        await self._metrics.refresh()
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": EXPOSITION})

    async def openapi(self, _request: web.Request) -> web.Response:
        """``GET /openapi.json``. Made when somebody asks for it, beside the loop: it takes as long as many tokens."""
        if self._openapi is None:
            self._openapi = await asyncio.to_thread(_document)
        return web.Response(body=self._openapi, content_type="application/json")

    async def capabilities(self, _request: web.Request) -> web.Response:
        """``GET /v1/capabilities``."""
        config = self._orchestrator.config
        policy, server = config.policy, config.server
        answer = Capabilities(
            api_version=API_VERSION,
            profile=config.profile,
            policies=PolicyInfo(
                outbound_default=policy.outbound.default,
                allow_package_installs=policy.allow_package_installs,
                allow_binary_downloads=policy.allow_binary_downloads,
                hook=policy.hook is not None,
            ),
            pools=tuple(self._capability(entry) for entry in self._pools),
            limits=LimitInfo(
                max_body_bytes=server.max_body_bytes,
                max_streams_per_client=server.max_streams_per_client,
                keep_finished=server.keep_finished,
                requests_per_minute=config.limits.requests_per_minute,
                tokens_per_minute=config.limits.tokens_per_minute,
            ),
            sessions=msgspec.convert(config.sessions, SessionPolicy, from_attributes=True),
            artifacts=msgspec.convert(config.artifacts, ArtifactPolicy, from_attributes=True),
            version=self._version,
        )
        return json_response(answer)

    async def pools(self, _request: web.Request) -> web.Response:
        """``GET /v1/pools``."""
        pools = tuple(self._health(entry) for entry in self._pools)
        return json_response(PoolList(pools=pools, managed=self._pools.managed, notices=self._pools.notices))

    async def health(self, request: web.Request) -> web.Response:
        """``GET /v1/pools/{id}/health``."""
        return json_response(self._health(self._entry(request)))

    async def drain(self, request: web.Request) -> web.Response:
        """``POST /v1/pools/{id}/drain``."""
        entry = self._entry(request)
        body = await _body(request, DrainRequest)
        params = rpc.DrainParams(pool_id=entry.id, deadline_ms=self._patience(entry, body.deadline_ms))
        await ask(self._link, rpc.Method.POOL_DRAIN, params, rpc.Empty, cause=request)
        return json_response(self._health(entry), 202)

    async def reload(self, request: web.Request) -> web.Response:
        """``POST /v1/pools/{id}/reload``."""
        entry = self._entry(request)
        body = await _body(request, ReloadRequest)
        # In full, whatever runs now: more will until the new engine takes over. When none does, pool-managerd is told.
        ref, patience = body.new_model_ref, body.deadline_ms
        params = rpc.ReloadParams(pool_id=entry.id, new_model_ref=ref, deadline_ms=patience)
        await ask(self._link, rpc.Method.POOL_RELOAD, params, rpc.Empty, cause=request)
        return json_response(self._health(entry), 202)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _entry(self, request: web.Request) -> PoolEntry:
        pool_id = request.match_info["pool_id"]
        entry = self._pools.get(pool_id)
        if entry is None:
            hint = nearest(pool_id, [each.id for each in self._pools])
            raise api_error(ErrorCode.NOT_FOUND, f"there is no pool {pool_id!r}", hint)
        return entry

    def _patience(self, entry: PoolEntry, deadline_ms: int) -> int:
        """How long running work gets to finish: none at all where nothing runs. pool-managerd cannot see that."""
        return deadline_ms if self._orchestrator.runner.active(entry.id) else 0

    def _health(self, entry: PoolEntry) -> PoolHealth:
        snapshot = entry.snapshot
        return PoolHealth(
            pool_id=entry.id,
            live=snapshot.live,
            ready=snapshot.ready,
            draining=snapshot.state in {PoolState.DRAINING, PoolState.RELOADING},
            state=snapshot.state,
            gates=snapshot.gates,
            restarts=snapshot.restarts,
            metrics=PoolMetrics(
                queue_depth=self._orchestrator.backlog.depth(entry.id),
                active=self._orchestrator.runner.active(entry.id),
                slots=entry.slots,
                vram_free_bytes=snapshot.vram_free_bytes if snapshot.device_use else None,
                devices=snapshot.device_use,
            ),
            model_ref=snapshot.model_ref,
            next_model_ref=snapshot.next_model_ref,
            last_error=snapshot.last_error,
            retry_at_ms=snapshot.retry_at_ms,
            managed=self._pools.managed,
        )

    def _capability(self, entry: PoolEntry) -> Capability:
        snapshot, queue = entry.snapshot, entry.config.queue
        return Capability(
            pool_id=entry.id,
            engine=snapshot.engine,
            provisioning_mode=snapshot.provisioning_mode,
            model_ref=snapshot.model_ref,
            ctx_max=entry.ctx_max,
            slots=entry.slots,
            workloads=entry.workloads,
            features=entry.features,
            sampler_profile_version=snapshot.sampler_profile_version,
            queue=QueueInfo(
                capacity=queue.capacity,
                policy=queue.full_policy,
                depth=self._orchestrator.backlog.depth(entry.id),
                batch_share=queue.batch_share,
            ),
            devices=snapshot.devices,
            ready=snapshot.ready,
            engine_version=entry.engine_version,
            engine_digest=snapshot.engine_digest,
            model_id=snapshot.model_id,
            model_digest=snapshot.model_digest,
            strict=determinism.told(entry.view.snapshot, entry.view.workloads, entry.view.features),
        )


def _document() -> bytes:
    from contracts import openapi  # noqa: PLC0415 - with its examples a tenth of a start, and nobody may ever ask

    return msgspec.json.encode(openapi.document())


async def _body(request: web.Request, kind: type[Body]) -> Body:
    """The request's JSON body; an empty one stands for all defaults."""
    return decode(await request.read() or b"{}", kind)
