"""The shared client, against servers that behave badly in ways that no adapter's suite shows."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest

from adapters import questions
from adapters.base import EngineError, Failure
from adapters.http import ATTEMPTS, FIRST_PAUSE_S, LONGEST_PAUSE_S, MAX_MESSAGE, EngineHttp, Patience
from adapters.llamacpp_wire import refusal
from contracts.pools import Endpoint
from tests.standin.knobs import HttpError, Knobs
from tests.standin.server import StandIn

pytestmark = pytest.mark.req("AD-02")

KEY = "key-of-this-spawn-0123456789"
BODY = b'{"prompt":"x","stream":true}'
OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"


class Said(msgspec.Struct):
    a: int


class Server:
    """Answers every connection's first request as it is told, and keeps what was asked."""

    def __init__(self, answers: list[bytes | None], *, close: bool = True) -> None:
        self.requests: list[bytes] = []
        self.url = ""
        self._answers = answers
        self._close = close
        self._open: dict[asyncio.StreamWriter, asyncio.Event] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closed = self._open[writer] = asyncio.Event()
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            answer = self._answers[min(len(self.requests), len(self._answers)) - 1]
            if answer is not None:
                writer.write(answer)
            if answer is None or not self._close:
                await reader.read()
            writer.close()
            await writer.wait_closed()
        closed.set()

    async def left(self) -> None:
        """Wait until every client has closed its connection."""
        for closed in self._open.values():
            await closed.wait()

    async def close(self) -> None:
        for writer, closed in self._open.items():
            writer.transport.abort()
            await closed.wait()


@asynccontextmanager
async def serving(*answers: bytes | None, close: bool = True) -> AsyncIterator[Server]:
    """What each request gets; None leaves it without an answer, b"" closes. The last one repeats."""
    server = Server(list(answers), close=close)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await server.close()


async def get(http: EngineHttp, url: str, key: str | None = None) -> Said:
    return await http.get(Endpoint(url=url, api_key=key), "/props", Said, refusal)


async def post(http: EngineHttp, url: str) -> Said:
    return await http.post(Endpoint(url=url), "/tokenize", b"{}", Said, refusal)


async def stream(http: EngineHttp, url: str, key: str | None = None) -> None:
    async with http.stream(Endpoint(url=url, api_key=key), "/completion", BODY, refusal) as events:
        await events.read()


class Pauses:
    """A pause that passes no time and keeps how long it should have been."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


# --- asking again -----------------------------------------------------------------------------------------------------


async def test_a_get_whose_connection_breaks_is_asked_again() -> None:
    pauses = Pauses()
    async with (
        serving(HALF, HALF, OK) as server,
        EngineHttp(pause=pauses) as http,
    ):
        assert (await get(http, server.url)).a == 1
    assert len(server.requests) == 3
    assert len(pauses.taken) == 2


async def test_asking_again_has_an_end_and_its_pauses_are_capped_and_random() -> None:
    pauses = Pauses()
    async with serving(HALF) as server, EngineHttp(pause=pauses) as http:
        for _ in range(20):
            with pytest.raises(EngineError) as caught:
                await get(http, server.url)
            assert caught.value.failure is Failure.BROKEN
    assert len(server.requests) == 20 * ATTEMPTS
    first, second = pauses.taken[::2], pauses.taken[1::2]
    assert all(0 <= pause <= FIRST_PAUSE_S for pause in first)
    assert all(0 <= pause <= LONGEST_PAUSE_S for pause in second)
    assert len(set(first)) > 1
    assert max(second) > FIRST_PAUSE_S  # they grow


@pytest.mark.parametrize("ask", [post, stream])
async def test_what_is_no_get_is_sent_once(ask: Callable[[EngineHttp, str], Awaitable[None]]) -> None:
    pauses = Pauses()
    async with serving(b"") as server, EngineHttp(pause=pauses) as http:
        with pytest.raises(EngineError) as caught:
            await ask(http, server.url)
    assert caught.value.failure is Failure.BROKEN
    assert (len(server.requests), pauses.taken) == (1, [])


async def test_a_refusal_is_an_answer_and_not_asked_again(http: EngineHttp) -> None:
    refused = b"HTTP/1.1 500 X\r\nContent-Length: 4\r\n\r\nboom"
    async with serving(refused) as server:
        with pytest.raises(EngineError, match="the engine answered: boom"):
            await get(http, server.url)
    assert len(server.requests) == 1


# --- time -------------------------------------------------------------------------------------------------------------


async def test_a_short_question_has_a_limit() -> None:
    async with serving(None) as server, EngineHttp(patience=Patience(answer_s=1.0)) as http:
        with pytest.raises(EngineError) as caught:
            await get(http, server.url)
        assert caught.value.failure is Failure.TIMEOUT
        assert caught.value.message == f"the engine at {server.url} did not answer /props in time"
        assert await http.status(Endpoint(url=server.url), "/health") is None
    assert len(server.requests) == 2


async def test_a_stream_has_no_limit_but_its_consumers() -> None:
    async with serving(None) as server, EngineHttp(patience=Patience(answer_s=0.01, connect_s=1.0)) as http:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream(http, server.url), 1.2)


async def test_a_refusal_whose_body_never_comes_is_a_refusal() -> None:
    head = b"HTTP/1.1 429 X\r\nContent-Length: 100\r\n\r\nhal"
    async with serving(head, close=False) as server, EngineHttp(patience=Patience(answer_s=0.05)) as http:
        with pytest.raises(EngineError) as caught:
            await stream(http, server.url)
    assert caught.value.failure is Failure.OVERLOADED


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "failure"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Failure.PROTOCOL),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Failure.PROTOCOL),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":"\xff', Failure.PROTOCOL),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"a":"x"}', Failure.PROTOCOL),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", Failure.BROKEN),
    ],
)
async def test_an_answer_that_cannot_be_used(http: EngineHttp, answer: bytes, failure: Failure) -> None:
    async with serving(answer) as server:
        with pytest.raises(EngineError) as caught:
            await get(http, server.url)
    assert caught.value.failure is failure


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "nonsense", "http://[::1", "http://127.0.0.1:99999", ""])
async def test_an_address_that_is_none(http: EngineHttp, url: str) -> None:
    with pytest.raises(EngineError) as caught:
        await get(http, url)
    assert caught.value.failure in {Failure.INVALID, Failure.REFUSED}


# --- connections and headers ------------------------------------------------------------------------------------------


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection is kept for as long as a test may stand still."""
    monkeypatch.setattr(questions, "KEEP_ALIVE_S", 3600.0)


