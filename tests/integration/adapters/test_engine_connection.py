"""The connection of a generation, on every loop that the product runs on: framing, trust, time, and who waits."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from adapters.base import EngineError, Failure
from adapters.engine_connection import UNREAD_BYTES
from adapters.http import EngineHttp, Patience
from adapters.llamacpp_wire import refusal
from contracts.pools import Endpoint
from tests.integration.adapters.test_http import BODY, KEY, serving
from tests.standin.knobs import Knobs
from tests.standin.server import StandIn
from tests.support.tls import make_authority

pytestmark = pytest.mark.req("AD-02", "AD-03")

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
EVENT = b"data: 1\n\n"


async def all_of(http: EngineHttp, url: str) -> tuple[list[bytes], EngineError | None]:
    """Every event, and how the stream ended."""
    got: list[bytes] = []
    try:
        async with http.stream(Endpoint(url=url), "/completion", BODY, refusal) as events:
            while more := await events.read():
                got += more
    except EngineError as error:
        return got, error
    return got, None


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"9\r\n" + EVENT + b"\r\n0\r\n\r\n",
        CHUNKED + b"4\r\ndata\r\n5;x=y\r\n: 1\n\n\r\n0\r\nX-Sum: 1\r\n\r\n",
        HEAD + b"Content-Length: 9\r\n\r\n" + EVENT,
        HEAD + b"\r\n" + EVENT,
        b"HTTP/1.0 200 OK\r\nContent-Type: TEXT/Event-Stream;charset=utf-8\r\n\r\n" + EVENT,
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"\r\n" + EVENT,
    ],
)
async def test_every_framing_of_http_is_read(http: EngineHttp, answer: bytes) -> None:
    async with serving(answer) as server:
        assert await all_of(http, server.url) == ([b"1"], None)


@pytest.mark.parametrize(
    ("answer", "failure", "events"),
    [
        (b"", Failure.BROKEN, 0),
        (b"HTTP/1.1 200", Failure.BROKEN, 0),
        (CHUNKED, Failure.BROKEN, 0),
        (CHUNKED + b"9\r\n" + EVENT, Failure.BROKEN, 1),
        (CHUNKED + b"9\r\n" + EVENT + b"\r\n0\r\n", Failure.BROKEN, 1),
        (HEAD + b"Content-Length: 10\r\n\r\n" + EVENT, Failure.BROKEN, 1),
        (CHUNKED + b"9\r\n" + EVENT + b"\r\nx\r\n", Failure.PROTOCOL, 1),
        (CHUNKED + b"9\r\n" + EVENT + b"XX", Failure.PROTOCOL, 1),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", Failure.PROTOCOL, 0),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Failure.PROTOCOL, 0),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", Failure.BROKEN, 0),
    ],
)
async def test_what_was_good_comes_before_what_was_not(
    http: EngineHttp, answer: bytes, failure: Failure, events: int
) -> None:
    async with serving(answer) as server:
        got, error = await all_of(http, server.url)
    assert got == [b"1"] * events
    assert error is not None
    assert error.failure is failure


async def test_a_connection_that_was_reset_is_no_end_of_a_body_that_ends_with_it(http: EngineHttp) -> None:
    reset = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"\r\n" + EVENT)
        await reset.wait()
        writer.get_extra_info("socket").setsockopt(*LINGER)
        writer.transport.abort()

    async with listening(serve) as url, http.stream(Endpoint(url=url), "/completion", BODY, refusal) as events:
        assert await events.read() == [b"1"]
        reset.set()
        with pytest.raises(EngineError) as caught:
            await events.read()
    assert caught.value.failure is Failure.BROKEN


async def test_a_large_request_arrives_whole(http: EngineHttp) -> None:
    async with StandIn(Knobs(tokens=1)) as engine:
        body = b'{"prompt":"%b","stream":true}' % (b"x" * 4_000_000)
        async with http.stream(Endpoint(url=engine.url), "/completion", body, refusal) as events:
            assert await events.read()
        assert engine.requests[-1].body == body


async def test_an_engine_that_is_far_ahead_waits_and_goes_on_when_it_is_read(http: EngineHttp) -> None:
    async with StandIn(Knobs(tokens=100_000, tokens_per_write=100)) as engine:
        async with http.stream(Endpoint(url=engine.url), "/completion", BODY, refusal) as events:
            first = await events.read()
            sent = -1
            while sent != engine.stats.tokens:  # until the buffers between us are full
                sent = engine.stats.tokens
                for _ in range(500):
                    await asyncio.sleep(0)
            assert sent < 100_000
            count = len(first)
            while more := await events.read():
                assert sum(map(len, more)) < 4 * UNREAD_BYTES
                count += len(more)
        assert count == 100_001  # and the final event
        assert engine.stats.completed == 1


async def test_an_engine_by_its_name(http: EngineHttp) -> None:
    async with StandIn(Knobs(tokens=1)) as engine:
        url = engine.url.replace("127.0.0.1", "localhost")
        got, error = await all_of(http, url)
        assert (len(got), error) == (2, None)
        assert engine.requests[-1].headers["host"] == url.removeprefix("http://")


async def test_an_id_reaches_the_engine(http: EngineHttp) -> None:
    async with StandIn(Knobs(tokens=1)) as engine:
        endpoint = Endpoint(url=engine.url, api_key=KEY)
        async with http.stream(endpoint, "/completion", BODY, refusal, request_id="corr-1") as events:
            await events.read()
        assert engine.requests[-1].headers["x-request-id"] == "corr-1"


async def test_nobody_listens(http: EngineHttp) -> None:
    async with serving(b"") as server:
        url = server.url
    for each in (url, url.replace("127.0.0.1", "localhost")):
        _, error = await all_of(http, each)
        assert error is not None
        assert (error.failure, error.message) == (Failure.REFUSED, f"nobody listens at {each}")


async def test_a_place_that_never_answers_a_connection_is_given_up(http: EngineHttp) -> None:
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    waiting = [socket.socket() for _ in range(3)]
    try:
        for each in waiting:  # the queue of those that were not accepted is full behind the first ones
            each.setblocking(False)
            each.connect_ex(full.getsockname())
        async with EngineHttp(patience=Patience(connect_s=0.05)) as hasty:
            _, error = await all_of(hasty, f"http://127.0.0.1:{full.getsockname()[1]}")
        assert error is not None
        assert error.failure is Failure.TIMEOUT
    finally:
        for each in (full, *waiting):
            each.close()


async def test_leaving_while_the_head_is_awaited_closes_the_connection(http: EngineHttp) -> None:
    async with StandIn(Knobs(first_token_delay_ms=1e9)) as engine, asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(all_of(http, engine.url))
        await engine.until(lambda stats: stats.running == 1)
        asking.cancel()
        await engine.until(lambda stats: stats.cancelled == 1 and stats.running == 0)


async def test_tls_is_spoken_and_who_cannot_prove_itself_gets_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = make_authority(tmp_path)
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(CHUNKED + b"9\r\n" + EVENT + b"\r\n0\r\n\r\n")
            await reader.read()
        writer.close()

    async with listening(serve, authority.server) as url:
        async with EngineHttp() as stranger:
            _, error = await all_of(stranger, url)
        assert error is not None
        assert error.failure is Failure.REFUSED
        assert error.message == f"{url} cannot be trusted: its TLS is not valid here"
        assert seen == []
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.authorities))
        async with EngineHttp() as friend:
            assert await all_of(friend, url) == ([b"1"], None)
            assert await all_of(friend, url.replace("127.0.0.1", "localhost")) == ([b"1"], None)
    assert len(seen) == 2


LINGER = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    served: list[asyncio.Event] = []

    async def followed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(over := asyncio.Event())
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            over.set()

    async with await asyncio.start_server(followed, "127.0.0.1", 0, ssl=tls) as listener:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        for over in served:  # what is still open when the loop ends would be told as left open
            await over.wait()
