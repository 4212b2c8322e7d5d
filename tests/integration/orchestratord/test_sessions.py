"""Sessions over HTTP: their routes, what they refuse, and what the real llama.cpp makes of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.config import Queue, Sessions, Timeouts
from tests.integration.orchestratord.house import BODY, EVENT_STREAM, House, house
from tests.plugins.failures import OperatorSees
from tests.standin.knobs import Knobs
from tests.standin.server import StandIn
from tests.support.raw_http import raw
from tests.support.real_llamacpp import real_llamacpp
from tests.support.tiny_gguf import write_tiny_gguf
from tests.unit.orchestratord.frames import Frame, frames_of
from tests.unit.orchestratord.world import pool

LONG = "once upon a time there was a small house at the edge of a wide wood, and nobody lived in it "
OTHER = "zebra quartz whales mumble nightly beneath purple curtains made of glass and iron and wool "


@asynccontextmanager
async def sessions_of(folder: Path, **limits: Any) -> AsyncIterator[House]:  # noqa: ANN401 - any field of the sessions
    """A house with these limits of sessions, before a stand-in that counts tokens."""
    async with StandIn(Knobs(tokens=4)) as engine, house(folder, engine.url, sessions=Sessions(**limits)) as here:
        yield here


async def posted(here: House, **changes: Any) -> tuple[int, Any, Any]:  # noqa: ANN401 - any field of the request
    """A turn of session ``s`` that is submitted: status, headers and body of the answer."""
    async with here.client.post("/v1/tasks", json=BODY | {"session_id": "s"} | changes) as answer:
        return answer.status, answer.headers, await answer.json()


async def turn(here: House, **changes: Any) -> list[Frame]:  # noqa: ANN401 - any field of the request
    """The frames of a whole turn."""
    return frames_of(await here.stream(await here.submit(session_id="s", **changes)))


@pytest.mark.req("HP-15")
async def test_a_session_can_be_looked_at_and_deleted(tmp_path: Path) -> None:
    async with sessions_of(tmp_path) as here:
        task_id = await here.submit(session_id="s")
        await here.stream(task_id)
        assert (await here.get(f"/v1/tasks/{task_id}"))["session_id"] == "s"
        seen = await here.get("/v1/sessions/s")
        assert 0 < seen["ttl_ms_remaining"] <= 600_000
        assert {name: seen[name] for name in ("session_id", "turns", "turns_max", "kv_warmth", "budgets")} == {
            "session_id": "s",
            "turns": 1,
            "turns_max": 8,
            "kv_warmth": False,
            "budgets": {"tokens_remaining": None, "time_remaining_ms": None},
        }
        async with here.client.delete("/v1/sessions/s") as answer:
            assert (answer.status, await answer.read()) == (204, b"")
        for method in ("GET", "DELETE"):
            async with here.client.request(method, "/v1/sessions/s") as answer:
                body = await answer.json()
                assert (answer.status, body["code"]) == (404, "NOT_FOUND")
                assert body["message"] == "there is no session 's'"
                assert body["hint"] == "a session ends 600000 ms after its last turn (sessions.ttl_ms)"


@pytest.mark.req("HP-15")
async def test_a_turn_too_many_is_refused_until_the_session_ends(tmp_path: Path, operator_sees: OperatorSees) -> None:
    async with sessions_of(tmp_path, max_turns=1) as here:
        await turn(here)
        status, headers, body = await posted(here)
        assert (status, body["code"], body["policy_label"]) == (429, "BUDGET_EXHAUSTED", "session_turns")
        assert 590 <= int(headers["Retry-After"]) <= 600
        assert body["retry_after_ms"] == int(headers["X-Backoff-Ms"])
        operator_sees("session/turns", shown(body))


@pytest.mark.req("HP-16")
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_is_left_of_a_budget_stands_on_every_answer(tmp_path: Path, streamed: bool) -> None:
    headers = {"Accept": EVENT_STREAM} if streamed else {}
    loop = asyncio.get_running_loop()
    async with sessions_of(tmp_path, token_budget=1000, time_budget_ms=60_000) as here:
        begun = loop.time()
        await turn(here)
        left_ms = 60_000 - math.ceil((loop.time() - begun) * 1000)
        body = BODY | {"session_id": "s"}
        async with here.client.post("/v1/tasks", json=body, headers=headers) as answer:
            assert answer.status == (200 if streamed else 202)
            assert 0 < int(answer.headers["X-Budget-Tokens-Remaining"]) < 1000
            assert left_ms <= int(answer.headers["X-Budget-Time-Remaining-Ms"]) <= 60_000
            await answer.read()
        async with here.client.post("/v1/tasks?dry_run=true", json=body) as answer:
            assert answer.status == 200
            assert 0 < int(answer.headers["X-Budget-Tokens-Remaining"]) < 1000
        async with here.client.post("/v1/tasks?dry_run=true", json=body | {"session_id": "new"}) as answer:
            assert answer.headers["X-Budget-Tokens-Remaining"] == "1000"
        async with here.client.post("/v1/tasks", json=BODY) as answer:
            assert not [name for name in answer.headers if name.startswith("X-Budget")]


@pytest.mark.req("HP-16")
async def test_a_spent_budget_is_said_with_what_is_left(tmp_path: Path, operator_sees: OperatorSees) -> None:
    async with sessions_of(tmp_path, token_budget=30) as here:
        frames = await turn(here, max_tokens=8)
        end = frames[-1].data
        left = 30 - end["tokens_in"] - end["tokens_out"]
        assert frames[-2].data == {"tokens_budget_remaining": left}
        assert (await posted(here, max_tokens=28))[0] == 400  # no session holds that
        status, headers, body = await posted(here, max_tokens=left)
        assert (status, body["code"], body["policy_label"]) == (429, "BUDGET_EXHAUSTED", "session_tokens")
        assert int(headers["Retry-After"]) > 590
        assert headers["X-Budget-Tokens-Remaining"] == str(left)
        assert (await here.get("/v1/sessions/s"))["budgets"]["tokens_remaining"] == left
        operator_sees("session/tokens", shown(body))


@pytest.mark.req("HP-15")
async def test_another_model_under_the_same_id_is_a_conflict(tmp_path: Path, operator_sees: OperatorSees) -> None:
    other = pool("q", model="file:/models/other.gguf", timeouts=Timeouts(), queue=Queue())
    async with StandIn(Knobs(tokens=4)) as engine, house(tmp_path, None, pool(), other) as here:
        here.report(engine.url, "p")
        here.report(engine.url, "q", model_ref="file:/models/other.gguf", model_id="o", model_digest="sha256:1")
        await turn(here)
        assert (await posted(here, model_ref="m"))[0] == 202  # the same one by another name
        status, _, body = await posted(here, model_ref="o")
        assert (status, body["code"], body["field"]) == (409, "CONFLICT", "session_id")
        operator_sees("session/other-model", shown(body))


def shown(body: dict[str, Any]) -> str:
    return f"{body['code']}: {body['message']}\nhint: {body['hint']}"


# --- the real llama.cpp -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def real(folder: Path, *flags: str, slots: int) -> AsyncIterator[tuple[House, str]]:
    model = write_tiny_gguf(folder / "m.gguf")
    async with (
        real_llamacpp(model, "--slot-save-path", "/", *flags, slots=slots, ctx=512 * slots) as url,
        house(folder, url, report={"slots": slots, "ctx_max": 512}) as here,
    ):
        yield here, url


def warmth(frames: list[Frame]) -> tuple[bool, list[bool]]:
    """What was expected when it started, and what was said after that."""
    later = [each.data for each in frames if each.event == "metrics"]
    return frames[0].data["kv_warmth"], [each["kv_warmth"] for each in later if "kv_warmth" in each]


@pytest.mark.req("HP-07", "HP-14")
@pytest.mark.parametrize("strangers", [1, 3])
async def test_strangers_leave_a_session_warm_while_another_slot_is_free(tmp_path: Path, strangers: int) -> None:
    async with real(tmp_path, "--cache-ram", "0", slots=2) as (here, _):
        assert warmth(await turn(here, prompt=LONG)) == (False, [])
        for _ in range(strangers):
            await here.stream(await here.submit(prompt=OTHER))
        assert warmth(await turn(here, prompt=LONG + "and then")) == (True, [])
        assert (await here.get("/v1/sessions/s"))["kv_warmth"] is True


@pytest.mark.req("HP-07", "HP-14")
async def test_with_one_slot_a_stranger_makes_a_session_cold(tmp_path: Path) -> None:
    async with real(tmp_path, "--cache-ram", "0", slots=1) as (here, _):
        await turn(here, prompt=LONG)
        await here.stream(await here.submit(prompt=OTHER))
        assert (await here.get("/v1/sessions/s"))["replica_id"] is None
        assert warmth(await turn(here, prompt=LONG + "and then")) == (False, [])
        assert warmth(await turn(here, prompt=LONG + "and then more")) == (True, [])


@pytest.mark.req("HP-07", "HP-14")
async def test_what_the_engine_kept_in_host_memory_is_told_as_warm(tmp_path: Path) -> None:
    async with real(tmp_path, slots=1) as (here, _):
        await turn(here, prompt=LONG)
        await here.stream(await here.submit(prompt=OTHER))
        assert warmth(await turn(here, prompt=LONG + "and then")) == (False, [True])


@pytest.mark.req("HP-07", "HP-14")
async def test_a_conversation_that_begins_anew_is_not_warm_whatever_was_expected(tmp_path: Path) -> None:
    async with real(tmp_path, "--cache-ram", "0", slots=2) as (here, _):
        await turn(here, prompt=LONG)
        assert warmth(await turn(here, prompt=OTHER)) == (True, [False])


@pytest.mark.req("HP-15")
async def test_the_slot_of_a_deleted_session_is_empty_when_the_answer_comes(tmp_path: Path) -> None:
    async with real(tmp_path, "--cache-ram", "0", slots=2) as (here, url):
        await turn(here, prompt=LONG)
        await here.stream(await here.submit(prompt=OTHER))
        async with here.client.delete("/v1/sessions/s") as answer:
            assert answer.status == 204
        held = [each["n_prompt_tokens"] for each in msgspec.json.decode((await raw(url, "/slots")).body)]
        assert sorted(each > 0 for each in held) == [False, True]
