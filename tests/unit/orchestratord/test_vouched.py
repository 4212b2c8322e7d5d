"""When an engine is asked what it serves, and for whose runs the answer counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import pytest

from adapters.base import Adapter, Batch, EngineError, Failure, Generation
from orchestratord.vouched import Vouched, Vouching
from tests.support.virtual_loop import settle

pytestmark = [pytest.mark.req("HP-12", "HP-06")]
OURS, ANOTHER = "/models/m.gguf", "/models/n.gguf"
TEXT = Batch(["text"])


class Engine:
    """It accepts every run, and answers a question when it is told to."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.answers: list[asyncio.Future[str | None]] = []

    async def model(self) -> str | None:
        self.heard.append("question")
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]

    def submit(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        return self._submit(generation)

    @asynccontextmanager
    async def _submit(self, generation: Generation) -> AsyncIterator[AsyncIterator[Batch]]:
        self.heard.append(generation.prompt or "")

        async def batches() -> AsyncIterator[Batch]:
            yield TEXT

        yield batches()


class Scene:
    """Runs on one engine."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.engine = Engine()
        self._group = group
        self.asking: list[asyncio.Task[None]] = []
        self._vouching = Vouching(self._begin)

    def _begin(self, work: Coroutine[None, None, None], name: str) -> None:
        self.asking.append(self._group.create_task(work, name=name))

    def run(self, name: str) -> asyncio.Task[list[Batch] | Exception]:
        return self._group.create_task(self._run(name))

    async def _run(self, name: str) -> list[Batch] | Exception:
        source = Vouched(cast("Adapter", self.engine), OURS, self._vouching)
        try:
            async with source.submit(Generation(prompt=name)) as batches:
                return [batch async for batch in batches]
        except (EngineError, ZeroDivisionError) as error:
            return error


async def test_it_is_asked_beside_the_run_and_nothing_is_handed_on_before_it_has_answered() -> None:
    async with asyncio.TaskGroup() as group:
        scene = Scene(group)
        run = scene.run("a")
        await settle()
        assert (scene.engine.heard, run.done()) == (["a", "question"], False)
        scene.engine.answers[0].set_result(OURS)
        assert await run == [TEXT]


async def test_runs_of_one_moment_share_a_question() -> None:
    async with asyncio.TaskGroup() as group:
        scene = Scene(group)
        runs = [scene.run(name) for name in "abc"]
        await settle()
        assert scene.engine.heard == ["a", "b", "c", "question"]
        scene.engine.answers[0].set_result(OURS)
        assert [await run for run in runs] == [[TEXT]] * 3


async def test_a_question_that_began_before_a_run_does_not_vouch_for_it() -> None:
    async with asyncio.TaskGroup() as group:
        scene = Scene(group)
        first = scene.run("a")
        await settle()
        later = [scene.run(name) for name in "bc"]
        await settle()
        scene.engine.answers[0].set_result(OURS)
        await first
        await settle()
        assert not any(run.done() for run in later)
        assert scene.engine.heard == ["a", "question", "b", "c", "question"]
        scene.engine.answers[1].set_result(ANOTHER)
        for run in later:
            error = await run
            assert isinstance(error, EngineError)
            assert (error.failure, error.status, ANOTHER in error.message) == (Failure.INVALID, 404, True)


async def test_one_who_leaves_takes_the_answer_from_nobody() -> None:
    async with asyncio.TaskGroup() as group:
        scene = Scene(group)
        first, second = scene.run("a"), scene.run("b")
        await settle()
        first.cancel()
        await settle()
        scene.engine.answers[0].set_result(OURS)
        assert await second == [TEXT]
        assert first.cancelled()


@pytest.mark.parametrize("error", [EngineError(Failure.REFUSED, "nobody listens"), ZeroDivisionError("a bug")])
async def test_a_question_that_fails_fails_the_runs_that_wait_for_it_and_no_other(error: Exception) -> None:
    async with asyncio.TaskGroup() as group:
        scene = Scene(group)
        runs = [scene.run(name) for name in "ab"]
        await settle()
        scene.engine.answers[0].set_exception(error)
        assert [await run for run in runs] == [error, error]
        after = scene.run("c")
        await settle()
        scene.engine.answers[1].set_result(OURS)
        assert await after == [TEXT]


async def test_whoever_waits_when_the_asking_ends_is_let_go() -> None:
    async with asyncio.TaskGroup() as group:
        scene = Scene(group)
        run = scene.run("a")
        await settle()
        scene.asking[0].cancel()
        await settle()
        assert run.cancelled()
