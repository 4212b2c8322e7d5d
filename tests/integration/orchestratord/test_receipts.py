"""The chain of receipts over HTTP: paged through, and with one receipt of each task that ended."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from contracts.config import FullPolicy, Queue
from contracts.receipts import Receipt, ReceiptPage
from daemon_core.chain import Copy, Verdict, verify
from daemon_core.redaction import Redactor
from orchestratord.auth import Authenticator
from orchestratord.failures import Failures
from orchestratord.http import receipts as receipts_module
from orchestratord.http.cors import Cors
from orchestratord.http.door import Door
from orchestratord.http.edge import make_edge
from orchestratord.http.receipts import ReceiptRoutes
from orchestratord.shelf import Sealed
from tests.integration.orchestratord.house import TOKEN, House, house, read_until, tokens_in
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn
from tests.support.memory_ledger import MemoryLedger
from tests.unit.orchestratord.frames import frames_of
from tests.unit.orchestratord.world import pool

pytestmark = [pytest.mark.req("HP-21")]


@asynccontextmanager
async def serving(ledger: MemoryLedger) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    authenticator, cors = Authenticator(None, optional=True, trust_proxy=False), Cors(())
    app = web.Application(middlewares=[make_edge(Door(authenticator, Failures(10), cors), cors, Redactor())])
    app.add_routes(ReceiptRoutes(ledger).table())
    async with TestClient(TestServer(app)) as client:
        yield client


async def page(client: Any, **query: int) -> ReceiptPage:  # noqa: ANN401 - of whichever server
    async with client.get("/v1/receipts", params={name: str(value) for name, value in query.items()}) as answer:
        assert answer.status == 200, await answer.text()
        return msgspec.json.decode(await answer.read(), type=ReceiptPage)


def numbers(found: ReceiptPage) -> list[int]:
    return [msgspec.json.decode(each.content)["number"] for each in found.receipts]


async def whole(client: aiohttp.ClientSession) -> tuple[list[Receipt], Verdict]:
    """The chain, page by page, and whether it holds."""
    copies: list[Copy] = []
    while True:
        found = await page(client, after=len(copies), limit=2)
        copies += [Copy(id=each.id, receipt=each.content) for each in found.receipts]
        if not found.receipts:
            return [msgspec.json.decode(each.receipt, type=Receipt) for each in copies], verify(copies, found.first)


# --- pages ------------------------------------------------------------------------------------------------------------


async def test_a_chain_is_paged_through_in_its_order() -> None:
    ledger = MemoryLedger()
    ledger.write_some(70)
    async with serving(ledger) as client:
        first = await page(client)
        assert (numbers(first), first.last) == (list(range(1, 71)), 70)
        assert numbers(await page(client, after=33, limit=3)) == [34, 35, 36]
        assert numbers(await page(client, after=70)) == []
        assert numbers(await page(client, after=2**62)) == []
        assert first.first is not None
        assert (first.first.number, first.first.previous) == (1, None)
        assert first.receipts[0].id == ledger.read(0, 1)[0].id


async def test_a_chain_whose_beginning_is_gone_says_where_it_begins() -> None:
    ledger = MemoryLedger()
    ledger.write_some(9)
    gone = ledger.read(3, 1)[0].id
    ledger.forget(4)
    async with serving(ledger) as client:
        found = await page(client, limit=2)
    assert numbers(found) == [5, 6]
    assert found.first is not None
    assert (found.first.number, found.first.previous, found.last) == (5, gone, 9)


async def test_a_page_is_no_heavier_than_an_answer_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts_module, "MAX_PAGE_BYTES", 1000)
    ledger = MemoryLedger()
    ledger.write_some(50, transcript="a" * 500)
    async with serving(ledger) as client:
        assert numbers(await page(client)) == [1, 2]
        assert numbers(await page(client, after=2)) == [3, 4]
        monkeypatch.setattr(receipts_module, "MAX_PAGE_BYTES", 1)
        assert numbers(await page(client, after=4)) == [5], "one at least, or nobody would ever get on"


async def test_a_page_ends_where_a_receipt_stands_elsewhere_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = MemoryLedger()
    ledger.write_some(1)
    [only] = ledger.read(0, 1)
    asked: list[int] = []

    def read(after: int, limit: int) -> list[Sealed]:
        asked.append(after)
        assert len(asked) < 9, "it is read without end"
        return [only] * limit

    monkeypatch.setattr(ledger, "read", read)
    async with serving(ledger) as client:
        assert set(numbers(await page(client, limit=1000))) == {1}


async def test_without_receipts_the_page_is_empty() -> None:
    async with serving(MemoryLedger()) as client:
        assert await page(client) == ReceiptPage(receipts=(), first=None, last=0)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("after", each) for each in ("-1", "x", str(2**63), "1.5", "", "²")),
        *(("limit", each) for each in ("0", "1001", "many", "9" * 5000)),
    ],
)
async def test_what_is_no_number_is_refused(name: str, given: str) -> None:
    async with serving(MemoryLedger()) as client, client.get("/v1/receipts", params={name: given}) as answer:
        said = await answer.json()
        assert (answer.status, said["code"], said["field"]) == (400, "INVALID_PARAMS", name)


@pytest.mark.req("ORCH-3810")
async def test_a_token_is_needed_as_everywhere(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN) as here, here.client.get("/v1/receipts") as answer:
        assert (answer.status, (await answer.json())["code"]) == (401, "MISSING_TOKEN")


# --- of tasks ---------------------------------------------------------------------------------------------------------


async def held(here: House) -> str:
    """A task that has the only slot, for good."""
    task_id = await here.submit(max_tokens=100)
    async with here.client.get(f"/v1/tasks/{task_id}/stream") as answer:
        await read_until(answer, lambda got: tokens_in(got) > 0)
    return task_id


@pytest.mark.req("HP-08", "HP-12")
async def test_each_task_has_one_receipt_in_one_chain_however_it_ended(tmp_path: Path) -> None:
    lru = pool(slots=1, queue=Queue(capacity=1, full_policy=FullPolicy.DROP_LRU))
    knobs = Knobs(fault=Fault.HANG, fault_after=3, slots=1)
    async with StandIn(knobs) as engine, house(tmp_path, engine.url, lru, report={"slots": 1}) as here:
        running = await held(here)
        dropped = await here.submit(priority="batch")
        waiting = await here.submit()
        assert await here.cancel(waiting) == 204
        assert await here.cancel(running) == 204
        late = await here.submit(deadline_ms=60_000)
        await here.cancel(late)
        found, verdict = await whole(here.client)
        ends = {each.task_id: each.state for each in found}
        assert ends == {dropped: "failed", waiting: "canceled", running: "canceled", late: "canceled"}
        assert (verdict.breaks, verdict.holds, len(found)) == ((), 4, 4)
        by_id = {each.task_id: each for each in found}
        refused = by_id[dropped].error
        assert refused is not None
        assert refused.code == "QUEUE_FULL_DROP_LRU"
        assert (by_id[dropped].sent, by_id[dropped].engine, by_id[dropped].slot) == (None, None, None)
        assert by_id[running].pieces == 3


@pytest.mark.req("HP-12")
async def test_a_receipt_says_what_the_engine_was_sent_and_is_an_artifact(tmp_path: Path) -> None:
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        task_id = await here.submit(seed=7, sampling={"temperature": 0.5}, kv_hint="cold")
        end = frames_of(await here.stream(task_id))[-1].data
        [receipt], _ = await whole(here.client)
        assert receipt.sent is not None
        assert {"seed": 7, "temperature": 0.5, "cache_prompt": False, "n_predict": 8}.items() <= receipt.sent.items()
        assert "prompt" not in receipt.sent
        assert receipt.slot is not None
        assert receipt.slot.slot == receipt.sent.get("id_slot")
        assert (receipt.slot.cache_prompt, receipt.slot.cached_tokens) == (False, 0)
        kept = await here.get(f"/v1/artifacts/{end['artifact_id']}")
        assert (kept["kind"], kept["content"]["task_id"]) == ("trace", task_id)


@pytest.mark.req("HP-12")
async def test_an_engine_that_refuses_was_sent_something_all_the_same(tmp_path: Path) -> None:
    async with StandIn(Knobs(fault=Fault.ERROR)) as engine, house(tmp_path, engine.url) as here:
        await here.stream(await here.submit(seed=7))
        [receipt], verdict = await whole(here.client)
    assert (receipt.state, verdict.breaks) == ("failed", ())
    assert receipt.sent is not None
    assert receipt.sent["seed"] == 7


async def test_a_stretch_is_told_when_it_lasts_and_not_before() -> None:
    ledger = MemoryLedger()
    ledger.write_some(3)
    async with serving(ledger) as client:
        await page(client)
    assert ledger.waits == 1
