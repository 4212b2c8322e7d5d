"""Over kills and restarts of the real daemon: each task that ended has one receipt, and all of them are one chain."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.receipts import Receipt, ReceiptPage
from llama_orch.trial import haiku_model_path, haiku_prompt
from tests.integration.llama_orch.conftest import Outcome, run
from tests.integration.orchestratord.house import read_until, tokens_in
from tests.standin.knobs import Knobs
from tests.standin.server import StandIn
from tests.support.installation import TOKEN, Installation, parse_events

pytestmark = [pytest.mark.req("HP-21", "HP-12", "OP-03"), pytest.mark.slow, pytest.mark.timeout(90)]

PLANTED = "planted-secret-of-an-operator"
QUEUE = {"capacity": 3, "full_policy": "drop-lru"}


async def submit(house: Installation, name: str, **changes: object) -> str:
    """A task that nobody has to wait for."""
    body = {"task_id": name, "prompt": haiku_prompt("rain"), "seed": 7, "on_disconnect": "continue", **changes}
    async with house.http.post("/v1/tasks", json={"model_ref": await house.model_id(), **body}) as answer:
        assert answer.status == 202, await answer.text()
    return name


async def end_of(house: Installation, name: str) -> dict[str, Any]:
    """Its terminal event, when it comes."""
    async with house.http.get(f"/v1/tasks/{name}/stream") as answer:
        return parse_events(await answer.read())[-1][1]


async def cancel(house: Installation, name: str) -> None:
    async with house.http.post(f"/v1/tasks/{name}/cancel") as answer:
        assert answer.status == 204


async def again(house: Installation) -> None:
    """Orchestratord starts once more."""
    seen = len(house.orchestrator.lines)
    await (await house.orchestrator.start()).logged("pool trial is ready", since=seen)
    await house.introduced("trial")


async def receipts(house: Installation) -> list[Receipt]:
    async with house.http.get("/v1/receipts", params={"limit": "1000"}) as answer:
        page = msgspec.json.decode(await answer.read(), type=ReceiptPage)
    return [msgspec.json.decode(each.content, type=Receipt) for each in page.receipts]


async def cli(house: Installation, *arguments: str) -> Outcome:
    url = f"http://127.0.0.1:{house.port}"
    return await run(house.root, arguments, LLORCH_URL=url, LLORCH_API_TOKEN=TOKEN)


async def test_each_task_that_ended_has_one_receipt_in_one_chain_over_kills_and_restarts(tmp_path: Path) -> None:
    async with Installation(tmp_path / "home", haiku_model_path(), queue=QUEUE, env={"SOME_API_KEY": PLANTED}) as house:
        await house.up()
        await submit(house, "done")
        await end_of(house, "done")
        await submit(house, "refused-by-the-engine", sampling={"grammar": "root ::= ((("})
        assert (await end_of(house, "refused-by-the-engine"))["code"] == "INVALID_PARAMS"
        async with house.frozen():
            await submit(house, "running")
            await submit(house, "displaced", priority="batch")
            await submit(house, "canceled-in-the-queue")
            await submit(house, "waiting")
            await submit(house, "displacing")
            await cancel(house, "canceled-in-the-queue")
            await house.orchestrator.kill(signal.SIGKILL)
        await again(house)
        for name in ("running", "waiting", "displacing"):  # it had sent nothing yet, so it runs again
            assert (await end_of(house, name))["finish_reason"] == "stop"
        await house.orchestrator.kill(signal.SIGTERM)
        await again(house)
        async with house.frozen():
            await submit(house, "canceled-while-it-runs")
            await cancel(house, "canceled-while-it-runs")
        await submit(house, "the-last")
        await end_of(house, "the-last")

        found = await receipts(house)
        assert [each.number for each in found] == list(range(1, 10))
        ran = (
            "done",
            "refused-by-the-engine",
            "running",
            "waiting",
            "displacing",
            "canceled-while-it-runs",
            "the-last",
        )
        never_ran = ("displaced", "canceled-in-the-queue")
        assert Counter(each.task_id for each in found) == Counter((*ran, *never_ran))
        assert {each.task_id for each in found if each.engine is None} == {*never_ran}
        states = {each.task_id: str(each.state) for each in found}
        assert (states["waiting"], states["displaced"], states["canceled-in-the-queue"]) == (
            "done",
            "failed",
            "canceled",
        )
        assert not [each.task_id for each in found if each.interrupted]
        served = {each.engine.argv for each in found if each.engine is not None}
        assert len(served) == 1, "the same engine, told alike by every run of the daemons"
        assert "SOME_API_KEY=***" in served.pop()
        assert {bool(each.sent) for each in found if each.state == "done"} == {True}

        done = await cli(house, "receipts", "verify")
        assert (done.status, done.stdout.splitlines()[0]) == (0, "9 receipts hold: numbers 1 to 9")
        assert (await cli(house, "receipts", "export", "-o", "chain.jsonl")).status == 0
        assert PLANTED not in (house.root / "chain.jsonl").read_text()
        away = await run(house.root, ("receipts", "verify", "--file", "chain.jsonl", "--expect", _end_id(done)))
        assert (away.status, away.stdout.splitlines()[0]) == (0, "9 receipts hold: numbers 1 to 9")


async def test_a_task_that_was_cut_off_says_so_in_its_receipt(tmp_path: Path) -> None:
    async with StandIn(Knobs(token_delay_ms=100)) as engine:
        external = {"mode": "external", "external": {"url": engine.url}}
        async with Installation(tmp_path / "home", "standin.gguf", provisioning=external) as house:
            await house.up()
            async with house.streaming({"task_id": "cut-off", "prompt": "x", "seed": 7, "max_tokens": 5000}) as answer:
                await read_until(answer, lambda got: tokens_in(got) > 1)
                await house.orchestrator.kill(signal.SIGKILL)
            await again(house)
            assert (await end_of(house, "cut-off"))["code"] == "WORKER_RESET"
            [receipt] = await receipts(house)
            assert (receipt.task_id, str(receipt.state), receipt.interrupted) == ("cut-off", "failed", True)
            assert (receipt.slot is not None, receipt.attempts) == (True, 1)
            assert receipt.sent is not None
            assert {"seed": 7, "n_predict": 5000}.items() <= receipt.sent.items()
            assert receipt.engine is not None
            assert (receipt.engine.argv, receipt.engine.driver_version) == ((), None), "somebody else started it"
            shown = await cli(house, "receipts", "show", "cut-off")
            assert (
                "  note: orchestratord ended while it ran: the text is what had been kept until then\n" in shown.stdout
            )


def _end_id(done: Outcome) -> str:
    return next(word.rstrip(":") for word in done.stdout.split() if word.startswith("sha256:"))
