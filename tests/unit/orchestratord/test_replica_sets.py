"""A strict task stays in one replica set, whatever becomes of its pools."""

import asyncio
from typing import Any

import msgspec
import pytest

from adapters.base import EngineError, Failure
from contracts.config import Queue
from contracts.errors import ErrorCode
from contracts.pools import PoolSnapshot, PoolState
from contracts.tasks import Determinism, Placement, PlacementMode
from orchestratord import kept
from orchestratord.determinism import replica_set
from orchestratord.kept import Moment
from orchestratord.task import Task
from tests.support.virtual_loop import settle
from tests.unit.orchestratord.frames import frames_of
from tests.unit.orchestratord.world import Hold, Script, ScriptedAdapter, World, config, ended, pool, snapshot, world

pytestmark = pytest.mark.req("HP-12")

STRICT = Determinism.STRICT
TWO = config(pool("p"), pool("q"))
THREE = config(pool("p"), pool("q"), pool("r"))
BUILDS = {"p": "b1", "q": "b2", "r": "b1"}


def report_of(pool_id: str, **changes: Any) -> PoolSnapshot:  # noqa: ANN401 - any field of the snapshot
    """Pools p and r have one build, q another."""
    return snapshot(pool_id, **({"engine_version": BUILDS[pool_id]} | changes))


def busy(until: asyncio.Event) -> ScriptedAdapter:
    """An engine whose first generation takes until then."""
    return ScriptedAdapter(Script([Hold(until), "one"]), otherwise=Script())


async def occupied(here: World, *pool_ids: str) -> list[Task]:
    """Every slot of these pools is taken."""
    return [await here.submit(placement=Placement(mode=PlacementMode.PIN, pool_id=each)) for each in pool_ids]


def waits_for(here: World, task: Task) -> frozenset[str]:
    return here.orchestrator.backlog.pools_of(task.id)


def error_of(stream: bytes) -> dict[str, Any]:
    last = frames_of(stream)[-1]
    assert last.event == "error", last
    return last.data  # type: ignore[no-any-return]


def engines_until(until: asyncio.Event, *pool_ids: str) -> dict[str, ScriptedAdapter]:
    return {pool_id: busy(until) for pool_id in pool_ids}


# --- coming in --------------------------------------------------------------------------------------------------------


async def test_strict_waits_for_one_set_and_best_effort_for_every_pool() -> None:
    until = asyncio.Event()
    async with world(settings=THREE, engines=engines_until(until, "p", "q", "r"), snapshots=report_of) as here:
        await occupied(here, "p", "q", "r")
        strict, free = await here.submit(determinism=STRICT), await here.submit()
        assert waits_for(here, strict) == {"p", "r"}
        assert waits_for(here, free) == {"p", "q", "r"}
        assert strict.admission.replica_set == replica_set(report_of("p"))
        assert free.admission.replica_set is None
        until.set()


@pytest.mark.parametrize(("taken", "chosen"), [("p", "q"), ("q", "p")])
async def test_it_is_the_set_where_it_starts_first(taken: str, chosen: str) -> None:
    until = asyncio.Event()
    async with world(settings=TWO, engines=engines_until(until, "p", "q"), snapshots=report_of) as here:
        await occupied(here, taken)
        task = await here.submit(determinism=STRICT)
        await settle()
        assert task.run is not None
        assert task.run.pool_id == chosen
        until.set()


@pytest.mark.parametrize(("prefer", "chosen"), [((), "p"), (("q",), "q")])
async def test_of_two_idle_sets_it_is_the_preferred_one_else_the_first(prefer: tuple[str, ...], chosen: str) -> None:
    async with world(settings=TWO, snapshots=report_of) as here:
        task = await here.submit(determinism=STRICT, placement=Placement(mode=PlacementMode.PREFER, prefer=prefer))
        await ended(task)
        assert task.replicas == [f"{chosen}-0"]


async def test_a_set_whose_queues_are_full_is_passed_over() -> None:
    until = asyncio.Event()
    settings = config(pool("p", queue=Queue(capacity=1)), pool("q"))
    async with world(settings=settings, engines=engines_until(until, "p", "q"), snapshots=report_of) as here:
        await occupied(here, "p", "q", "p")
        assert waits_for(here, await here.submit(determinism=STRICT)) == {"q"}
        until.set()


