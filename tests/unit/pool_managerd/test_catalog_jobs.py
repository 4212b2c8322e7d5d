"""Jobs on models: one of a kind at a time, shown as they go on, and ended when asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from contracts.catalog import CatalogJob, JobKind, JobState, VerifyReason, VerifyResult
from contracts.pools import Cause
from pool_managerd.catalog_jobs import MAX_MESSAGE, CatalogJobs, Done, Progress
from pool_managerd.errors import StepError

DONE = Done(model_id="m", message="here")


class Board:
    """The jobs, and everything that was shown of them."""

    def __init__(self) -> None:
        self.shown: list[CatalogJob] = []
        self.news = asyncio.Event()
        self.jobs = CatalogJobs(show=self.show, redact=lambda text: text.replace("sesame", "***"), now_ms=lambda: 7)
        self.running: list[str] = []
        self.most = 0

    def show(self, job: CatalogJob) -> None:
        self.shown.append(job)
        self.news.set()

    def begin(self, name: str, kind: JobKind = JobKind.VERIFY, gate: asyncio.Event | None = None) -> CatalogJob:
        async def work(_: Progress) -> Done:
            self.running.append(name)
            self.most = max(self.most, len(self.running))
            await (gate.wait() if gate is not None else asyncio.sleep(0))
            self.running.remove(name)
            return Done(model_id=name, message="done")

        return self.jobs.begin(kind, name, f"{name}.gguf", "none", work)

    def states(self, name: str) -> list[str]:
        return [str(job.state) for job in self.shown if job.asked_id == name]

    async def until(self, name: str, state: JobState) -> CatalogJob:
        while state not in self.states(name):
            self.news.clear()
            await self.news.wait()
        return next(job for job in reversed(self.shown) if job.asked_id == name)


@asynccontextmanager
async def board() -> AsyncIterator[Board]:
    made = Board()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(made.jobs.run())
        yield made
        running.cancel()


async def test_jobs_of_one_kind_run_one_after_the_other_and_another_kind_beside_them() -> None:
    async with board() as here:
        gate = asyncio.Event()
        here.begin("a", gate=gate)
        here.begin("b")
        here.begin("c", JobKind.PULL, gate)
        await here.until("a", JobState.RUNNING)
        await here.until("c", JobState.RUNNING)
        assert here.states("b") == ["waiting"]
        gate.set()
        await here.until("b", JobState.DONE)
        assert here.states("a") == here.states("b") == ["waiting", "running", "done"]
        assert here.most == 2


async def test_what_is_asked_for_twice_is_done_once() -> None:
    async with board() as here:
        gate = asyncio.Event()
        first = here.begin("a", gate=gate)
        assert here.begin("a").number == first.number
        await here.until("a", JobState.RUNNING)
        assert here.begin("a").number == first.number
        gate.set()
        await here.until("a", JobState.DONE)
        assert here.begin("a").number > first.number
        await here.until("a", JobState.DONE)


@pytest.mark.parametrize("when", ["waiting", "chosen", "running"])
async def test_a_job_can_be_ended_at_any_time(when: str) -> None:
    async with board() as here:
        gate = asyncio.Event()
        if when == "waiting":
            here.begin("other", gate=gate)
            await here.until("other", JobState.RUNNING)
        here.begin("a", gate=asyncio.Event())
        if when == "running":
            await here.until("a", JobState.RUNNING)
        if when == "chosen":
            await asyncio.sleep(0)
        assert await here.jobs.cancel("a")
        assert here.states("a")[-1] == "canceled"
        assert here.jobs.open_on(JobKind.VERIFY, "a") is None
        assert not await here.jobs.cancel("a")
        gate.set()
        here.begin("next")
        await here.until("next", JobState.DONE)


async def test_what_fails_is_shown_with_its_mend_and_without_secrets() -> None:
    async def refused(progress: Progress) -> Done:
        progress("asking with sesame")
        raise StepError(Cause.MODEL_FETCH, "sesame did not help " + "x" * 5000, "say sesame")

    async def defect(_: Progress) -> Done:
        raise ZeroDivisionError

    async with board() as here:
        here.jobs.begin(JobKind.PULL, "a", "a", "none", refused)
        failed = await here.until("a", JobState.FAILED)
        assert (failed.cause, failed.hint, failed.ended_ms) == ("model_fetch", "say ***", 7)
        assert failed.message.startswith("*** did not help")
        assert len(failed.message) == MAX_MESSAGE
        assert not [job for job in here.shown if "sesame" in f"{job.message}{job.hint}"]
        here.jobs.begin(JobKind.PULL, "b", "b", "none", defect)
        failed = await here.until("b", JobState.FAILED)
        assert (failed.cause, failed.message) == ("internal", "a defect: ZeroDivisionError()")


async def test_the_outcome_of_a_verification_is_part_of_its_job() -> None:
    async def work(_: Progress) -> Done:
        return Done(
            model_id="final", message="wrong", result=VerifyResult.FAILED, reason=VerifyReason.SIZE_CHANGED, hint="mend"
        )

    async with board() as here:
        here.jobs.begin(JobKind.VERIFY, "a", "a", "llamacpp", work)
        job = await here.until("a", JobState.DONE)
        assert (job.model_id, job.asked_id, job.engine) == ("final", "a", "llamacpp")
        assert (job.result, job.reason, job.hint) == ("failed", "size_changed", "mend")


async def test_the_end_of_the_daemon_ends_what_runs() -> None:
    async with board() as here:
        here.begin("a", gate=asyncio.Event())
        await here.until("a", JobState.RUNNING)
    assert here.states("a")[-1] == "canceled"
