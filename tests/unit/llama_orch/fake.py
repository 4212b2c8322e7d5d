"""A stand-in for orchestratord that speaks the contract: one canned answer, and faults on request.

tests/integration/llama_orch runs the same client against the real one.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from contracts.artifacts import ArtifactInfo, ArtifactRequest, canonical
from contracts.catalog import CatalogModel, CatalogModels
from contracts.config import Engine, FullPolicy, Mode, Profile
from contracts.errors import STATUS, ErrorBody, ErrorCode
from contracts.events import End, FinishReason, Metrics, Started, StreamError, Token
from contracts.pools import (
    Capabilities,
    Capability,
    Gates,
    PolicyInfo,
    PoolError,
    PoolHealth,
    PoolList,
    PoolMetrics,
    PoolState,
    QueueInfo,
)
from contracts.sessions import SessionInfo
from contracts.tasks import (
    Priority,
    StreamLinks,
    TaskAccepted,
    TaskForecast,
    TaskList,
    TaskRequest,
    TaskState,
    TaskStatus,
    Workload,
)
from orchestratord.http.receipts import ReceiptRoutes
from orchestratord.shelf import Head, artifact_of, sealed
from tests.support.memory_ledger import MemoryLedger

TOKEN = "t0ken-of-the-fake"
PIECES = (" rain on", " the old", " roof\n", "still ünd warm")
TEXT = "".join(PIECES)


class FakeDaemon:
    def __init__(self) -> None:
        self.pieces: tuple[str, ...] = PIECES
        self.drops: list[int] = []
        """After how many tokens the connection breaks, for each of the next streams."""
        self.forgetful = False
        """Whether a returning reader gets everything again."""
        self.refusal: ErrorBody | None = None
        self.error: StreamError | None = None
        self.moved: Metrics | None = None
        """Where a task goes on whose replica died before its first token."""
        self.pool_state = PoolState.READY
        self.pool_error: PoolError | None = None
        self.managed = True
        self.version: str | None = None
        self.pool_next: list[PoolHealth] = []
        """How the pool is from one look to the next, once something was asked of it; the last one stays."""
        self.asked: list[tuple[str, bytes]] = []
        """What was asked of pools: the path, the body."""
        self.ended = TaskState.CANCELED
        """What became of a task that was canceled."""
        self.hold_after: int | None = None
        """How many tokens come before the stream waits for a cancel."""
        self.requests: list[TaskRequest] = []
        self.last_event_ids: list[str | None] = []
        self.canceled = asyncio.Event()
        self.holding = asyncio.Event()
        self.sessions: list[str | None] = []
        self.conversations: dict[str, SessionInfo] = {}
        self.ledger = MemoryLedger()
        self.left: dict[str, str | None] = {}
        """The ids of the receipts of the tasks that are known; while it is empty every task is."""
        self.leaves: Callable[[str], str] | None = None
        """Has a task leave its receipt when somebody asks for its state."""
        self.kept: dict[str, tuple[str, ...]] | None = None
        """The streams of tasks of former days; None: they have the one answer, too."""
        self.given: list[ArtifactRequest] = []
        """What was to be kept."""
        self.models: dict[str, CatalogModel] = {}
        self.model_next: list[CatalogModel] = []
        """How the model is from one look to the next, once something was asked of it; the last one stays."""
        self.pool_list: tuple[PoolHealth, ...] = ()
        """The pools, where there is more than the one."""
        self.task_list: tuple[TaskStatus, ...] = ()
        """More tasks than those that were asked for."""
        self.series = ""
        """What Prometheus is told."""

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._authenticate])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/v1/capabilities", self._capabilities),
                web.get("/metrics", self._metrics),
                web.get("/v1/pools", self._pools),
                web.get("/v1/pools/trial/health", self._pool),
                web.post("/v1/pools/trial/{verb}", self._ask),
                web.get("/v1/catalog/models", self._models),
                web.post("/v1/catalog/models", self._ask_model),
                web.get("/v1/catalog/models/{id}", self._model),
                web.post("/v1/catalog/models/{id}/{verb}", self._ask_model),
                web.delete("/v1/catalog/models/{id}", self._delete_model),
                web.get("/v1/sessions/{id}", self._session),
                web.delete("/v1/sessions/{id}", self._session),
                *ReceiptRoutes(self.ledger).table(),
                web.get("/v1/artifacts/{id}", self._artifact),
                web.post("/v1/artifacts", self._put_artifact),
                web.get("/v1/tasks", self._list),
                web.post("/v1/tasks", self._submit),
                web.get("/v1/tasks/{id}/stream", self._stream),
                web.post("/v1/tasks/{id}/cancel", self._cancel),
                web.get("/v1/tasks/{id}", self._task),
            ]
        )
        return app

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path != "/healthz" and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return refusal(ErrorCode.MISSING_TOKEN, "a token is needed", hint="send one")
        return await handler(request)

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _capabilities(self, request: web.Request) -> web.Response:
        return answer(
            Capabilities(
                api_version="1.0",
                profile=Profile.TRIAL,
                policies=PolicyInfo(
                    outbound_default="allow", allow_package_installs=False, allow_binary_downloads=False
                ),
                pools=(
                    Capability(
                        pool_id="trial",
                        engine=Engine.LLAMACPP,
                        engine_version="b1",
                        provisioning_mode=Mode.PACKAGE,
                        model_ref="/haiku.gguf",
                        ctx_max=512,
                        slots=1,
                        workloads=(Workload.COMPLETION,),
                        features=(),
                        sampler_profile_version="v1",
                        queue=QueueInfo(capacity=64, policy=FullPolicy.REJECT, depth=0),
                        devices=(),
                        ready=self.pool_state is PoolState.READY,
                    ),
                ),
                version=self.version,
            )
        )

    async def _pools(self, request: web.Request) -> web.Response:
        return answer(PoolList(pools=self.pool_list or (self.health(),), managed=self.managed))

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(text=self.series)

    async def _pool(self, request: web.Request) -> web.Response:
        if not self.asked or not self.pool_next:
            return answer(self.health())
        return answer(self.pool_next.pop(0) if len(self.pool_next) > 1 else self.pool_next[0])

    async def _ask(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, await request.read()))
        return answer(self.health(), 202)

    async def _models(self, request: web.Request) -> web.Response:
        return answer(CatalogModels(models=tuple(self.models.values())))

    async def _model(self, request: web.Request) -> web.Response:
        if self.asked and self.model_next:
            return answer(self.model_next.pop(0) if len(self.model_next) > 1 else self.model_next[0])
        name = request.match_info["id"]
        if name not in self.models:
            return refusal(ErrorCode.NOT_FOUND, f"there is no model {name!r} in the catalog", hint="valid here: m")
        return answer(self.models[name])

    async def _ask_model(self, request: web.Request) -> web.Response:
        self.asked.append((request.path, await request.read()))
        return answer(self.model_next.pop(0) if self.model_next else next(iter(self.models.values())), 202)

    async def _delete_model(self, request: web.Request) -> web.Response:
        self.asked.append((request.path_qs, b""))
        del self.models[request.match_info["id"]]
        return web.Response(status=204)

    async def _session(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if name not in self.conversations:
            return refusal(ErrorCode.NOT_FOUND, f"there is no session {name!r}", hint="it has ended")
        if request.method == "GET":
            return answer(self.conversations[name])
        del self.conversations[name]
        return web.Response(status=204)

    async def _artifact(self, request: web.Request) -> web.Response:
        found = self.ledger.get(request.match_info["id"])
        if found is None:
            return refusal(
                ErrorCode.NOT_FOUND, f"there is no artifact {request.match_info['id']!r}", hint="it has gone"
            )
        return answer(artifact_of(found))

    async def _put_artifact(self, request: web.Request) -> web.Response:
        given = msgspec.json.decode(await request.read(), type=ArtifactRequest)
        self.given.append(given)
        made = sealed(canonical(msgspec.json.decode(given.content)), Head(kind=given.kind, created_ms=0))
        return answer(ArtifactInfo(id=made.id, kind=given.kind, created_ms=0, size_bytes=len(made.content)), 201)

    def health(self, state: PoolState | None = None, model_ref: str = "/haiku.gguf", **more: object) -> PoolHealth:
        """The one pool."""
        state = state or self.pool_state
        chosen: dict[str, object] = {
            "live": True,
            "ready": state is PoolState.READY,
            "draining": state is PoolState.DRAINING,
            "gates": Gates(),
            "restarts": 0,
            "metrics": PoolMetrics(queue_depth=0, active=0, slots=1),
            "last_error": self.pool_error,
        }
        return PoolHealth(pool_id="trial", state=state, model_ref=model_ref, **(chosen | more))  # type: ignore[arg-type]

    async def _list(self, request: web.Request) -> web.Response:
        tasks = tuple(
            TaskStatus(
                task_id=task.task_id or "?",
                job_id="j",
                state=TaskState.DONE,
                priority=Priority.INTERACTIVE,
                workload=task.workload,
                model_ref=task.model_ref,
                created_ms=1_700_000_000_000,
                tokens_out=4,
                decode_time_ms=8,
                finish_reason="stop",
            )
            for task in reversed(self.requests)
        )
        tasks += self.task_list
        wanted = request.query.get("state")
        return answer(TaskList(tasks=tuple(task for task in tasks if wanted in {None, str(task.state)})))

    async def _submit(self, request: web.Request) -> web.StreamResponse:
        task = msgspec.json.decode(await request.read(), type=TaskRequest)
        self.requests.append(task)
        if self.refusal is not None:
            return web.Response(
                status=STATUS[self.refusal.code],
                body=msgspec.json.encode(self.refusal),
                content_type="application/json",
            )
        if request.query.get("dry_run") == "true":
            return answer(FORECAST)
        task_id = task.task_id or "t"
        if "text/event-stream" in request.headers.get("Accept", ""):
            return await self._write(request, task_id, after=-1)
        links = StreamLinks(sse=f"/v1/tasks/{task_id}/stream")
        accepted = TaskAccepted(
            task_id=task_id, job_id="j", queue_position=0, predicted_start_ms=1, backoff_ms=0, streams=links
        )
        return answer(accepted, 202)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        last = request.headers.get("Last-Event-ID")
        self.last_event_ids.append(last)
        after = -1 if self.forgetful else int(last or -1)
        task_id = request.match_info["id"]
        if self.kept is not None and not any(task.task_id == task_id for task in self.requests):
            return await self._write_kept(request, task_id)
        return await self._write(request, task_id, after=after)

    async def _write_kept(self, request: web.Request, task_id: str) -> web.StreamResponse:
        pieces = (self.kept or {}).get(task_id)
        if pieces is None:
            return refusal(ErrorCode.NOT_FOUND, f"there is no task {task_id!r}", hint="it was forgotten")
        tokens = (frame("token", Token(t=text, i=i), i) for i, text in enumerate(pieces))
        body = frame("started", started(task_id)) + b"".join(tokens) + frame("end", end("".join(pieces)))
        return web.Response(body=body, content_type="text/event-stream")

    async def _cancel(self, request: web.Request) -> web.Response:
        self.canceled.set()
        return web.Response(status=204)

    async def _task(self, request: web.Request) -> web.Response:
        task_id = request.match_info["id"]
        if self.leaves is not None and any(task.task_id == task_id for task in self.requests):
            self.leaves(task_id)
        if self.left and task_id not in self.left and not any(task.task_id == task_id for task in self.requests):
            return refusal(ErrorCode.NOT_FOUND, f"there is no task {task_id!r}", hint="it was forgotten")
        return answer(
            TaskStatus(
                artifact_id=self.left.get(task_id),
                task_id=task_id,
                job_id="j",
                state=self.ended,
                priority=Priority.INTERACTIVE,
                workload=Workload.COMPLETION,
                model_ref="/haiku.gguf",
                created_ms=1_700_000_000_000,
                finish_reason="stop" if self.ended is TaskState.DONE else None,
                error_code="WORKER_RESET" if self.ended is TaskState.FAILED else None,
            )
        )

    async def _write(self, request: web.Request, task_id: str, after: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": ping\n\n")
        drop = self.drops.pop(0) if self.drops else None
        if after < 0:
            await response.write(frame("metrics", Metrics(queue_position=1, predicted_start_ms=90_000)))
            await response.write(frame("started", started(task_id)))
            if self.moved is not None:
                await response.write(frame("metrics", self.moved))
        for i, text in enumerate(self.pieces):
            if drop == i:
                # The connection breaks in the middle of a frame.
                await response.write(b"event: token\ndata: {")
                if request.transport is not None:
                    request.transport.abort()
                return response
            if self.hold_after == i:
                self.holding.set()
                await self.canceled.wait()
                break
            if request.transport is None or request.transport.is_closing():
                return response
            if i > after:
                await response.write(frame("token", Token(t=text, i=i), i))
        await response.write(frame("novelty", Metrics()))
        shown = self.pieces if self.hold_after is None else self.pieces[: self.hold_after]
        if self.error is not None:
            await response.write(frame("error", self.error))
        else:
            await response.write(frame("end", end("".join(shown), canceled=self.hold_after is not None)))
        return response


FORECAST = TaskForecast(
    queue_position=3,
    predicted_start_ms=40_000,
    predicted_start_low_ms=20_000,
    predicted_start_high_ms=65_000,
    predicted_end_ms=52_000,
    pool_id="trial",
    replica_id="trial-0",
    eligible_pools=("trial",),
    kv_warmth=False,
    prompt_tokens=5,
    prompt_tokens_counted=True,
    new_tokens=4,
)


def started(task_id: str) -> Started:
    return Started(
        task_id=task_id,
        job_id="j",
        queue_position=0,
        predicted_start_ms=1,
        engine="llamacpp",
        engine_version="b1",
        model_digest="sha256:" + "ab" * 32,
        pool_id="trial",
        replica_id="trial-0",
        profile=Profile.TRIAL,
        seed=7,
        kv_warmth=False,
    )


def end(text: str, *, canceled: bool = False) -> End:
    return End(
        tokens_in=5,
        tokens_out=4,
        decode_time_ms=8,
        decode_ms=8,
        first_token_ms=3,
        queue_time_ms=1,
        finish_reason=FinishReason.CANCELED if canceled else FinishReason.STOP,
        stream_sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def frame(kind: str, event: msgspec.Struct, number: int | None = None) -> bytes:
    identity = b"" if number is None else b"id: %d\n" % number
    return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), identity, msgspec.json.encode(event))


def answer(value: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def refusal(code: ErrorCode, message: str, *, hint: str) -> web.Response:
    body = ErrorBody(code=code, message=message, hint=hint, retriable=False, correlation_id="c-1")
    return answer(body, STATUS[code])


@asynccontextmanager
async def serving(fake: FakeDaemon) -> AsyncIterator[str]:
    """The fake on a loopback port of its own; answers with the URL."""
    runner = web.AppRunner(fake.app(), shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
