"""`llama-orch drain` and `reload`: what is asked of the daemon, what is said, and how long they wait."""

import json

import pytest

from contracts.pools import Cause, PoolError, PoolMetrics, PoolState
from llama_orch.commands.drain import drain_text
from tests.integration.llama_orch.conftest import Cli
from tests.plugins.failures import OperatorSees
from tests.unit.llama_orch.fake import FakeDaemon

pytestmark = pytest.mark.timeout(120)  # programs start one after the other
ERROR = PoolError(cause=Cause.MODEL_MISSING, message="/b.gguf does not exist", hint="ls -l /b.gguf", at_ms=5)


@pytest.mark.req("PM-04")
async def test_drain_asks_and_returns(fake: FakeDaemon, cli: Cli) -> None:
    assert await cli("drain", "trial", "--deadline", "1.5") == (0, "trial stops now: nothing runs on it\n", "")
    assert fake.asked == [("/v1/pools/trial/drain", b'{"deadline_ms":1500}')]
    done = await cli("drain", "trial", "--json")
    assert json.loads(done.stdout)["pool_id"] == "trial"
    assert json.loads(fake.asked[-1][1]) == {"deadline_ms": 30_000}


@pytest.mark.req("PM-04")
async def test_drain_waits_until_the_pool_is_stopped(fake: FakeDaemon, cli: Cli) -> None:
    fake.pool_next = [fake.health(state) for state in (PoolState.READY, PoolState.DRAINING, PoolState.STOPPED)]
    assert await cli("drain", "trial", "--wait") == (0, "trial is drained and stopped\n", "")


async def test_drain_says_what_still_runs(fake: FakeDaemon) -> None:

    running = PoolMetrics(queue_depth=2, active=1, slots=2)
    assert drain_text(fake.health(PoolState.DRAINING, metrics=running), 30) == (
        "trial drains: 1 task runs, and may do so for 30 s; then its engine is stopped; 2 queued"
    )


@pytest.mark.req("PM-04")
async def test_reload_takes_the_model_that_the_pool_has_or_another_one(fake: FakeDaemon, cli: Cli) -> None:
    same = await cli("reload", "trial")
    assert same.stdout == "trial gets a new engine with /haiku.gguf; the one that serves goes on until then\n"
    other = await cli("reload", "trial", "--model", "/b.gguf")
    assert other.stdout == "trial changes from /haiku.gguf to /b.gguf; should that fail, it keeps the old one\n"
    assert fake.asked == [
        ("/v1/pools/trial/reload", b'{"new_model_ref":"/haiku.gguf","deadline_ms":30000}'),
        ("/v1/pools/trial/reload", b'{"new_model_ref":"/b.gguf","deadline_ms":30000}'),
    ]
    fake.pool_state = PoolState.BROKEN
    assert (await cli("reload", "trial")).stdout == "trial is broken, and starts with /haiku.gguf\n"


@pytest.mark.req("PM-04")
async def test_reload_lets_running_tasks_go_on_for_as_long_as_is_said(fake: FakeDaemon, cli: Cli) -> None:
    assert (await cli("reload", "trial", "--deadline", "1.5")).status == 0
    assert json.loads(fake.asked[-1][1])["deadline_ms"] == 1_500
    wrong = await cli("reload", "trial", "--deadline", "86401")
    assert (wrong.status, "86400" in wrong.stderr) == (2, True)
    assert len(fake.asked) == 1


@pytest.mark.req("PM-04")
async def test_reload_waits_until_the_new_model_serves(fake: FakeDaemon, cli: Cli) -> None:
    fake.pool_next = [fake.health(next_model_ref="/b.gguf"), fake.health(model_ref="/b.gguf")]
    done = await cli("reload", "trial", "--model", "/b.gguf", "--wait")
    assert done == (0, "trial serves /b.gguf\n", "")


@pytest.mark.req("PM-04")
async def test_a_reload_that_failed_has_status_1(fake: FakeDaemon, cli: Cli, operator_sees: OperatorSees) -> None:
    fake.pool_next = [fake.health(next_model_ref="/b.gguf"), fake.health(last_error=ERROR)]
    done = await cli("reload", "trial", "--model", "/b.gguf", "--wait")
    assert (done.status, done.stdout) == (1, "")
    operator_sees("model/reload-failed", done.stderr)


async def test_an_unknown_pool_is_not_found(fake: FakeDaemon, cli: Cli) -> None:
    for verb in ("drain", "reload"):
        done = await cli(verb, "../tasks")
        assert (done.status, done.stdout) == (1, "")
        assert "404" in done.stderr
    assert fake.asked == []