@pytest.mark.usefixtures("kept")
async def test_short_questions_share_a_connection(http: EngineHttp) -> None:
    async with StandIn() as engine:
        endpoint = Endpoint(url=engine.url)
        for _ in range(5):
            assert await http.status(endpoint, "/health") == 200
            await http.get(endpoint, "/props", dict[str, object], refusal)
        assert engine.stats.connections == 1


class Keeping:
    """Gives these answers on each connection, and hangs up: at once, or on the next request and without a word."""

    def __init__(self, *answers: bytes, at_once: bool = False) -> None:
        self.connections = 0
        self.requests = 0
        self._answers = answers
        self._at_once = at_once
        self._open: dict[asyncio.StreamWriter, asyncio.Event] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closed = self._open[writer] = asyncio.Event()
        self.connections += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            for answer in self._answers:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                writer.write(answer)
            if not self._at_once:
                await reader.readuntil(b"\r\n\r\n")
            writer.close()
            await writer.wait_closed()
        closed.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        listener = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        finally:
            listener.close()
            for writer, closed in self._open.items():
                writer.transport.abort()
                await closed.wait()


@pytest.mark.usefixtures("kept")
async def test_a_question_that_meets_the_close_of_a_kept_connection_is_asked_on_a_new_one() -> None:
    engine, pauses = Keeping(OK, OK), Pauses()
    async with EngineHttp(pause=pauses) as http, engine.listening() as url:
        for _ in range(5):
            assert (await get(http, url)).a == 1
    assert (engine.connections, engine.requests, pauses.taken) == (3, 5, [])


@pytest.mark.usefixtures("kept")
async def test_an_answer_that_is_cut_off_on_a_kept_connection_is_a_failure_like_any_other() -> None:
    engine, pauses = Keeping(OK, HALF, at_once=True), Pauses()
    async with EngineHttp(pause=pauses) as http, engine.listening() as url:
        assert (await get(http, url)).a == 1
        assert (await get(http, url)).a == 1
    assert (engine.connections, len(pauses.taken)) == (2, 1)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"HTTP/1.1 200 OK\r\n",
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["more than was asked for", "it says that it closes", "it cannot be known"],
)
async def test_a_connection_is_used_again_only_where_its_engine_keeps_it(http: EngineHttp, answer: bytes) -> None:
    engine = Keeping(answer, answer)
    async with engine.listening() as url:
        for _ in range(3):
            assert (await get(http, url)).a == 1
    assert engine.connections == 3


