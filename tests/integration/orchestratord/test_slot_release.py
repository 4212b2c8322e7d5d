"""Cancelled runs on engines that work: the slot is given away when the engine has let go, and not before."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.integration.orchestratord.house import BODY, EVENT_STREAM, House, house, read_until, tokens_in
from tests.standin.knobs import Knobs
from tests.standin.server import StandIn
from tests.support.raw_http import raw
from tests.support.real_llamacpp import real_llamacpp
from tests.support.tiny_gguf import slow_model
from tests.unit.orchestratord.frames import events_of, frames_of

Measured = Callable[[str], None]
STORY = {"prompt": "once upon a time", "max_tokens": 400, "expected_tokens": 400}
ROUNDS = 25
CONTEXT = 1024


@pytest.fixture
def measured(capsys: pytest.CaptureFixture[str]) -> Measured:
    """Say a figure on the terminal: it is what it is on this machine, and no test depends on it."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="")  # noqa: T201 - for whoever runs it

    return say


def spread(figures: Sequence[float]) -> str:
    """The middle and the worst."""
    ordered = sorted(figures)
    return f"p50 {statistics.median(ordered):.1f}, p99 {ordered[int(0.99 * len(ordered))]:.1f} ms of {len(ordered)}"


async def busy(url: str) -> int:
    """What the engine itself says, asked past the adapter."""
    return sum(slot["is_processing"] for slot in msgspec.json.decode((await raw(url, "/slots")).body))


async def figure(url: str, name: str) -> int:
    """One of the engine's own metrics."""
    said = (await raw(url, "/metrics")).body.decode()
    line = next(each for each in said.splitlines() if each.startswith(f"llamacpp:{name} "))
    return int(float(line.split()[1]))


async def until_slot_is_free(here: House, task_id: str) -> int:
    """What the engine took to let go, once it has."""
    async with asyncio.timeout(40):
        while (took := (await here.get(f"/v1/tasks/{task_id}"))["slot_free_ms"]) is None:
            pass
    return int(took)


async def cancel_after(here: House, seen: Callable[[bytes], bool]) -> str:
    """A task that is cancelled once its stream has come so far; its id."""
    async with here.client.post("/v1/tasks", json=BODY | STORY, headers={"Accept": EVENT_STREAM}) as answer:
        task_id = answer.headers["Location"].rpartition("/")[2]
        got = await read_until(answer, seen)
        assert await here.cancel(task_id) == 204
        got += await answer.read()
    assert frames_of(got)[-1].data["finish_reason"] == "canceled"
    return task_id


@pytest.mark.req("HP-11")
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_cancel_frees_the_slot_of_the_real_llama_server(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, measured: Measured
) -> None:
    loop = asyncio.get_running_loop()
    async with (
        real_llamacpp(slow_model(tmp_path_factory), "--metrics", slots=1, ctx=CONTEXT) as url,
        house(tmp_path, url, report={"slots": 1, "ctx_max": CONTEXT}) as here,
    ):
        took, next_token = [], []
        for _ in range(ROUNDS):
            task_id = await cancel_after(here, lambda got: tokens_in(got) >= 2)
            at = loop.time()
            body = BODY | {"max_tokens": 1}
            async with here.client.post("/v1/tasks", json=body, headers={"Accept": EVENT_STREAM}) as answer:
                got = await read_until(answer, lambda got: tokens_in(got) == 1)
                next_token.append((loop.time() - at) * 1000)
                got += await answer.read()
            assert events_of(got)[-1] == "end"
            took.append(await until_slot_is_free(here, task_id))
        assert await busy(url) == 0
        steps = await figure(url, "n_decode_total")
        assert steps < ROUNDS * 400 / 2, "it noticed each by itself: no story was told to its end"
    measured(f"slot_free_ms: {spread(took)}; cancel to the next task's first token: {spread(next_token)}")


@pytest.mark.req("HP-11")
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_cancel_during_a_long_prompt_waits_for_the_real_llama_server(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, measured: Measured
) -> None:
    async with (
        real_llamacpp(slow_model(tmp_path_factory), slots=1, ctx=CONTEXT) as url,
        house(tmp_path, url, report={"slots": 1, "ctx_max": CONTEXT}) as here,
    ):
        took = []
        for number in range(3):
            prompt = f"{number} once upon a time " + "there was a wolf and a moon " * 30
            task_id = await here.submit(prompt=prompt, max_tokens=160)  # enough not to be over before we have looked
            async with asyncio.timeout(40):
                while not await busy(url):
                    pass
            assert await here.cancel(task_id) == 204
            after = await here.submit(max_tokens=1)
            assert events_of(await here.stream(after))[-1] == "end"
            took.append(await until_slot_is_free(here, task_id))
    measured(f"slot_free_ms in prompt processing: {', '.join(map(str, took))}")


@pytest.mark.req("HP-08", "HP-11")
@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_the_real_llama_server_never_gets_more_than_it_has_slots(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Its own count of what had to wait in it stays at nothing while every second task is cancelled."""
    async with (
        real_llamacpp(slow_model(tmp_path_factory), "--metrics", slots=2, ctx=CONTEXT) as url,
        house(tmp_path, url, report={"slots": 2, "ctx_max": CONTEXT // 2}) as here,
    ):
        done = asyncio.Event()
        deferred = 0

        async def watch() -> None:
            nonlocal deferred
            while not done.is_set():
                deferred = max(deferred, await figure(url, "requests_deferred"))

        async def one(number: int) -> None:
            task_id = await here.submit(max_tokens=24, priority="batch")
            if number % 2:
                async with here.client.get(f"/v1/tasks/{task_id}/stream") as answer:
                    await read_until(answer, lambda got: tokens_in(got) >= 1 or b"event: end" in got)
                    await here.cancel(task_id)
                    await answer.read()
            else:
                assert events_of(await here.stream(task_id))[-1] == "end"

        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            async with asyncio.TaskGroup() as tasks:
                for number in range(40):
                    tasks.create_task(one(number))
            done.set()
        assert deferred == 0


@pytest.mark.req("HP-08")
async def test_the_gap_between_two_tasks_on_one_slot(tmp_path: Path, measured: Measured) -> None:
    loop = asyncio.get_running_loop()
    ends, arrivals = [], []
    async with StandIn(Knobs(tokens=3, slots=1)) as engine, house(tmp_path, engine.url, report={"slots": 1}) as here:
        release, acquire = engine.release, engine.acquire

        def released(slot: int) -> None:
            ends.append(loop.time())
            release(slot)

        async def acquired() -> int:
            arrivals.append(loop.time())
            return await acquire()

        engine.release = released  # type: ignore[method-assign]
        engine.acquire = acquired  # type: ignore[method-assign]
        tasks = [await here.submit(max_tokens=3, priority="batch") for _ in range(60)]
        for task_id in tasks:
            assert events_of(await here.stream(task_id))[-1] == "end"
        assert engine.stats.peak == 1
        assert (len(ends), len(arrivals)) == (60, 60)
    gaps = [(after - before) * 1000 for before, after in zip(ends, arrivals[1:], strict=False) if after > before]
    measured(f"gap between the end of one task and the next at its engine: {spread(gaps)}")
