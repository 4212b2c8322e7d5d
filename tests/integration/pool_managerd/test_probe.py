"""The prober against real listeners that answer, load, refuse, hang and lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from contracts.engines import HttpProbe
from contracts.pools import Cause, Endpoint
from pool_managerd.errors import StepError
from pool_managerd.probe import Health, Prober, Timing
from pool_managerd.process import free_port

QUICK = Timing(first_s=0.002, slowest_s=0.01, look_s=600, watch_s=0.005, misses=3)
HEALTH = HttpProbe(path="/health")
ONE_TOKEN = HttpProbe(path="/completion", body='{"n_predict": 1}')
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Engine:
    """A listener that answers the next of its answers, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[web.Response | Handler] = []
        self.requests: list[tuple[str, str, str | None, str]] = []
        self.endpoint = Endpoint(url="", api_key="the-key")

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path, request.headers.get("Authorization"), await request.text()))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return (
            web.Response(status=answer.status, body=answer.body)
            if isinstance(answer, web.Response)
            else await answer(request)
        )


def status(number: int, text: str = "") -> web.Response:
    return web.Response(status=number, text=text)


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")


async def drop(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", engine.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    engine.endpoint = Endpoint(url=f"http://127.0.0.1:{runner.addresses[0][1]}", api_key="the-key")
    yield engine
    await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as client:
        yield client


@pytest.fixture
async def prober(client: aiohttp.ClientSession) -> Prober:
    return Prober(client, QUICK)


def soon(seconds: float = 300.0) -> float:
    return asyncio.get_running_loop().time() + seconds


@pytest.mark.parametrize(
    ("answer", "health", "detail"),
    [
        (status(200), Health.OK, "status 200 from /health"),
        (status(503), Health.LOADING, "status 503 from /health"),
        (status(404), Health.ODD, "status 404 from /health"),
        (drop, Health.ODD, "ServerDisconnectedError: Server disconnected"),
    ],
    ids=["ok", "loading", "odd", "dropped"],
)
async def test_what_an_engine_shows_is_told_apart(
    engine: Engine, prober: Prober, answer: web.Response | Handler, health: Health, detail: str
) -> None:
    engine.answers = [answer]
    look = await prober.look(engine.endpoint, HEALTH)
    assert (look.health, look.detail) == (health, detail)


async def test_an_engine_that_does_not_answer_in_time_is_silent(engine: Engine, client: aiohttp.ClientSession) -> None:
    engine.answers = [hang]
    look = await Prober(client, replace(QUICK, look_s=0.2)).look(engine.endpoint, HEALTH)
    assert (look.health, look.detail) == (Health.SILENT, "no answer within 0.2 s")


@pytest.mark.trap(6, by="pool_managerd")
async def test_a_port_without_listener_is_refused(prober: Prober) -> None:
    look = await prober.look(Endpoint(url=f"http://127.0.0.1:{free_port()}"), HEALTH)
    assert look.health is Health.REFUSED
    assert "connect" in look.detail


@pytest.mark.trap(6, by="pool_managerd")
async def test_health_is_waited_for_through_loading_with_the_key(engine: Engine, prober: Prober) -> None:
    engine.answers = [status(503), status(503), status(200)]
    await prober.await_health(engine.endpoint, HEALTH, soon())
    assert engine.requests == [("GET", "/health", "Bearer the-key", "")] * 3


async def test_an_engine_that_never_gets_healthy_runs_out_of_time(
    engine: Engine, prober: Prober, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, asked_again = asyncio.get_running_loop(), asyncio.Event()

    async def later(request: web.Request) -> web.StreamResponse:
        asked_again.set()
        return await hang(request)

    engine.answers = [status(503), later]
    looking = loop.create_task(prober.await_health(engine.endpoint, HEALTH, soon(300)))
    await asked_again.wait()
    now = loop.time
    monkeypatch.setattr(loop, "time", lambda: now() + 300)  # the time is over, and this look's is not
    with pytest.raises(StepError) as caught:
        await looking
    assert caught.value.cause is Cause.START_TIMEOUT
    assert caught.value.message == "the engine is not healthy after its start: status 503 from /health"
    assert "timeouts.start_ms" in (caught.value.hint or "")


async def test_a_generation_proves_that_the_engine_works(engine: Engine, prober: Prober) -> None:
    engine.answers = [status(200, '{"content": "a"}')]
    await prober.prove_generation(engine.endpoint, ONE_TOKEN, soon())
    assert engine.requests == [("POST", "/completion", "Bearer the-key", '{"n_predict": 1}')]


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        (status(500, "boom"), "a generation fails: status 500: boom", "log"),
        (status(401, "who?"), "a generation fails: status 401: who?", "does another server answer on its port?"),
        (status(200, '{"error": "no memory"}'), 'a generation fails: status 200: {"error": "no memory"}', "log"),
        (drop, "a generation fails: ServerDisconnectedError", "log"),
    ],
    ids=["500", "401", "error-in-200", "dropped"],
)
async def test_a_generation_that_fails_is_shown(
    engine: Engine, prober: Prober, answer: web.Response | Handler, message: str, hint: str
) -> None:
    engine.answers = [answer]
    with pytest.raises(StepError) as caught:
        await prober.prove_generation(engine.endpoint, ONE_TOKEN, soon())
    assert caught.value.cause is Cause.ENGINE_UNHEALTHY
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


async def test_a_generation_that_hangs_runs_out_of_time(engine: Engine, prober: Prober) -> None:
    engine.answers = [hang]
    with pytest.raises(StepError) as caught:
        await prober.prove_generation(engine.endpoint, ONE_TOKEN, soon(0.1))
    assert caught.value.cause is Cause.START_TIMEOUT


async def test_only_failures_in_a_row_make_a_ready_engine_unhealthy(engine: Engine, prober: Prober) -> None:
    bad, good = status(503), status(200)
    engine.answers = [bad, bad, good, bad, bad, good, bad]
    with pytest.raises(StepError) as caught:
        await prober.watch(engine.endpoint, HEALTH)
    assert caught.value.cause is Cause.ENGINE_UNHEALTHY
    assert len(engine.requests) == 9
    text = "the engine was ready and is not healthy any more: status 503 from /health, 3 times in a row"
    assert caught.value.message == text


EMBEDS = HttpProbe(path="/completion", body="{}", instead=HttpProbe(path="/v1/embeddings", body='{"input":["a"]}'))


@pytest.mark.parametrize("unserved", [404, 405, 501])
async def test_an_engine_that_embeds_is_asked_to_embed(engine: Engine, prober: Prober, unserved: int) -> None:
    engine.answers = [status(unserved), status(200, '{"data":[]}')]
    await prober.prove_generation(engine.endpoint, EMBEDS, soon())
    assert [path for _, path, _, _ in engine.requests] == ["/completion", "/v1/embeddings"]


async def test_an_engine_that_serves_neither_does_not_work(engine: Engine, prober: Prober) -> None:
    engine.answers = [status(404, "the model `m` does not exist"), status(501, "no embeddings")]
    with pytest.raises(StepError, match="status 404: the model `m` does not exist; status 501: no embeddings"):
        await prober.prove_generation(engine.endpoint, EMBEDS, soon())


async def test_a_failing_generation_is_not_excused_by_what_else_there_is(engine: Engine, prober: Prober) -> None:
    engine.answers = [status(500, "broken"), status(200)]
    with pytest.raises(StepError, match="status 500: broken"):
        await prober.prove_generation(engine.endpoint, EMBEDS, soon())
