"""When pool-managerd is told whose work its engines do."""

import asyncio

import pytest

from contracts.rpc import MAX_JOBS, JobsParams
from orchestratord.jobs import GATHER_S, LINGER_S, Jobs
from tests.support.virtual_loop import pass_time


def told_by(jobs_of: list[JobsParams]) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.pool_id, each.correlation_ids) for each in jobs_of]


@pytest.mark.req("HP-22")
async def test_a_job_is_named_behind_the_request_and_for_a_moment_after_its_end() -> None:
    said: list[JobsParams] = []
    order: list[str] = []

    def tell(params: JobsParams) -> None:
        said.append(params)
        order.append("told")

    jobs = Jobs(tell)

    async def sends() -> None:
        order.append("sent")

    jobs.started("p", "t1", "a")
    async with asyncio.TaskGroup() as group:
        group.create_task(sends())
    await pass_time(0)
    assert told_by(said) == [("p", ("a",))]
    assert order == ["sent", "told"]
    jobs.ended("t1")
    await pass_time(LINGER_S / 2)
    assert len(said) == 1
    await pass_time(LINGER_S)
    assert told_by(said)[1:] == [("p", ())]


async def test_many_short_jobs_are_told_of_together() -> None:
    said: list[JobsParams] = []
    jobs = Jobs(said.append)
    for number in range(50):
        jobs.started("p", f"t{number}", f"c{number}")
        await pass_time(GATHER_S / 100)
        jobs.ended(f"t{number}")
    await pass_time(2 * LINGER_S)
    assert 2 <= len(said) < 25 + 2 * LINGER_S / GATHER_S
    assert told_by(said)[-1] == ("p", ())


async def test_a_long_list_has_the_newest_and_the_number_of_the_others() -> None:
    said: list[JobsParams] = []
    jobs = Jobs(said.append)
    for number in range(MAX_JOBS + 5):
        jobs.started("p", f"t{number}", f"c{number}")
    jobs.started("p", "twin", "c7")
    await pass_time(GATHER_S)
    assert said[-1].more == 5
    assert said[-1].correlation_ids == tuple(f"c{number}" for number in range(5, MAX_JOBS + 5))


async def test_one_that_goes_to_another_pool_is_named_there_and_a_manager_that_is_back_is_told_again() -> None:
    said: list[JobsParams] = []
    jobs = Jobs(said.append)
    jobs.started("p", "t", "a")
    await pass_time(GATHER_S)
    jobs.started("q", "t", "a")
    await pass_time(2 * LINGER_S)
    assert told_by(said) == [("p", ("a",)), ("q", ("a",)), ("p", ())]
    said.clear()
    jobs.tell_all()
    await pass_time(GATHER_S)
    assert sorted(told_by(said)) == [("p", ()), ("q", ("a",))]
