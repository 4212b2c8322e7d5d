"""Readers of a stream that are slow, old-fashioned, curious, or come again on the same connection."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestratord.http import sse_writer
from tests.integration.orchestratord.house import House, house, slow_alone, tokens_in
from tests.integration.orchestratord.test_streams import dechunked
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn

pytestmark = pytest.mark.req("HP-19")

LONG = Knobs(words=("x" * 1_000,), tokens=8_000)
"""More than the kernel holds for a reader that does not read."""


class Raw:
    """A client that reads when the test says so."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.got = b""

    async def send(self, request: str) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, request.encode())

    async def read_to_the_end(self) -> bytes:
        try:
            while more := await asyncio.get_running_loop().sock_recv(self._socket, 1 << 20):
                self.got += more
        except ConnectionResetError:
            pass
        return self.got

    async def read_until(self, mark: bytes) -> bytes:
        while mark not in self.got:
            more = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16)
            assert more, self.got
            self.got += more
        return self.got


@asynccontextmanager
async def raw(here: House, request: str) -> AsyncIterator[Raw]:
    with socket.socket() as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connected.setblocking(False)
        host, port = here.url.removeprefix("http://").split(":")
        await asyncio.get_running_loop().sock_connect(connected, (host, int(port)))
        client = Raw(connected)
        await client.send(request)
        yield client


def asking(task_id: str, *, method: str = "GET", version: str = "1.1", close: bool = True) -> str:
    connection = "Connection: close\r\n" if close else ""
    head = f"{method} /v1/tasks/{task_id}/stream HTTP/{version}\r\nHost: localhost\r\nUser-Agent: Slow\r\n"
    return f"{head}{connection}\r\n"


def begun(body: bytes) -> bytes:
    """The chunks of a body that may end anywhere, joined."""
    whole = bytearray()
    while found := re.match(rb"([0-9a-f]+)\r\n", body):
        size = int(found[1], 16)
        whole += body[found.end() : found.end() + size]
        body = body[found.end() + size + 2 :]
    return bytes(whole)


@asynccontextmanager
async def cut_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, version: str = "1.1"
) -> AsyncIterator[tuple[House, str, bytes, Raw]]:
    """A task's stream as others read it, and a reader that took nothing until it was cut off."""
    caplog.set_level(logging.WARNING)
    told = asyncio.Event()
    noticed = logging.Handler(logging.WARNING)
    noticed.emit = lambda record: told.set() if "was cut off" in record.getMessage() else None  # type: ignore[method-assign]
    logging.getLogger("orchestratord.http.stream").addHandler(noticed)
    async with StandIn(LONG) as engine, house(tmp_path, engine.url, slow_reader_ms=100) as here:
        task_id = await here.submit(max_tokens=8_000, priority="batch")
        async with raw(here, asking(task_id, version=version)) as slow:
            whole = await here.stream(task_id)
            assert tokens_in(whole) == 8_000
            assert engine.stats.completed == 1
            await told.wait()
            yield here, task_id, whole, slow
    logging.getLogger("orchestratord.http.stream").removeHandler(noticed)


