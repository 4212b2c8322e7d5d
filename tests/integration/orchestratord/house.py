"""orchestratord in this process: the real HTTP application on a real port, before an engine that speaks real bytes."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from adapters.http import EngineHttp
from adapters.registry import adapter_for
from contracts.config import Auth, Config, Limits, Pool, Queue, Sessions, Timeouts
from contracts.pools import Endpoint
from daemon_core.redaction import Redactor
from orchestratord import attendant
from orchestratord.archive import Archive
from orchestratord.artifacts import ArtifactStore
from orchestratord.auth import Authenticator
from orchestratord.catalog import CatalogView
from orchestratord.clock import SystemClock
from orchestratord.database import Database
from orchestratord.entrance import Sources
from orchestratord.http import sse_writer
from orchestratord.http.app import make_http_app
from orchestratord.jobs import Jobs
from orchestratord.keeper import Keeper
from orchestratord.listener import listening
from orchestratord.manager import LinkedManager
from orchestratord.metrics import Metrics
from orchestratord.observer import Observer
from orchestratord.orchestrator import Orchestrator
from orchestratord.pool_link import PoolLink
from orchestratord.pools import LinkState, PoolDirectory
from orchestratord.recorder import Recorder
from orchestratord.retention import Bounds
from orchestratord.tls import Certificate
from tests.support.stream_grammar import check
from tests.unit.orchestratord.frames import Frame, frames_of
from tests.unit.orchestratord.world import MODEL, config, pool, snapshot

TOKEN = "a-token-that-is-long-enough"
EVENT_STREAM = "text/event-stream"
BODY: dict[str, Any] = {"model_ref": MODEL, "prompt": "hello", "max_tokens": 8}


def keeper_in(folder: Path, settings: Config, recorder: Recorder, redactor: Redactor) -> Keeper:
    """A task store on this disk."""
    bounds = Bounds(tasks=settings.server.keep_finished, max_bytes=1 << 30, max_age_ms=1 << 40)
    seal = recorder.seal if settings.artifacts.records else None
    database = Database.opened(folder / "data" / "tasks.sqlite3")
    durability = settings.store.durability
    return Keeper(database, clock=SystemClock(), bounds=bounds, durability=durability, seal=seal, redactor=redactor)


class House:
    """A running orchestratord and a client of it."""

    def __init__(
        self,
        settings: Config,
        folder: Path,
        authenticator: Authenticator,
        *,
        http: EngineHttp,
        archive: Archive,
        redactor: Redactor,
    ) -> None:
        self.config = settings
        self.redactor = redactor
        self.archive = archive
        self.metrics = Metrics()
        self.pools = PoolDirectory(settings, lambda each, endpoint: adapter_for(each.engine, endpoint, http))
        ids, seeds = itertools.count(1), itertools.count(100)
        sources = Sources(new_id=lambda: f"n{next(ids)}", new_seed=lambda: next(seeds))
        recorder = Recorder(settings.profile, redactor, SystemClock().unix_ms)
        self.keeper = keeper_in(folder, settings, recorder, redactor)
        manager = LinkedManager()
        self.jobs = Jobs(manager.works_for)
        observer = Observer(self.metrics, self.jobs)
        self.orchestrator = Orchestrator(
            settings, self.pools, SystemClock(), sources, observer, keeper=self.keeper, manager=manager
        )
        self.catalog = CatalogView(folder / "catalog", self.pools)
        self.metrics.watch(self.pools, self.orchestrator.backlog, lambda: self.catalog.entries)
        self.link = PoolLink(
            folder / "manager.sock",
            "1",
            on_report=self.orchestrator.report,
            on_link=self.pools.linked,
            on_job=lambda job: self.metrics.verified(job) if self.catalog.take(job) else None,
            on_notices=self.pools.noticed,
        )
        manager.link = self.link
        self.app = make_http_app(
            settings,
            authenticator,
            orchestrator=self.orchestrator,
            pools=self.pools,
            link=self.link,
            metrics=self.metrics,
            catalog=self.catalog,
            archive=archive,
            ledger=self.keeper,
            redactor=redactor,
        )
        self.url = ""
        self.client: aiohttp.ClientSession

    def report(self, url: str, pool_id: str = "p", **changes: Any) -> None:  # noqa: ANN401 - any field of the snapshot
        """The pool's engine serves at ``url``."""
        engine = next(each.engine for each in self.config.pools if each.id == pool_id)
        fields: dict[str, Any] = {"endpoint": Endpoint(url=url), "engine": engine, "slots": 4, "ctx_max": 1 << 20}
        fields |= changes
        self.orchestrator.report(snapshot(pool_id, **fields))

    # --- a client ---

    async def submit(self, **changes: Any) -> str:  # noqa: ANN401 - any field of the request
        """Submit a valid task with these changes; answers with its id."""
        async with self.client.post("/v1/tasks", json=BODY | changes) as answer:
            assert answer.status == 202, await answer.text()
            return str((await answer.json())["task_id"])

    async def stream(self, task_id: str, *, after: int | None = None) -> bytes:
        """A task's stream to its end, behind a token where asked for; a wrong one fails the test."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        async with self.client.get(f"/v1/tasks/{task_id}/stream", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            said = await answer.read()
        check(said, after=-1 if after is None else after)
        return said

    async def get(self, path: str) -> Any:  # noqa: ANN401 - whatever JSON is served there
        async with self.client.get(path) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def cancel(self, task_id: str) -> int:
        async with self.client.post(f"/v1/tasks/{task_id}/cancel") as answer:
            return answer.status


@asynccontextmanager
async def house(
    folder: Path,
    engine_url: str | None = None,
    *pools: Pool,
    token: str | None = None,
    auth: Auth | None = None,
    timeouts: Timeouts | None = None,
    report: dict[str, Any] | None = None,
    sessions: Sessions | None = None,
    limits: Limits | None = None,
    certificate: Certificate | None = None,
    **server: Any,  # noqa: ANN401 - any field of the server
) -> AsyncIterator[House]:
    """A house whose pool is ready where ``engine_url`` is given; the client needs no token unless asked otherwise."""
    auth = auth or Auth(optional=token is None)
    settings = config(
        *(pools or (pool(timeouts=timeouts or Timeouts(), queue=Queue()),)), **({"bind": "127.0.0.1:0"} | server)
    )
    settings = msgspec.structs.replace(settings, sessions=sessions or Sessions(), limits=limits or Limits(), auth=auth)
    try:
        store = ArtifactStore(folder / "artifacts", settings.artifacts, SystemClock().unix_ms)
        redactor = Redactor((token or "",))
        archive = Archive(store, redactor, SystemClock().unix_ms)
        async with EngineHttp(redactor=redactor) as http, archive, asyncio.TaskGroup() as group:
            door = Authenticator(token, optional=auth.optional, trust_proxy=auth.trust_proxy)
            made = House(settings, folder, door, http=http, archive=archive, redactor=redactor)
            stopping = asyncio.Event()
            group.create_task(made.orchestrator.run(stopping))
            try:
                async with _listening(made, certificate):
                    if engine_url is not None:
                        made.pools.linked(LinkState.UP)
                        for each in settings.pools:
                            made.report(engine_url, each.id, **(report or {}))
                    yield made
            finally:
                stopping.set()
        made.keeper.close()
    except BaseExceptionGroup as several:
        if len(several.exceptions) > 1:
            raise
        raise several.exceptions[0] from None  # a failed assertion reads better alone


@asynccontextmanager
async def _listening(made: House, certificate: Certificate | None) -> AsyncIterator[None]:
    serving = listening(made.app, made.config, certificate=certificate, close_timeout_s=1.0)
    async with serving as made.url, aiohttp.ClientSession(made.url) as made.client:
        yield


async def read_until(answer: aiohttp.ClientResponse, seen: Callable[[bytes], bool]) -> bytes:
    """Everything that came until ``seen`` says it is enough."""
    got = b""
    while not seen(got):
        more = await answer.content.readany()
        assert more, f"the stream ended early: {got!r}"
        got += more
    return got


def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who waits is told how long: that comes twice a second, into the streams of all that wait just then."""
    monkeypatch.setattr(attendant, "LOOK_EVERY_S", 3_600.0)


def slow_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the limit for slow readers hold for clients that call themselves ``Slow`` alone.

    All of them are in this process. One that reads takes nothing either while the process stands still, or checks what
    it has read; how long that lasts is nothing that a test with a limit of some hundred milliseconds could know.
    """
    write = sse_writer.SseWriter.write

    async def writing(writer: sse_writer.SseWriter, request: web.Request, response: sse_writer.SseResponse) -> bool:
        if request.headers.get("User-Agent") != "Slow":
            writer._patience = msgspec.structs.replace(writer._patience, slow_s=600.0)  # noqa: SLF001 - as said
        return await write(writer, request, response)

    monkeypatch.setattr(sse_writer.SseWriter, "write", writing)


def tokens_in(stream: bytes) -> int:
    """How many tokens are complete."""
    return sum(frame.event == "token" for frame in complete(stream))


def complete(stream: bytes) -> list[Frame]:
    """The events that are there as a whole."""
    return frames_of(stream[: stream.rfind(b"\n\n") + 2])


def json_of(body: bytes) -> dict[str, Any]:
    """A JSON object."""
    return msgspec.json.decode(body, type=dict[str, Any])
