"""The stand-in against the real llama.cpp server: a test that passes with it must pass with the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.standin.knobs import Knobs
from tests.standin.process import standin_process
from tests.standin.server import StandIn
from tests.support.raw_http import RawAnswer, is_kept, raw
from tests.support.real_llamacpp import real_llamacpp
from tests.support.tiny_gguf import write_tiny_gguf

KEY = "sesame-open-wide"
KNOBS = Knobs(slots=1, ctx=512, close_streams=True)
COMPLETION = {"prompt": "hello", "n_predict": 3, "stream": True, "seed": 1}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True, "seed": 1}
Both = tuple[str, str]


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    """The URLs of the real server and of the stand-in, with the same slots, context and key."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    async with real_llamacpp(model, ctx=512, key=KEY) as real, StandIn(KNOBS, key=KEY) as standin:
        yield real, standin.url


def shape(value: object) -> object:
    """The keys in their order and the kinds of the values; numbers are one kind, a list is its first member's."""
    match value:
        case dict():
            return [(key, shape(item)) for key, item in value.items()]
        case list():
            return [shape(item) for item in value[:1]]
        case bool() | None | str():
            return type(value).__name__
        case _:
            return "number"


def shape_of(data: bytes) -> object:
    return data if data == b"[DONE]" else shape(msgspec.json.decode(data))


def head_of(answer: RawAnswer) -> tuple[bytes, dict[str, str]]:
    return answer.status_line, {**answer.headers, "Content-Length": "n"}


def less(some: object, other: object) -> bool:
    """Whether an object has only keys that the other has too, with values of the same kinds."""
    if isinstance(some, dict) and isinstance(other, dict):
        return all(key in other and less(value, other[key]) for key, value in some.items())
    if isinstance(some, list) and isinstance(other, list):
        return less(some[0], other[0]) if some and other else True
    return shape(some) == shape(other)


@pytest.mark.parametrize(
    ("path", "body", "framing"),
    [
        pytest.param("/completion", COMPLETION, [1, 1, 1, 1], id="completion"),
        pytest.param("/v1/chat/completions", CHAT, [2, 1, 1, 1, 1], id="chat"),
        pytest.param(
            "/v1/chat/completions",
            {**CHAT, "stream_options": {"include_usage": True}, "reasoning_format": "none"},
            [2, 1, 1, 2, 1],
            id="chat with usage",
        ),
    ],
)
async def test_a_stream_has_the_same_head_framing_and_fields(
    both: Both, path: str, body: dict[str, object], framing: list[int]
) -> None:
    real, standin = [await raw(url, path, body, key=KEY) for url in both]
    assert head_of(standin) == head_of(real)
    assert [len(chunk) for chunk in real.events] == framing
    assert [list(map(shape_of, chunk)) for chunk in standin.events] == [
        list(map(shape_of, chunk)) for chunk in real.events
    ]


async def test_the_final_event_says_the_same(both: Both) -> None:
    said = {"stop": True, "stop_type": "limit", "tokens_predicted": 3, "id_slot": 0, "truncated": False, "content": ""}
    for url in both:
        final = msgspec.json.decode((await raw(url, "/completion", COMPLETION, key=KEY)).events[-1][0])
        assert said.items() <= final.items()
        assert final["generation_settings"]["seed"] == 1


async def test_a_whole_answer_has_the_fields_of_the_final_event(both: Both) -> None:
    body = {**COMPLETION, "stream": False}
    real, standin = [await raw(url, "/completion", body, key=KEY) for url in both]
    assert head_of(standin) == head_of(real)
    assert less(msgspec.json.decode(standin.body), msgspec.json.decode(real.body))


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        pytest.param("/completion", COMPLETION, "wrong", id="wrong key"),
        pytest.param("/props", None, None, id="no key"),
        pytest.param("/nowhere", None, KEY, id="no such path"),
        pytest.param("/metrics", None, KEY, id="metrics are off"),
        pytest.param("/health", None, None, id="health needs no key"),
    ],
)
async def test_plain_answers_are_the_same_bytes(both: Both, path: str, body: object, key: str | None) -> None:
    real, standin = [await raw(url, path, body, key=key) for url in both]
    assert head_of(standin) == head_of(real)
    assert standin.body == real.body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("/completion", b'{"prompt": "x", nonsense', id="no JSON"),
        pytest.param("/completion", {"stream": True}, id="no prompt"),
        pytest.param("/completion", {**COMPLETION, "prompt": "hello world " * 500}, id="over the context"),
        pytest.param(
            "/v1/chat/completions",
            {**CHAT, "messages": [{"role": "user", "content": "hello world " * 500}]},
            id="a chat over the context",
        ),
    ],
)
async def test_refusals_have_the_same_head_and_fields(both: Both, path: str, body: object) -> None:
    real, standin = [await raw(url, path, body, key=KEY) for url in both]
    assert head_of(standin) == head_of(real)
    assert shape_of(standin.body) == shape_of(real.body)
    kinds = [msgspec.json.decode(answer.body)["error"]["type"] for answer in (real, standin)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(("stream", "kept"), [(True, False), (False, True)])
async def test_the_connection_of_a_stream_is_closed_whatever_its_head_says(
    both: Both, stream: bool, kept: bool
) -> None:
    for url in both:
        assert await is_kept(url, "/completion", {**COMPLETION, "stream": stream}, key=KEY) is kept


@pytest.mark.parametrize("path", ["/props", "/slots", "/v1/models"])
async def test_what_it_says_of_itself_the_real_one_says_too(both: Both, path: str) -> None:
    for url in both:
        await raw(url, "/completion", COMPLETION, key=KEY)  # a slot that never worked says less
    real, standin = [await raw(url, path, key=KEY) for url in both]
    assert head_of(standin) == head_of(real)
    assert less(msgspec.json.decode(standin.body), msgspec.json.decode(real.body))


async def test_templates_and_tokens_are_answered_alike(both: Both) -> None:
    for path, body in (("/tokenize", {"content": "hello", "add_special": True}), ("/apply-template", CHAT)):
        real, standin = [await raw(url, path, body, key=KEY) for url in both]
        assert shape_of(standin.body) == shape_of(real.body)
        assert head_of(standin) == head_of(real)


async def test_a_child_counts_and_takes_new_knobs() -> None:
    async with standin_process(Knobs(tokens=2), key=KEY) as engine:
        await raw(engine.url, "/completion", {"prompt": "x", "stream": True}, key=KEY)
        await engine.set(Knobs(tokens=5))
        answer = await raw(engine.url, "/completion", {"prompt": "x", "stream": True}, key=KEY)
        stats = await engine.stats()
    assert len(answer.events) == 6
    assert (stats.requests, stats.completed, stats.peak, stats.tokens) == (2, 2, 1, 7)
