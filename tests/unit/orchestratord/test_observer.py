"""Who hears of a task besides the log and the metrics."""

from __future__ import annotations

import msgspec
import pytest

from contracts.config import Mode
from contracts.rpc import JobsParams
from orchestratord.jobs import Jobs
from orchestratord.metrics import Metrics
from orchestratord.observer import Observer
from tests.support.virtual_loop import settle
from tests.unit.orchestratord.test_task import RUN, started
from tests.unit.orchestratord.world import snapshot


@pytest.mark.req("HP-22")
@pytest.mark.parametrize(("mode", "told"), [(Mode.PACKAGE, ["p"]), (Mode.EXTERNAL, [])])
async def test_pool_managerd_hears_of_jobs_on_the_engines_that_it_reads_along(mode: Mode, told: list[str]) -> None:
    said: list[JobsParams] = []
    observer = Observer(Metrics(), jobs=Jobs(said.append))
    task = started()
    task.run = msgspec.structs.replace(RUN, served=snapshot("p", provisioning_mode=mode))
    observer.started_again(task)
    await settle()
    assert [each.pool_id for each in said] == told