async def test_a_dry_run_tells_the_pools_of_the_set() -> None:
    async with world(settings=THREE, snapshots=report_of) as here:
        request = msgspec.structs.replace((await here.submit()).request, determinism=STRICT)
        forecast = await here.orchestrator.foretell(request, (await here.submit()).admission.caller)
        assert forecast.eligible_pools in {("p", "r"), ("q",)}


# --- pools that come --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("build", "joins"), [("b1", True), ("b2", False)])
async def test_a_pool_that_comes_into_service_joins_those_of_its_set_alone(build: str, joins: bool) -> None:
    until = asyncio.Event()
    engines = engines_until(until, "p", "q")
    async with world(settings=TWO, engines=engines, ready=False) as here:
        here.orchestrator.report(report_of("p"))
        await settle()
        await occupied(here, "p")
        strict, free = await here.submit(determinism=STRICT), await here.submit(determinism=Determinism.BEST_EFFORT)
        engines["q"].scripts = [Script([Hold(until), "x"])]
        here.orchestrator.report(report_of("q", engine_version=build))
        await settle()
        ran = strict if joins else free  # the first that may run there does
        assert ran.run is not None
        assert ran.run.pool_id == "q"
        assert (strict.run is not None) is joins
        until.set()


async def test_before_any_pool_has_shown_what_it_is_the_first_that_does_decides() -> None:
    until = asyncio.Event()
    starting = {"state": PoolState.STARTING, "engine_version": None, "engine_digest": None}
    async with world(settings=THREE, engines=engines_until(until, "p", "q", "r"), ready=False) as here:
        for pool_id in "pqr":
            here.orchestrator.report(report_of(pool_id, **starting))
        first = await here.submit(determinism=STRICT)
        task = await here.submit(determinism=STRICT)
        assert waits_for(here, task) == {"p", "q", "r"}
        assert task.replica_set is None
        here.orchestrator.report(report_of("p"))
        await settle()
        assert first.run is not None
        assert task.replica_set == replica_set(report_of("p"))
        here.orchestrator.report(report_of("q"))
        await settle()
        assert waits_for(here, task) == {"p", "r"}
        here.orchestrator.report(report_of("r"))
        await settle()
        assert task.run is not None
        assert task.run.pool_id == "r"
        until.set()


# --- pools that change ------------------------------------------------------------------------------------------------

CHANGED: dict[str, Any] = {
    "engine_version": "b3",
    "engine_digest": "sha256:f",
    "model_digest": "sha256:1",
    "sampler_profile_version": "greedy",
    "argv": ("--cache-type-k", "q8_0"),
}


@pytest.mark.parametrize("name", sorted(CHANGED))
async def test_a_member_that_is_another_engine_now_drops_out(name: str) -> None:
    until = asyncio.Event()
    async with world(settings=THREE, engines=engines_until(until, "p", "q", "r"), snapshots=report_of) as here:
        await occupied(here, "p", "q", "r")
        strict, free = await here.submit(determinism=STRICT), await here.submit()
        assert waits_for(here, strict) == {"p", "r"}
        here.orchestrator.report(report_of("p", state=PoolState.STARTING))
        assert waits_for(here, strict) == {"p", "r"}  # what it will be has yet to show
        here.orchestrator.report(report_of("p", revision=2, **{name: CHANGED[name]}))
        assert waits_for(here, strict) == {"r"}
        assert waits_for(here, free) == {"p", "q", "r"}
        until.set()


@pytest.mark.parametrize("name", sorted(CHANGED))
async def test_with_none_left_it_ends_with_what_has_changed(name: str) -> None:
    until = asyncio.Event()
    async with world(settings=config(), engines=engines_until(until, "p"), snapshots=report_of) as here:
        await occupied(here, "p")
        task = await here.submit(determinism=STRICT)
        here.orchestrator.report(report_of("p", revision=2, **{name: CHANGED[name]}))
        found = error_of(await ended(task))
        assert found["code"] == ErrorCode.POOL_UNAVAILABLE
        said = "flags" if name == "argv" else name
        assert f"pool 'p': {said} was " in found["message"]
        assert found["hint"] == "send the task again: it is queued for what is served now"
        until.set()


async def test_a_member_that_comes_back_as_it_was_keeps_its_tasks() -> None:
    until = asyncio.Event()
    async with world(settings=config(), engines=engines_until(until, "p"), snapshots=report_of) as here:
        await occupied(here, "p")
        task = await here.submit(determinism=STRICT)
        here.orchestrator.report(report_of("p", state=PoolState.BACKOFF))
        here.orchestrator.report(report_of("p", restarts=1))
        await settle()
        assert (await ended(task)).endswith(b"\n\n")
        assert task.replicas == ["p-0"]
        until.set()


