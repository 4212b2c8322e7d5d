"""What an engine does not say is not known: older releases, hidden documents, other models, repeated keys."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from adapters.base import Adapter, EngineError, Failure, Generation, Props
from adapters.http import EngineHttp
from adapters.registry import adapter_for
from contracts.config import Engine
from contracts.pools import Endpoint
from contracts.tasks import Workload

KEY = "sesame-open-wide"
COMPLETION, CHAT = Workload.COMPLETION, Workload.CHAT
EMBEDDING, RERANK = Workload.EMBEDDING, Workload.RERANK
Answer = tuple[int, object]


class Scripted:
    """A server that has these routes and no others. A route is a status and a body, or what makes one of a request."""

    def __init__(self) -> None:
        self.url = ""
        self.routes: dict[str, Answer | Callable[[Any], Answer]] = {}
        self.asked: list[str] = []
        self.bodies: dict[str, Any] = {}

    async def answer(self, request: web.Request) -> web.Response:
        route = f"{request.method} {request.path}"
        body = json.loads(await request.read() or b"null")
        self.asked.append(route)
        self.bodies[route] = body
        found = self.routes.get(route, (404, {"detail": "Not Found"}))
        status, said = found(body) if callable(found) else found
        if isinstance(said, bytes):
            return web.Response(status=status, body=said, content_type="text/event-stream")
        return web.json_response(said, status=status)


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    scripted = Scripted()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", scripted.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scripted.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield scripted
    await runner.cleanup()


def adapter_at(server: Scripted, engine: Engine, http: EngineHttp, model: str | None = None) -> Adapter:
    return adapter_for(engine, Endpoint(url=server.url, api_key=KEY), http, model)


async def failure_of(adapter: Adapter, generation: Generation) -> EngineError:
    try:
        async with adapter.submit(generation) as batches:
            async for _ in batches:
                pass
    except EngineError as error:
        return error
    raise AssertionError("it came to a good end")


def models(*names: str, context: int | None = 64) -> Answer:
    return 200, {"object": "list", "data": [{"id": name, "max_model_len": context, "parent": None} for name in names]}


def listing(*paths: str, fields: tuple[str, ...] = ()) -> Answer:
    schema: dict[str, object] = {"properties": {field: {} for field in fields}}
    body = {"content": {"application/json": {"schema": schema}}}
    return 200, {"openapi": "3.1.0", "paths": {path: {"post": {"requestBody": body}} for path in paths}}


# --- vLLM -------------------------------------------------------------------------------------------------------------

EVERY_ROUTE = ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v1/rerank", "/tokenize")
NO_API: Answer = (400, {"error": {"message": "The model does not support this API", "type": "BadRequestError"}})
GOOD: Answer = (200, {})


@pytest.mark.req("AD-04")
@pytest.mark.parametrize("listed", [listing(*EVERY_ROUTE), (404, {"detail": "Not Found"}), (403, "nobody sees this")])
@pytest.mark.parametrize(
    ("works", "workloads"),
    [
        ({"POST /v1/completions", "POST /tokenize"}, (COMPLETION, CHAT)),
        ({"POST /v1/completions"}, (COMPLETION,)),
        ({"POST /v1/embeddings", "POST /v1/rerank", "POST /tokenize"}, (EMBEDDING, RERANK)),
    ],
)
async def test_a_vllm_that_lists_everything_or_nothing_is_tried(
    server: Scripted, http: EngineHttp, listed: Answer, works: set[str], workloads: tuple[Workload, ...]
) -> None:
    server.routes = {"GET /v1/models": models("m"), "GET /openapi.json": listed}
    server.routes |= {f"POST {path}": GOOD if f"POST {path}" in works else NO_API for path in EVERY_ROUTE}
    props = await adapter_at(server, Engine.VLLM, http).props()
    assert props.workloads == workloads
    assert (props.engine_version, props.ctx_max) == (None, 64)
    assert server.bodies["POST /v1/completions"] == {"model": "m", "prompt": "a", "max_tokens": 1}


@pytest.mark.req("AD-04")
async def test_a_vllm_that_lists_what_it_serves_computes_nothing(server: Scripted, http: EngineHttp) -> None:
    routes = listing("/v1/completions", "/v1/chat/completions", fields=("structured_outputs", "response_format"))
    server.routes = {
        "GET /v1/models": models("m"),
        "GET /openapi.json": routes,
        "GET /version": (200, {"version": "0.32.0"}),
        "POST /tokenize": (200, {"count": 1}),
    }
    props = await adapter_at(server, Engine.VLLM, http).props()
    assert (props.engine_version, props.workloads) == ("0.32.0", (COMPLETION, CHAT))
    assert {"grammar", "json_schema"} <= set(props.features)
    assert "cache_prompt" not in props.features
    assert [route for route in server.asked if route.startswith("POST")] == ["POST /tokenize"]


# --- any other server of the protocol ---------------------------------------------------------------------------------


@pytest.mark.req("AD-04")
async def test_a_server_without_a_document_is_asked_route_by_route(server: Scripted, http: EngineHttp) -> None:
    server.routes = {
        "GET /v1/models": models("m", context=None),
        "POST /v1/completions": (501, {"error": {"message": "no", "type": "not_supported_error"}}),
        "POST /v1/chat/completions": (422, {"detail": "messages is missing"}),
        "POST /v1/embeddings": (400, {"error": {"message": "input is missing"}}),
    }
    props = await adapter_at(server, Engine.OPENAI, http).props()
    assert props == Props(workloads=(CHAT, EMBEDDING), features=props.features)
    assert server.bodies["POST /v1/chat/completions"] == {"model": "m", "max_tokens": 1}


@pytest.mark.req("AD-04")
async def test_features_are_the_fields_that_a_server_lists(server: Scripted, http: EngineHttp) -> None:
    fields = ("seed", "top_k", "repetition_penalty", "response_format", "structured_outputs")
    server.routes = {
        "GET /v1/models": models("m"),
        "GET /openapi.json": listing("/v1/completions", "/tokenize", "/v2/rerank", fields=fields),
    }
    props = await adapter_at(server, Engine.OPENAI, http).props()
    assert props.workloads == (COMPLETION, RERANK)
    wanted = {"seed", "top_k", "repeat_penalty", "completion_json_schema", "tokenize", "rest_of_context"}
    assert wanted <= set(props.features)
    assert not {"min_p", "grammar"} & set(props.features)


async def test_the_pools_model_is_asked_for_where_there_are_several(server: Scripted, http: EngineHttp) -> None:
    server.routes = {"GET /v1/models": models("one", "two"), "GET /openapi.json": listing("/v1/embeddings")}
    server.routes["POST /v1/embeddings"] = (200, {"data": [{"index": 0, "embedding": [1.0]}]})
    asked = Generation(workload=EMBEDDING, inputs=("a",))
    async with adapter_at(server, Engine.OPENAI, http, "two").submit(asked) as batches:
        assert [batch.texts async for batch in batches] == [['{"index":0,"embedding":[1.0]}']]
    assert server.bodies["POST /v1/embeddings"]["model"] == "two"
    with pytest.raises(EngineError, match="set the pool's model to one of one, two"):
        await adapter_at(server, Engine.OPENAI, http, "three").props()


@pytest.mark.parametrize("engine", [Engine.OPENAI, Engine.VLLM])
async def test_a_model_that_is_gone_is_asked_for_anew(server: Scripted, http: EngineHttp, engine: Engine) -> None:
    ended = b'data: {"choices":[{"index":0,"text":"a","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

    def complete(body: dict[str, Any]) -> Answer:
        return (200, ended) if body["model"] == "new" else (404, {"error": {"message": "no such model"}})

    server.routes = {"GET /v1/models": models("old"), "POST /v1/completions": complete}
    adapter, asked = adapter_at(server, engine, http), Generation(prompt="a", max_tokens=1)
    assert (await failure_of(adapter, asked)).failure is Failure.PROTOCOL
    server.routes["GET /v1/models"] = models("new")
    async with adapter.submit(asked) as batches:
        assert [batch.texts async for batch in batches] == [["a"]]


async def test_a_completion_that_would_stop_after_16_tokens_is_refused(server: Scripted, http: EngineHttp) -> None:
    server.routes = {"GET /v1/models": models("m", context=None)}
    refused = await failure_of(adapter_at(server, Engine.OPENAI, http), Generation(prompt="a"))
    assert refused.failure is Failure.INVALID
    assert refused.message.startswith("max_tokens: ")
    assert "POST /v1/completions" not in server.asked


# --- TGI and Triton ---------------------------------------------------------------------------------------------------


@pytest.mark.req("AD-04")
@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ({}, Props()),
        ({"GET /info": (200, {"version": "1.0.0", "max_total_tokens": 64})}, Props(workloads=(COMPLETION,))),
        ({"GET /info": (200, {"model_type": {"embedding": {}}, "max_input_length": 512})}, Props()),
        (
            {
                "GET /info": (200, {"router": "text-generation-router", "new_field": [1]}),
                "POST /chat_tokenize": (200, {"tokenize_response": [{"id": 1}], "templated_text": "a"}),
            },
            Props(workloads=(COMPLETION, CHAT)),
        ),
    ],
)
async def test_what_tgi_does_not_say(
    server: Scripted, http: EngineHttp, routes: dict[str, Answer], expected: Props
) -> None:
    server.routes = dict(routes)
    assert (await adapter_at(server, Engine.TGI, http).props()).workloads == expected.workloads


@pytest.mark.req("AD-04")
async def test_a_triton_that_hides_its_models_serves_nothing(server: Scripted, http: EngineHttp) -> None:
    server.routes = {"POST /v2/repository/index": (200, [{"name": "m", "version": "1", "state": "READY"}])}
    props = await adapter_at(server, Engine.TRITON, http).props()
    assert props == Props(features=("cancel_on_close",))


async def test_a_triton_model_that_is_gone_is_looked_for_anew(server: Scripted, http: EngineHttp) -> None:
    index = [{"name": "old", "version": "1", "state": "READY"}]
    described = {"inputs": [{"name": "text_input"}, {"name": "max_tokens"}], "outputs": [{"name": "text_output"}]}
    server.routes = {"POST /v2/repository/index": (200, index), "GET /v2/models/old": (200, described)}
    adapter, asked = adapter_at(server, Engine.TRITON, http), Generation(prompt="a", max_tokens=1)
    assert (await failure_of(adapter, asked)).failure is Failure.PROTOCOL
    index[0]["name"] = "new"
    server.routes["GET /v2/models/new"] = (200, described)
    server.routes["POST /v2/models/new/generate_stream"] = (200, b'data: {"text_output":"a"}\n\n')
    async with adapter.submit(asked) as batches:
        assert [text async for batch in batches for text in batch.texts] == ["a"]


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("AD-02")
async def test_a_key_that_an_engine_repeats_in_its_stream_is_not_told(server: Scripted, http: EngineHttp) -> None:
    said = f'data: {{"error":{{"message":"key {KEY} expired","code":401}}}}\n\n'.encode()
    server.routes = {"GET /v1/models": models("m"), "POST /v1/completions": (200, said)}
    refused = await failure_of(adapter_at(server, Engine.OPENAI, http), Generation(prompt="a", max_tokens=1))
    assert refused.failure is Failure.UNAUTHORIZED
    assert KEY not in refused.message
    assert "expired" in refused.message


@pytest.mark.req("AD-04")
@pytest.mark.parametrize("engine", list(Engine))
@pytest.mark.parametrize(
    ("answer", "failure"),
    [((401, {"error": "Unauthorized"}), Failure.UNAUTHORIZED), ((429, {"error": "slow down"}), Failure.OVERLOADED)],
)
async def test_an_engine_that_cannot_say_it_now_is_not_taken_to_serve_nothing(
    server: Scripted, http: EngineHttp, engine: Engine, answer: Answer, failure: Failure
) -> None:
    asked = ("GET /props", "GET /info", "GET /v2", "GET /v1/models", "POST /v2/repository/index")
    server.routes = dict.fromkeys(asked, answer)
    with pytest.raises(EngineError) as caught:
        await adapter_at(server, engine, http).props()
    assert caught.value.failure is failure
