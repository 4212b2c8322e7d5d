"""examples/client/ask.py prints the whole answer once, also where its connection breaks on the way."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from llama_orch.trial import haiku_model_path
from tests.support.installation import TOKEN, Installation, parse_events, text_of

ASK = Path(__file__).parents[2] / "examples/client/ask.py"
PIECE = 16 << 10
pytestmark = [pytest.mark.req("HP-19", "HP-27"), pytest.mark.slow, pytest.mark.timeout(120)]


class Line:
    """The way to a server, which breaks once, behind these bytes of the server's."""

    def __init__(self, port: int, breaks_behind: bytes | None) -> None:
        self.port = port
        self.breaks_behind = breaks_behind
        self.requests: list[bytes] = []
        self.connections: set[asyncio.Task[None]] = set()

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client has connected."""
        self.connections.add(asyncio.ensure_future(self.serve(reader, writer)))  # noqa: TID251 - awaited by line

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, to whose end everything is closed."""
        answers, to_server = await asyncio.open_connection("127.0.0.1", self.port)
        forth = asyncio.ensure_future(self._requests(reader, to_server))  # noqa: TID251 - ended below
        with suppress(ConnectionError):
            passed = b""
            while data := await answers.read(PIECE):
                passed += data
                _, mark, surplus = passed.partition(self.breaks_behind or b"\0")
                writer.write(data[: len(data) - len(surplus)])
                await writer.drain()
                if mark:
                    self.breaks_behind = None
                    break
        forth.cancel()
        await asyncio.wait([forth])
        for each in (to_server, writer):
            each.close()
            with suppress(ConnectionError):
                await each.wait_closed()

    async def _requests(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await self._pass_on(reader, to_server)

    async def _pass_on(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE):
            self.requests.append(data)
            to_server.write(data)


@asynccontextmanager
async def line(port: int, breaks_behind: bytes | None) -> AsyncIterator[tuple[Line, str]]:
    """A line to this port, and its address for clients."""
    made = Line(port, breaks_behind)
    server = await asyncio.start_server(made.take, "127.0.0.1", 0)
    async with server:
        host, own = server.sockets[0].getsockname()[:2]
        yield made, f"http://{host}:{own}"
    await asyncio.gather(*made.connections)


async def asked(house: Installation, breaks_behind: bytes | None) -> Line:
    """The client prints what the task's stream says, once, over a line that breaks there."""
    async with line(house.port, breaks_behind) as (made, url):
        pipe = asyncio.subprocess.PIPE
        environ = house.environ | {"LLORCH_API_TOKEN": TOKEN, "LLORCH_URL": url}
        child = await asyncio.create_subprocess_exec(
            sys.executable, ASK, "Write a haiku about snow.", env=environ, stdout=pipe, stderr=pipe
        )
        printed, said = await child.communicate()
    assert (child.returncode, said.decode().count("tokens, ")) == (0, 1), said.decode()
    [task] = (await house.get("/v1/tasks?limit=1"))["tasks"]
    async with house.http.get(f"/v1/tasks/{task['task_id']}/stream") as answer:
        assert printed.decode() == text_of(parse_events(await answer.read()))
    return made


async def test_the_client_prints_the_whole_answer_once_wherever_its_line_breaks(tmp_path: Path) -> None:
    async with Installation(tmp_path / "home", haiku_model_path()) as house:
        await house.up()
        await asked(house, None)
        inside = await asked(house, b"\nid: 3\n")
        streams = [request.lower() for request in inside.requests if b"/stream" in request]
        assert [b"last-event-id: \r\n" in request for request in streams] == [True, False], "it knew where it was"
        asking = await asked(house, b'\r\n\r\n{"')
        assert sum(b"/v1/capabilities" in request for request in asking.requests) == 2
        assert len((await house.get("/v1/tasks"))["tasks"]) == 3
