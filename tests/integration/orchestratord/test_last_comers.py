"""Who connects in the moment in which the port closes is answered, and who says nothing holds up nobody."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from orchestratord import accepting, listener
from orchestratord.accepting import NEWCOMER_S
from tests.integration.orchestratord.house import House, house
from tests.integration.orchestratord.test_tls import secured
from tests.integration.orchestratord.wire import HEALTH, Wire, wire

LISTENS = "0A"
"""The kernel's word for it."""
pytestmark = pytest.mark.req("OP-01")
FAR_S = 60.0


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes last has all the time in the world: whether it is waited for does not depend on how fast it is."""
    for module in (accepting, listener):
        monkeypatch.setattr(module, "NEWCOMER_S", FAR_S)


async def let_in(here: House, stack: AsyncExitStack) -> Wire:
    """A connection of which the house knows: one that came after it has been answered."""
    waiting = await stack.enter_async_context(wire(here))
    async with wire(here) as other:
        await other.send(HEALTH)
        assert (await other.answer()).status == 200
    return waiting


def listens(port: int) -> bool:
    """Whether somebody does there; to ask by connecting would be to be let in."""
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(each[1].endswith(f":{port:04X}") and each[3] == LISTENS for each in sockets)


async def closed(here: House) -> None:
    """Wait until the port is."""
    port = int(here.url.rpartition(":")[2])
    while listens(port):  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(0)


@pytest.mark.parametrize("sent", [0, 12])
@pytest.mark.usefixtures("patient")
async def test_who_was_let_in_just_before_the_port_closed_is_answered(tmp_path: Path, sent: int) -> None:
    async with AsyncExitStack() as clients, AsyncExitStack() as houses, asyncio.TaskGroup() as group:
        here = await houses.enter_async_context(house(tmp_path))
        late = await let_in(here, clients)
        await late.send(HEALTH[:sent])
        closing = group.create_task(houses.aclose())
        await closed(here)
        assert not closing.done()
        await late.send(HEALTH[sent:])
        assert (await late.answer()).status == 200
        assert await late.rest() == b""


async def test_a_client_that_says_nothing_is_not_waited_for_longer(tmp_path: Path) -> None:
    async with AsyncExitStack() as clients, AsyncExitStack() as houses:
        here = await houses.enter_async_context(house(tmp_path, header_timeout_ms=600_000))
        silent = await let_in(here, clients)
        async with asyncio.timeout(NEWCOMER_S + 40):  # far less than the time of its head
            await houses.aclose()
        assert await silent.rest() == b""


@pytest.mark.usefixtures("patient")
async def test_a_handshake_that_has_begun_comes_to_its_end(tmp_path: Path) -> None:
    async with AsyncExitStack() as clients, AsyncExitStack() as houses, asyncio.TaskGroup() as group:
        here, trusted, _ = await houses.enter_async_context(secured(tmp_path))
        late = await clients.enter_async_context(wire(here))
        async with wire(here, trusted) as other:
            await other.send(HEALTH)
            assert (await other.answer()).status == 200
        closing = group.create_task(houses.aclose())
        while not here.client.closed:  # noqa: ASYNC110 - a house has no event for its end
            await asyncio.sleep(0)
        await late.writer.start_tls(trusted, server_hostname="127.0.0.1")
        assert not closing.done()
        await late.send(HEALTH)
        assert (await late.answer()).status == 200
