"""Houses in which the documented examples are played, by what must be so before.

``real`` is both daemons with a real llama.cpp server; ``scripted`` the real orchestratord before a stand-in engine and
a scripted pool-managerd, for what the real ones cannot be brought to at will.
"""

from __future__ import annotations

import asyncio
import io
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from contracts import rpc
from contracts.catalog import CatalogJob
from contracts.config import FullPolicy, Pool, Queue, Timeouts
from contracts.examples import catalog, pools
from contracts.examples.artifacts import PLAN
from contracts.examples.base import CORRELATION_ID, DIGEST, Given
from contracts.pools import PoolState
from contracts.rpc import Method, Push
from daemon_core.steps import finished
from llama_orch.trial import haiku_model_path
from tests.contract.documented import TOKEN, Answer, Documented
from tests.integration.orchestratord.house import House, house, read_until, tokens_in
from tests.integration.orchestratord.manager import Manager, listening
from tests.integration.orchestratord.test_control import linked
from tests.standin.knobs import Fault, HttpError, Knobs
from tests.standin.server import StandIn
from tests.support.installation import Installation
from tests.unit.orchestratord.world import pool, snapshot

MODELS = "/srv/models"
SERVED = f"{MODELS}/haiku.gguf"
POEM = {"task_id": "poem-1", "model_ref": "haiku", "prompt": "Write a haiku about snow.", "seed": 7, "max_tokens": 3}
STREAM = {"Accept": "text/event-stream"}


class Scene:
    """Where one example is played: who answers, and what the document's paths are called there."""

    def __init__(self, client: aiohttp.ClientSession, places: dict[str, str], *, stand_in: bool) -> None:
        self._client = client
        self._places = places
        self.stand_in = stand_in
        self.before: Callable[[], None] | None = None
        """What somebody else does while the answer is read."""

    async def play(self, example: Documented) -> Answer:
        body = io.BytesIO(self._here(example.body)) if example.body is not None else None
        async with self._client.request(example.method, example.url, data=body, headers=example.sent) as answer:
            if self.before is not None:
                first = await read_until(answer, lambda got: tokens_in(got) == 2)
                self.before()
                said = first + await answer.read()
            else:
                said = await answer.read()
            return Answer(
                answer.status, {name.lower(): value for name, value in answer.headers.items()}, self._there(said)
            )

    def _here(self, body: bytes) -> bytes:
        for documented, real in self._places.items():
            body = body.replace(documented.encode(), real.encode())
        return body

    def _there(self, body: bytes) -> bytes:
        for documented, real in self._places.items():
            body = body.replace(real.encode(), documented.encode())
        return body


# --- both real daemons ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def real(folder: Path, given: str) -> AsyncIterator[Scene]:
    """Both daemons and a real engine, with what is given."""
    models = folder / "models"
    models.mkdir()
    shutil.copy(haiku_model_path(), models / "haiku.gguf")
    policy: dict[str, object] = {"outbound": {"deny": ["hf:"]}} if given == Given.HUB_DENIED else {}
    installation = Installation(folder / "home", models / "haiku.gguf", policy=policy)
    installation.environ["LLORCH_API_TOKEN"] = TOKEN
    document = json.loads(installation.config.read_text()) | SETTINGS.get(Given(given), {})
    installation.config.write_text(json.dumps(document))
    index = installation.root / ".local/share/llama-orch/catalog"
    async with installation:
        if given in {Given.NEVER_MANAGED, Given.NO_MANAGER}:
            await (await installation.orchestrator.start()).logged("listening on")
        else:
            await installation.up()
        url = f"http://127.0.0.1:{installation.port}"
        async with aiohttp.ClientSession(url) as client:
            await _arrange(client, models, index, given)
            yield Scene(
                client,
                {MODELS: str(models), "/srv/catalog": str(index), "/srv/artifacts": str(index.parent / "artifacts")},
                stand_in=False,
            )


SETTINGS: dict[Given, dict[str, Any]] = {
    Given.SESSION_OVER: {"sessions": {"max_turns": 1, "token_budget": 1000}},
    Given.BUDGET: {"sessions": {"token_budget": 1000}},
    Given.SESSION_BUDGET: {"sessions": {"token_budget": 1000}},
    Given.RATE: {"limits": {"requests_per_minute": 1}},
}
TURNS = {Given.SESSION, Given.SESSION_BUDGET, Given.SESSION_OVER}


async def _arrange(client: aiohttp.ClientSession, models: Path, index: Path, given: str) -> None:
    known = {"Authorization": f"Bearer {TOKEN}"}
    if given in {Given.FILE, Given.CATALOGUED}:
        shutil.copy(haiku_model_path(), models / "epic.gguf")
    if given == Given.CATALOGUED:
        body = {"model_ref": str(models / "epic.gguf")}
        async with client.post("/v1/catalog/models", json=body, headers=known) as answer:
            assert answer.status == 201, await answer.text()
    if given in {Given.TASK_ENDED, Given.RATE, *TURNS}:
        poem = POEM | ({"session_id": "poems"} if given in TURNS else {})
        named = {"X-Correlation-Id": CORRELATION_ID}
        async with client.post("/v1/tasks", json=poem, headers=known | STREAM | named) as answer:
            assert b"event: end" in await answer.read()
    artifacts = index.parent / "artifacts"
    if given in {Given.ARTIFACT, Given.ARTIFACT_UNREADABLE}:
        async with client.post("/v1/artifacts", json=PLAN, headers=known) as answer:
            assert answer.status == 201, await answer.text()
    if given in {Given.NO_DISK, Given.ARTIFACT_UNREADABLE}:
        shutil.rmtree(artifacts)
        artifacts.write_text("")
    if given == Given.CATALOG_DAMAGED:
        (index / "models.json").write_text("{")