# --- a silent retry ---------------------------------------------------------------------------------------------------


async def test_a_silent_retry_goes_to_a_pool_of_the_same_set() -> None:
    dies = Script(headers=[EngineError(Failure.BROKEN, "gone")])
    engines = {"p": ScriptedAdapter(dies), "q": ScriptedAdapter(), "r": ScriptedAdapter()}
    async with world(settings=THREE, engines=engines, snapshots=report_of) as here:
        prefer = Placement(mode=PlacementMode.PREFER, prefer=("p", "q"))
        task = await here.submit(determinism=STRICT, placement=prefer)
        await ended(task)
        assert task.replicas == ["p-0", "r-0"]


async def test_without_another_pool_of_the_set_it_is_not_tried_on_another_engine() -> None:
    dies = Script(headers=[EngineError(Failure.INVALID, "gone", status=404)])
    engines = {"p": ScriptedAdapter(otherwise=dies), "q": ScriptedAdapter()}
    async with world(settings=TWO, engines=engines, snapshots=report_of) as here:
        task = await here.submit(determinism=STRICT)
        error_of(await ended(task))
        assert set(task.replicas) == {"p-0"}
        assert engines["q"].asked == []


async def test_a_member_that_changed_while_the_task_ran_elsewhere_is_no_member_when_it_comes_back() -> None:
    until = asyncio.Event()
    dies = Script(headers=[Hold(until), EngineError(Failure.BROKEN, "gone")])
    engines = {"p": ScriptedAdapter(dies, otherwise=Script()), "r": ScriptedAdapter()}
    async with world(settings=config(pool("p"), pool("r")), engines=engines, snapshots=report_of) as here:
        prefer = Placement(mode=PlacementMode.PREFER, prefer=("p",))
        task = await here.submit(determinism=STRICT, placement=prefer)
        await settle()
        here.orchestrator.report(report_of("r", revision=2, engine_version="b9"))
        until.set()
        await ended(task)
        assert engines["r"].asked == []


async def test_a_member_that_was_away_shows_again_what_it_is_when_it_comes_back() -> None:
    until, recovered = asyncio.Event(), asyncio.Event()
    dies = Script(headers=[Hold(until), EngineError(Failure.BROKEN, "gone")])
    engines = {"p": ScriptedAdapter(dies, otherwise=Script()), "r": ScriptedAdapter()}
    engines["p"].healths = [Hold(recovered)]
    async with world(settings=config(pool("p"), pool("r")), engines=engines, snapshots=report_of) as here:
        prefer = Placement(mode=PlacementMode.PREFER, prefer=("p",))
        task = await here.submit(determinism=STRICT, placement=prefer)
        await settle()
        here.orchestrator.report(report_of("r", revision=2, engine_version="b9"))
        here.orchestrator.report(report_of("r", revision=3, state=PoolState.BACKOFF))
        until.set()
        await settle()
        assert waits_for(here, task) == {"p", "r"}
        here.orchestrator.report(report_of("r", revision=4, engine_version="b9"))
        await settle()
        assert waits_for(here, task) == {"p"}
        recovered.set()
        await ended(task)
        assert engines["r"].asked == []


# --- a restart --------------------------------------------------------------------------------------------------------


async def test_its_set_is_written_down_with_it() -> None:
    async with world(settings=TWO, snapshots=report_of) as here:
        task = await here.submit(determinism=STRICT)
        await ended(task)
        written = kept.written(kept.entered(task.admission, frozenset({"p"}), kept.Shown(task.request)))
        read = kept.read_entered(written, Moment(0, task.admission.created_ms)).admission
        assert read.replica_set == task.admission.replica_set == replica_set(report_of("p"))


# --- what the engine is asked for -------------------------------------------------------------------------------------


async def test_the_profile_of_the_pool_is_sent_and_the_request_goes_before_it() -> None:
    async with world() as here:
        await ended(await here.submit())
        here.orchestrator.report(snapshot(revision=2, sampler_profile_version="greedy"))
        await ended(await here.submit())
        first, second = here.engines["p"].asked
        assert (first.sampling.temperature, first.sampling.top_k) == (0.8, 40)
        assert first.further["mirostat"] == 0
        assert second.sampling.temperature == 0.0