async def test_what_may_be_sent_once_only_has_a_connection_that_nobody_can_have_closed(http: EngineHttp) -> None:
    engine = Keeping(OK, OK)
    async with engine.listening() as url:
        assert (await get(http, url)).a == 1
        assert (await post(http, url)).a == 1
    assert engine.connections == 2


async def test_a_kept_connection_is_not_used_for_long(http: EngineHttp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "KEEP_ALIVE_S", 0.0)
    engine = Keeping(OK, OK)
    async with engine.listening() as url:
        for _ in range(3):
            assert (await get(http, url)).a == 1
    assert engine.connections == 3


async def test_a_kept_connection_is_closed_though_nothing_more_is_asked(
    http: EngineHttp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is to stop waits for those who are connected, and one that came back has another port."""
    monkeypatch.setattr(questions, "KEEP_ALIVE_S", 0.05)
    async with serving(OK, close=False) as engine:
        assert (await get(http, engine.url)).a == 1
        await engine.left()


async def test_a_generation_never_meets_the_close_of_an_earlier_one(http: EngineHttp) -> None:
    async with StandIn(Knobs(tokens=3, close_streams=True)) as engine:
        endpoint = Endpoint(url=engine.url)
        for _ in range(50):
            async with http.stream(endpoint, "/completion", BODY, refusal) as events:
                while b'"stop":true' not in (await events.read())[-1]:
                    pass
                assert await events.read() == []
        assert engine.stats.completed == 50


async def test_a_request_has_the_headers_it_needs_and_no_other(http: EngineHttp) -> None:
    async with StandIn(Knobs(tokens=1), key=KEY) as engine:
        await stream(http, engine.url, KEY)
        request = engine.requests[-1]
    agent = request.headers.pop("user-agent")
    assert "Python" in agent
    assert request.headers == {
        "host": engine.url.removeprefix("http://"),
        "accept": "*/*",
        "accept-encoding": "identity",
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "connection": "close",
    }


# --- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [get, stream])
async def test_a_key_that_the_engine_repeats_reaches_no_error(
    http: EngineHttp, ask: Callable[[EngineHttp, str, str], Awaitable[None]]
) -> None:
    body = f"no access with Authorization: Bearer {KEY} ({KEY})"
    answer = f"HTTP/1.1 401 X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    async with serving(answer) as server:
        with pytest.raises(EngineError) as caught:
            await ask(http, server.url, KEY)
    assert caught.value.failure is Failure.UNAUTHORIZED
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert "no access with" in caught.value.message


@pytest.mark.parametrize("ask", [get, stream])
@pytest.mark.parametrize("before", range(MAX_MESSAGE - 60, MAX_MESSAGE + 1, 5))
async def test_no_part_of_a_key_is_left_where_a_long_text_is_cut(
    http: EngineHttp, ask: Callable[[EngineHttp, str, str], Awaitable[None]], before: int
) -> None:
    body = f"{'x' * before}{KEY}{'y' * 100}"
    answer = f"HTTP/1.1 400 X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    async with serving(answer) as server:
        with pytest.raises(EngineError) as caught:
            await ask(http, server.url, KEY)
    assert len(caught.value.message) == MAX_MESSAGE
    assert KEY[:4] not in caught.value.message


async def test_a_key_that_an_error_event_repeats_reaches_no_error(http: EngineHttp) -> None:
    async with StandIn(Knobs(http_error=HttpError(400, f'{{"error":"{KEY}"}}')), key=KEY) as engine:
        with pytest.raises(EngineError) as caught:
            await stream(http, engine.url, KEY)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"])
async def test_no_failure_of_a_connection_shows_a_key(answer: bytes) -> None:
    async with serving(answer) as server, EngineHttp(pause=Pauses()) as http:
        url = server.url.replace("http://", "http://someone:password-in-url@")
        with pytest.raises(EngineError) as caught:
            await get(http, url)
    text = "".join(traceback.format_exception(caught.value))
    assert "password-in-url" not in text


async def test_nobody_listening_shows_no_password(http: EngineHttp) -> None:
    async with serving(b"") as server:
        url = server.url.replace("http://", "http://someone:password-in-url@")
    with pytest.raises(EngineError) as caught:
        await stream(http, url)
    assert caught.value.failure is Failure.REFUSED
    assert caught.value.message == f"nobody listens at {server.url}"
    text = "".join(traceback.format_exception(caught.value))
    assert "password-in-url" not in text
