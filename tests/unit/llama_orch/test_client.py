import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, closing

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from contracts.errors import ErrorBody, ErrorCode
from contracts.events import End, Metrics, Started, StreamError, Token
from contracts.tasks import TaskRequest
from llama_orch import client as ours
from llama_orch.client import MAX_ANSWER_BYTES, MAX_FAILURES, ApiClient, backoff_s, new_task_id
from llama_orch.errors import UNREACHABLE, ApiError
from llama_orch.sse import StreamEvent
from tests.support.ports import HeldPort
from tests.unit.llama_orch.fake import PIECES, TEXT, TOKEN, FakeDaemon


def request() -> TaskRequest:
    return TaskRequest(model_ref="m", task_id=new_task_id(), prompt="p")


def client(url: str, token: str | None = TOKEN) -> ApiClient:
    return ApiClient(url, token, backoff=lambda _failures: 0.0)


async def run(url: str) -> list[StreamEvent]:
    async with client(url) as api:
        return await collect(api)


async def collect(api: ApiClient) -> list[StreamEvent]:
    async with aclosing(api.run(request())) as events:
        return [event async for event in events]


def texts(events: list[StreamEvent]) -> str:
    return "".join(event.t for event in events if isinstance(event, Token))


async def test_a_task_streams_from_one_request(fake: FakeDaemon, url: str) -> None:
    events = await run(url)
    assert [type(event) for event in events] == [Metrics, Started, *[Token] * len(PIECES), End]
    assert texts(events) == TEXT
    assert (len(fake.requests), fake.last_event_ids) == (1, [])


@pytest.mark.parametrize("drops", [[0], [1], [2, 3], [0, 0, 1, 1, 3, 3]])
async def test_a_broken_stream_goes_on_where_it_broke(fake: FakeDaemon, url: str, drops: list[int]) -> None:
    fake.drops = list(drops)
    events = await run(url)
    assert texts(events) == TEXT
    assert sum(isinstance(event, Started) for event in events) == 1
    assert isinstance(events[-1], End)
    assert len(fake.requests) == 1, "it was submitted once"
    assert fake.last_event_ids == [None if drop == 0 else str(drop - 1) for drop in drops]


async def test_what_comes_again_is_passed_over(fake: FakeDaemon, url: str) -> None:
    fake.drops, fake.forgetful = [1, 3], True
    events = await run(url)
    assert texts(events) == TEXT
    assert sum(isinstance(event, Started) for event in events) == 1


async def test_a_stream_may_break_as_often_as_it_brings_something(fake: FakeDaemon, url: str) -> None:
    fake.pieces = tuple(str(number) for number in range(2 * MAX_FAILURES))
    fake.drops = list(range(1, 2 * MAX_FAILURES))
    assert texts(await run(url)) == "".join(fake.pieces)


@pytest.mark.parametrize("drop", [0, 2])
async def test_a_stream_that_stays_broken_is_given_up(fake: FakeDaemon, url: str, drop: int) -> None:
    fake.drops = [drop] * 100
    waits: list[int] = []

    def backoff(failures: int) -> float:
        waits.append(failures)
        return 0.0

    async with ApiClient(url, TOKEN, backoff=backoff) as api:
        with pytest.raises(ApiError, match=r"the connection broke: .* \(7 times in a row\)") as caught:
            await collect(api)
    assert caught.value.exit_code == 75
    assert waits == list(range(1, MAX_FAILURES + 1))


def test_the_wait_grows_and_is_bounded() -> None:
    waits = [backoff_s(failures) for failures in range(1, 20)]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.2, 5.0)


async def test_a_stream_can_be_read_later(fake: FakeDaemon, url: str) -> None:
    async with client(url) as api:
        accepted = await api.submit(request())
        async with aclosing(api.stream(accepted.task_id, after=1)) as events:
            assert texts([event async for event in events]) == "".join(PIECES[2:])
    assert fake.last_event_ids == ["1"]


async def test_a_refusal_is_told_with_all_it_carries(fake: FakeDaemon, url: str) -> None:
    fake.refusal = ErrorBody(
        code=ErrorCode.ADMISSION_REJECT,
        message="the queue is full",
        retriable=True,
        correlation_id="c-9",
        hint="wait",
        retry_after_ms=1200,
    )
    with pytest.raises(ApiError) as caught:
        await run(url)
    error = caught.value
    assert error.render() == "ADMISSION_REJECT: the queue is full (try again in 1200 ms)\n  hint: wait"
    assert (error.exit_code, error.correlation_id, len(fake.requests)) == (75, "c-9", 1)


async def test_a_missing_token_is_a_failure_that_no_second_try_mends(url: str) -> None:
    with pytest.raises(ApiError, match="a token is needed") as caught:
        async with client(url, None) as api:
            await api.capabilities()
    assert (caught.value.code, caught.value.exit_code) == ("MISSING_TOKEN", 1)


async def test_the_token_of_another_machine_is_not_looked_for_on_this_one(url: str) -> None:
    for host, hint in (("127.0.0.1", "send one"), ("0.0.0.0", "the token is that of 0.0.0.0")):  # noqa: S104
        async with client(url.replace("127.0.0.1", host), token=None) as api:
            with pytest.raises(ApiError) as caught:
                await api.capabilities()
        said = str(caught.value.hint)
        assert said.startswith(hint)
        assert ("LLORCH_API_TOKEN_FILE" in said) == (host == "0.0.0.0")  # noqa: S104