# --- scripted ---------------------------------------------------------------------------------------------------------

STUCK = Knobs(fault=Fault.HANG, fault_after=2, tokens=100)
ENGINES = {
    Given.ENGINE_DIES: Knobs(fault=Fault.CLOSE, fault_after=2, tokens=100),
    Given.ENGINE_OVERLOADED: Knobs(http_error=HttpError(status=429, body='{"error":{"message":"too many requests"}}')),
}


@asynccontextmanager
async def scripted(folder: Path, given: str) -> AsyncIterator[Scene]:
    """The real orchestratord before a stand-in and a scripted manager, with what is given."""
    knobs = ENGINES.get(Given(given), STUCK)
    policy = FullPolicy.DROP_LRU if given == Given.QUEUE_FULL_DROP_LRU else FullPolicy.REJECT
    idle = Timeouts(idle_ms=2_000) if given == Given.ENGINE_HANGS else Timeouts()
    mine = pool("trial", model=SERVED, timeouts=idle, queue=Queue(capacity=1, full_policy=policy))
    limit = 1 if given == Given.STREAMS_OPEN else 256
    manager = Manager(snapshot("trial", model_ref=SERVED, model_id="haiku"))
    manager.answers.update({method: _answer_of(given) for method in Method if method not in {"hello", "subscribe"}})
    async with (
        StandIn(knobs) as engine,
        listening(manager, folder / "manager.sock"),
        house(folder, None, mine, token=TOKEN, max_streams_per_client=limit) as here,
        asyncio.TaskGroup() as group,
    ):
        running = await linked(here, group)
        broken = given == Given.NO_ENGINE
        here.report(
            "http://127.0.0.1:1" if broken else engine.url,
            "trial",
            model_ref=SERVED,
            model_id="haiku",
            model_digest=DIGEST,
            slots=1,
            ctx_max=512,
            engine_version="b1",
            **(_BROKEN if broken else {}),
        )
        async with _busy(here, mine, given):
            scene = Scene(here.client, {}, stand_in=True)
            if given == Given.SOMEBODY_CANCELS:
                scene.before = lambda: here.orchestrator.cancel(here.orchestrator.get("poem-1"), "client")
            yield scene
        for task in finished(here.orchestrator.select(None, 10)):
            here.orchestrator.cancel(task, "client")
        running.cancel()


_BROKEN = {
    "state": PoolState.BROKEN,
    "endpoint": None,
    "gates": pools.CRASHED.gates,
    "last_error": pools.CRASHED.last_error,
}


def _answer_of(given: str) -> Callable[[rpc.Request], bytes]:
    def answer(request: rpc.Request) -> bytes:
        if given == Given.CATALOG_LOCKED:
            body = catalog.LOCKED
            return rpc.refusal(request.id, rpc.RpcCode.CONFLICT, body.message, {"hint": str(body.hint)})
        if given == Given.PULLED:
            job = catalog.COMING.job
            assert isinstance(job, CatalogJob)
            return rpc.notification(Push.CATALOG_JOB, job) + rpc.answer(request.id, job)
        return rpc.refusal(request.id, rpc.RpcCode.INTERNAL, pools.MISTAKE.message)

    return answer


@asynccontextmanager
async def _busy(here: House, mine: Pool, given: str) -> AsyncIterator[None]:
    """The tasks, streams and pulls that there are."""
    known = {"Authorization": f"Bearer {TOKEN}"}
    here.client.headers.update(known)
    if given == Given.PULLED:
        async with here.client.post("/v1/catalog/models", json={"model_ref": catalog.HUB_REF}) as answer:
            assert answer.status == 201, await answer.text()
    full = {Given.QUEUE_FULL, Given.QUEUE_FULL_DROP_LRU}
    if given in {*full, Given.QUEUE_LONG, Given.STREAMS_OPEN, Given.TASK_RUNS}:
        first = await here.submit(
            **POEM | {"max_tokens": 100, "task_id": "poem-0" if given in {*full, Given.QUEUE_LONG} else "poem-1"}
        )
        async with here.client.get(f"/v1/tasks/{first}/stream") as answer:
            await read_until(answer, lambda got: tokens_in(got) == 2)
            if given in full:
                await here.submit(**POEM | {"task_id": "poem-2"})
            here.client.headers.pop("Authorization")
            yield
        return
    here.client.headers.pop("Authorization")
    yield


REAL = {
    Given.READY,
    Given.TASK_ENDED,
    Given.NEVER_MANAGED,
    Given.NO_MANAGER,
    Given.CATALOG_DAMAGED,
    Given.FILE,
    Given.CATALOGUED,
    Given.HUB_DENIED,
    Given.SESSION,
    Given.SESSION_BUDGET,
    Given.BUDGET,
    Given.SESSION_OVER,
    Given.RATE,
    Given.ARTIFACT,
    Given.ARTIFACT_UNREADABLE,
    Given.NO_DISK,
}


def scene(folder: Path, given: str) -> AbstractAsyncContextManager[Scene]:
    """Where an example with this condition is played."""
    return real(folder, given) if given in REAL else scripted(folder, given)