async def test_a_reader_that_takes_nothing_is_cut_off_and_cannot_take_it_for_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_alone(monkeypatch)
    monkeypatch.setattr(sse_writer, "LAST_WORD_S", 0.01)
    async with cut_off(tmp_path, caplog) as (here, task_id, whole, slow):
        head, _, body = (await slow.read_to_the_end()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert not body.endswith(b"0\r\n\r\n")
        seen = begun(body)
        assert seen
        assert whole.startswith(seen)
        assert b"event: end" not in seen
        last = int(re.findall(rb"\nid: (\d+)\n", seen[: seen.rindex(b"\n\n")])[-1])
        rest = await here.stream(task_id, after=last)
        assert whole.endswith(rest)
        assert tokens_in(rest) == 8_000 - last - 1
    (record,) = [each for each in caplog.records if "was cut off" in each.getMessage()]
    assert record.getMessage() == (
        f"a reader of task {task_id} at 127.0.0.1 was cut off: it took nothing for 100 ms (server.slow_reader_ms)"
    )
    assert record.__dict__["task_id"] == task_id


async def test_a_reader_that_comes_to_life_in_time_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last_words = asyncio.Event()
    speak = sse_writer.SseWriter._speak  # noqa: SLF001 - the moment at which the last words are written

    def speaking(writer: sse_writer.SseWriter) -> None:
        speak(writer)
        last_words.set()

    slow_alone(monkeypatch)
    monkeypatch.setattr(sse_writer.SseWriter, "_speak", speaking)
    monkeypatch.setattr(sse_writer, "LAST_WORD_S", 20.0)
    # It has the same time once more for the last words: more than everything stands still.
    async with StandIn(LONG) as engine, house(tmp_path, engine.url, slow_reader_ms=4_000) as here:
        task_id = await here.submit(max_tokens=8_000, priority="batch")
        whole = await here.stream(task_id)
        async with raw(here, asking(task_id)) as slow:
            await last_words.wait()
            _, _, body = (await slow.read_to_the_end()).partition(b"\r\n\r\n")
    assert not body.endswith(b"0\r\n\r\n")
    sent, _, reason = begun(body).rpartition(b"\n\n: ")
    assert whole.startswith(sent + b"\n\n")
    assert reason == (
        b"cut off: the stream was not read for 4000 ms (server.slow_reader_ms); come back with Last-Event-ID and"
        b" nothing is lost\n\n"
    )


async def test_a_reader_that_speaks_http_1_0_gets_a_body_that_ends_with_the_connection(tmp_path: Path) -> None:
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        task_id = await here.submit()
        whole = await here.stream(task_id)
        async with raw(here, asking(task_id, version="1.0")) as old:
            head, _, body = (await old.read_to_the_end()).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert body == whole


async def test_a_question_for_the_head_alone_gets_no_body_and_the_next_one_is_answered(tmp_path: Path) -> None:
    async with StandIn(Knobs(fault=Fault.HANG, fault_after=3)) as engine, house(tmp_path, engine.url) as here:
        task_id = await here.submit()
        async with raw(here, asking(task_id, method="HEAD", close=False)) as client:
            await client.read_until(b"\r\n\r\n")
            await client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            first, second, body = (await client.read_to_the_end()).split(b"\r\n\r\n")
        await here.cancel(task_id)
    assert b"Content-Type: text/event-stream" in first
    assert second.startswith(b"HTTP/1.1 200")
    assert body == b'{"status": "ok"}'


async def test_who_asks_for_the_head_alone_is_no_reader_who_has_left(tmp_path: Path) -> None:
    hangs = StandIn(Knobs(fault=Fault.HANG, fault_after=3))
    async with hangs as engine, house(tmp_path, engine.url, disconnect_grace_ms=0) as here:
        task_id = await here.submit()
        async with here.client.head(f"/v1/tasks/{task_id}/stream") as answer:
            assert answer.status == 200
        assert (await here.get(f"/v1/tasks/{task_id}"))["state"] == "running"
        await here.cancel(task_id)


async def test_a_connection_serves_again_after_a_stream(tmp_path: Path) -> None:
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        task_id = await here.submit()
        whole = await here.stream(task_id)
        async with raw(here, asking(task_id, close=False)) as client:
            await client.read_until(b"\r\n0\r\n\r\n")
            head, _, body = client.got.partition(b"\r\n\r\n")
            assert b"Connection: keep-alive" in head
            assert dechunked(body) == whole
            client.got = b""
            await client.send(asking(task_id))
            _, _, body = (await client.read_to_the_end()).partition(b"\r\n\r\n")
            assert dechunked(body) == whole


async def test_the_head_comes_although_there_is_nothing_to_say_yet(tmp_path: Path) -> None:
    async with StandIn(Knobs(first_token_delay_ms=1e9)) as engine, house(tmp_path, engine.url) as here:
        slots = [await here.submit() for _ in range(4)]
        waiting = await here.submit()
        async with raw(here, asking(waiting)) as client:
            head = await client.read_until(b"\r\n\r\n")
            assert b"Content-Type: text/event-stream" in head
            for task_id in [waiting, *slots]:
                await here.cancel(task_id)
            got = await client.read_to_the_end()
    assert got.endswith(b"0\r\n\r\n")
    assert b"event: end" in got


async def test_many_tokens_that_came_in_one_read_go_out_in_one_chunk(tmp_path: Path) -> None:
    knobs = Knobs(tokens=64, tokens_per_write=64)
    async with StandIn(knobs) as engine, house(tmp_path, engine.url) as here:
        task_id = await here.submit(max_tokens=64)
        await here.stream(task_id)
        async with raw(here, asking(task_id)) as client:
            _, _, body = (await client.read_to_the_end()).partition(b"\r\n\r\n")
    assert re.findall(rb"(?:^|\r\n)([0-9a-f]+)\r\n", body)[1:] == [b"0"]