async def test_nobody_there_is_told_at_once() -> None:
    with closing(HeldPort()) as held:
        address = f"http://127.0.0.1:{held.number}"
        async with client(address) as api:
            assert not await api.is_up()
            with pytest.raises(ApiError) as caught:
                await api.pools()
    assert caught.value.render() == (
        f"UNREACHABLE: no answer from {address}: Connection refused\n"
        "  hint: llama-orch up starts both daemons, or: systemctl --user start llama-orch.target"
    )
    assert caught.value.exit_code == 75


STRANGERS = {
    "bad-gateway": (web.Response(status=502, text="<html>", content_type="text/html"), "HTTP_502", 75),
    "not-found": (web.Response(status=404, text="nothing"), "HTTP_404", 1),
    "redirect": (web.Response(status=302), "HTTP_302", 1),
    "page": (web.Response(text="<html>", content_type="text/html"), UNREACHABLE, 1),
    "broken-json": (web.Response(text="{", content_type="application/json"), UNREACHABLE, 1),
}


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("streams", [False, True])
async def test_what_is_not_orchestratord_is_noticed(aiohttp_server: AiohttpServer, name: str, streams: bool) -> None:
    response, code, exit_code = STRANGERS[name]

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=response.status, text=response.text, content_type=response.content_type)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    server = await aiohttp_server(app)
    async with client(str(server.make_url(""))) as api:
        with pytest.raises(ApiError) as caught:
            await (collect(api) if streams else api.pools())
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    assert caught.value.hint is not None


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@asynccontextmanager
async def saying(answer: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """A server that answers every connection so, and then closes it. At the end all are closed."""
    talking: set[asyncio.Task[None] | None] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talking.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            try:
                await reader.readuntil(b"\r\n\r\n")
                await answer(writer)
                await writer.drain()
            finally:
                writer.close()
                await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for each in talking:
        if each is not None:
            await each


async def test_an_answer_that_breaks_off_is_no_defect_and_worth_another_try() -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b'Content-Length: 100\r\n\r\n{"pools":')

    async with saying(half) as address, client(address) as api:
        for ask in (api.pools, api.metrics):
            with pytest.raises(ApiError, match="broke off: the connection was closed before its end") as caught:
                await ask()
            assert (caught.value.code, caught.value.exit_code) == (UNREACHABLE, 75)


async def test_an_answer_that_does_not_come_on_is_no_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ours._whole  # noqa: SLF001 - when it is called, the head has come

    async def late(response: aiohttp.ClientResponse) -> bytes:
        loop = asyncio.get_running_loop()
        over = loop.time() + 1000
        monkeypatch.setattr(loop, "time", lambda: over)
        return await real(response)

    monkeypatch.setattr(ours, "_whole", late)

    async def begin(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b'Content-Length: 100\r\n\r\n{"pools":')
        await gone.wait()

    gone = asyncio.Event()
    async with saying(begin) as address, client(address) as api:
        with pytest.raises(ApiError, match="broke off: nothing came in time") as caught:
            await api.pools()
        gone.set()
    assert (caught.value.code, caught.value.exit_code) == (UNREACHABLE, 75)


async def test_an_answer_without_an_end_is_not_kept() -> None:
    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"\r\n")
        while True:
            writer.write(b" " * (1 << 20))
            await writer.drain()

    async with saying(flood) as address, client(address) as api:
        with pytest.raises(ApiError, match=f"more than {MAX_ANSWER_BYTES} bytes"):
            await api.pools()


async def test_what_speaks_no_http_is_told_in_words() -> None:
    async def shell(writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n")

    async with saying(shell) as address, client(address) as api:
        with pytest.raises(ApiError) as caught:
            await api.pools()
    assert caught.value.message == f"no answer from {address}: what answers there does not speak HTTP"


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "ftp://127.0.0.1", "http://", "nonsense"])
async def test_an_address_that_is_no_url_is_told(address: str) -> None:
    async with client(address) as api:
        with pytest.raises(ApiError):
            await api.pools()


async def test_a_cancel_ends_the_stream(fake: FakeDaemon, url: str) -> None:
    fake.hold_after = 1
    async with asyncio.TaskGroup() as group:
        streaming = group.create_task(run(url))
        await fake.holding.wait()
        async with client(url) as api:
            await api.cancel("any")
    events = streaming.result()
    assert isinstance(events[-1], End)
    assert (texts(events), str(events[-1].finish_reason)) == (PIECES[0], "canceled")


async def test_an_error_event_ends_the_stream(fake: FakeDaemon, url: str) -> None:
    fake.error = StreamError(code=ErrorCode.WORKER_RESET, message="the engine died", retriable=True)
    events = await run(url)
    assert events[-1] == fake.error


async def test_a_task_without_an_id_is_not_streamed(url: str) -> None:
    async with client(url) as api:
        with pytest.raises(ValueError, match="needs an id"):
            api.run(TaskRequest(model_ref="m", prompt="p"))


async def test_a_stream_is_had_as_it_was_sent_up_to_a_limit(fake: FakeDaemon, url: str) -> None:
    async with client(url) as api:
        data = await api.stream_bytes("t-1", 1 << 20)
        assert data is not None
        assert data.startswith(b": ping\n\n")
        assert data.endswith(b"\n\n")
        assert await api.stream_bytes("t-1", len(data)) == data
        assert await api.stream_bytes("t-1", len(data) - 1) is None
        fake.drops = [2]
        with pytest.raises(ApiError) as broken:
            await api.stream_bytes("t-1", 1 << 20)
    assert (broken.value.code, broken.value.retriable) == (UNREACHABLE, True)
