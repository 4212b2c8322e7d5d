"""The owner against effects that a test scripts, on a clock that jumps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest

from contracts.config import Engine, Mode, Restart
from contracts.engines import PreparedEngine, ResolvedModel
from contracts.pools import Cause, Endpoint, PoolState
from pool_managerd import life as l
from pool_managerd.errors import StepError, StillRunningError
from pool_managerd.owner import STOP_AGAIN_MS, Owner, Successor
from tests.support.virtual_loop import pass_time, settle

MODEL = ResolvedModel(id="m", ref="file:/m", local_path="/m", size_bytes=1, digest="sha256:0")
ENGINE = PreparedEngine(engine=Engine.LLAMACPP, engine_version="1", provisioning_mode=Mode.PACKAGE)
RULES = Restart(initial_ms=1000, max_ms=8000, healthy_ms=60_000, max_failures=3)


class ScriptedEffects:
    """Does nothing, remembers everything; ``script`` says what a step does instead of succeeding at once."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.seen: list[l.Life] = []
        self.script: dict[str, Callable[[], Awaitable[None]]] = {}
        self.died = asyncio.Event()
        self.engines = 0
        self.successors = 0
        self.no_room = False

    def now(self) -> int:
        return round(asyncio.get_running_loop().time() * 1000)

    def draw(self) -> float:
        return 0.5

    async def sleep_until(self, due: int) -> None:
        await asyncio.sleep(0)
        await pass_time((due - self.now()) / 1000)

    async def stage_model(self, model_ref: str) -> ResolvedModel | None:
        await self._step(f"stage {model_ref}")
        return MODEL

    async def ensure_engine(self) -> PreparedEngine:
        await self._step("ensure")
        return ENGINE

    async def spawn(self, engine: PreparedEngine, model: ResolvedModel | None) -> Endpoint:
        self.engines += 1
        assert self.engines == 1, "two engines at once"
        self.died.clear()
        await self._step("spawn")
        return Endpoint(url="http://127.0.0.1:1")

    async def exited(self, run: int) -> l.EngineExited:
        await self.died.wait()
        self.engines = 0
        return l.EngineExited(run=run, message="the engine exited with status 1")

    async def prove(self) -> None:
        await self._step("prove")

    async def watch(self, model_ref: str) -> None:
        await self._step(f"watch {model_ref}")
        await asyncio.Event().wait()

    async def stop(self) -> None:
        await self._step("stop")
        self.engines = self.successors = 0

    async def prepare_successor(self, model_ref: str) -> Successor | None:
        self.successors += 1
        assert self.successors == 1, "two successors at once"
        try:
            await self._step(f"prepare {model_ref}")
        except BaseException:
            self.successors = 0
            raise
        if self.no_room:
            self.successors = 0
            return None
        return Successor(model=MODEL, engine=ENGINE, endpoint=Endpoint(url="http://127.0.0.1:2"))

    async def abandon_successor(self) -> None:
        await self._step("abandon")
        self.successors = 0

    def switch_over(self) -> bool:
        self.done.append("switch")
        self.successors = 0
        self.died.clear()
        return True

    async def retire(self) -> None:
        await self._step("retire")

    async def devices_well(self) -> None:
        await self._step("devices")

    def publish(self, life: l.Life) -> None:
        self.seen.append(life)

    @property
    def last(self) -> l.Life:
        return self.seen[-1]

    def state(self) -> PoolState:
        return self.last.state

    async def _step(self, name: str) -> None:
        self.done.append(name)
        if scripted := self.script.get(name.split(maxsplit=1)[0]):
            await scripted()


@asynccontextmanager
async def owned(effects: ScriptedEffects) -> AsyncIterator[Owner]:
    owner = Owner("gpu0", l.Life(rules=RULES, model_ref="file:/m"), effects)
    task = asyncio.get_running_loop().create_task(owner.run())
    yield owner
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def forever() -> None:
    await asyncio.Event().wait()


def failing(cause: Cause) -> Callable[[], Awaitable[None]]:
    async def fail() -> None:
        raise StepError(cause, "it broke", "mend it")

    return fail


async def test_a_start_goes_through_its_steps_in_order() -> None:
    effects = ScriptedEffects()
    async with owned(effects) as owner:
        owner.post(l.Start())
        await settle(50)
        assert effects.done == ["stage file:/m", "ensure", "spawn", "prove", "watch file:/m"]
        assert effects.state() is PoolState.READY


@pytest.mark.req("PM-01")
async def test_an_engine_that_dies_is_cleared_away_and_started_again_after_the_backoff() -> None:
    effects = ScriptedEffects()
    async with owned(effects) as owner:
        owner.post(l.Start())
        await settle(50)
        effects.done.clear()
        effects.died.set()
        await settle(50)
        assert (effects.state(), effects.done) == (PoolState.BACKOFF, ["stop"])
        await pass_time(0.7)
        assert effects.state() is PoolState.BACKOFF
        await pass_time(0.1)
        await settle(50)
        assert (effects.state(), effects.last.restarts) == (PoolState.READY, 1)
        states = [life.state for life in effects.seen]
        assert PoolState.FAILED in states[states.index(PoolState.READY) :]


@pytest.mark.req("PM-01")
async def test_a_pool_that_keeps_failing_is_broken_until_somebody_restarts_it() -> None:
    effects = ScriptedEffects()
    effects.script["prove"] = failing(Cause.ENGINE_UNHEALTHY)
    async with owned(effects) as owner:
        owner.post(l.Start())
        await pass_time(60)
        assert (effects.state(), effects.done.count("spawn")) == (PoolState.BROKEN, 3)
        await pass_time(3600)
        assert effects.done.count("spawn") == 3
        del effects.script["prove"]
        owner.post(l.RestartAsked())
        await settle(50)
        assert (effects.state(), effects.last.failures) == (PoolState.READY, 0)


async def test_the_end_of_a_start_cancels_its_step_and_ends_the_engine_only_then() -> None:
    effects = ScriptedEffects()
    order: list[str] = []

    async def slow_to_cancel() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            order.append("step over")

    async def stop() -> None:
        order.append("stop")

    effects.script |= {"ensure": slow_to_cancel, "stop": stop}
    async with owned(effects) as owner:
        owner.post(l.Start())
        await settle()
        assert effects.state() is PoolState.ENSURING_ENGINE
        owner.post(l.StopAsked())
        await owner.stopped()
        await settle()
        assert order == ["step over", "stop"]
        assert effects.state() is PoolState.STOPPED


async def test_no_engine_starts_while_the_old_one_cannot_be_ended() -> None:
    effects = ScriptedEffects()
    held = True

    async def stop() -> None:
        if held:
            raise StillRunningError((7,))

    effects.script["stop"] = stop
    async with owned(effects) as owner:
        owner.post(l.Start())
        await settle(50)
        owner.post(l.RestartAsked())
        await pass_time(10 * STOP_AGAIN_MS / 1000)
        assert effects.state() is PoolState.DRAINING
        assert effects.done.count("spawn") == 1
        held = False
        await pass_time(2 * STOP_AGAIN_MS / 1000)
        await settle(50)
        assert effects.state() is PoolState.READY
        assert effects.done.count("spawn") == 2


@pytest.mark.parametrize(
    ("error", "said", "traced"),
    [
        (StillRunningError((7,)), "cannot end the engine, trying until it can be done: still running", False),
        (KeyError("oops"), "cannot end the engine, trying until it can be done: KeyError('oops')", True),
    ],
)
async def test_why_an_engine_cannot_be_ended_is_said_once_and_a_defect_with_its_place(
    error: Exception, said: str, caplog: pytest.LogCaptureFixture, *, traced: bool
) -> None:
    effects = ScriptedEffects()

    async def stop() -> None:
        raise error

    effects.script["stop"] = stop
    async with owned(effects) as owner:
        owner.post(l.Start())
        await settle(50)
        owner.post(l.RestartAsked())
        await pass_time(10 * STOP_AGAIN_MS / 1000)
        assert effects.done.count("stop") > 2
        effects.script.clear()
    [line] = [record for record in caplog.records if "cannot end the engine" in record.getMessage()]
    assert said in line.getMessage()
    assert (line.exc_info is not None) is traced


async def test_a_defect_in_a_step_is_a_failure_of_this_pool_and_no_more() -> None:
    effects = ScriptedEffects()

    async def defect() -> None:
        raise KeyError("oops")

    effects.script["ensure"] = defect
    async with owned(effects) as owner:
        owner.post(l.Start())
        await settle(50)
        assert effects.last.error is not None
        assert effects.last.error.cause is Cause.INTERNAL
        assert effects.last.error.message == "step ensure_engine failed in a way that it should not: KeyError('oops')"


async def test_an_event_that_cannot_happen_is_logged_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    effects = ScriptedEffects()
    async with owned(effects) as owner:
        owner.post(l.TimerFired(run=0))
        await settle()
        assert effects.seen == []
        assert "gpu0: TimerFired cannot happen in state stopped" in caplog.text


async def test_a_drain_waits_for_its_deadline_and_a_stop_does_not() -> None:
    effects = ScriptedEffects()
    async with owned(effects) as owner:
        owner.post(l.Start())
        await settle(50)
        owner.post(l.DrainAsked(deadline_ms=5000))
        await pass_time(4.9)
        assert effects.state() is PoolState.DRAINING
        assert "stop" not in effects.done
        owner.post(l.StopAsked())
        await owner.stopped()
        assert effects.state() is PoolState.STOPPED


async def test_every_failure_is_said_with_its_cause_and_mend(caplog: pytest.LogCaptureFixture) -> None:
    effects = ScriptedEffects()
    effects.script["stage"] = failing(Cause.MODEL_MISSING)
    async with owned(effects) as owner:
        owner.post(l.Start())
        await settle(50)
        assert "pool gpu0: failed (staging_model -> failed): model_missing: it broke (hint: mend it)" in caplog.text


# --- a model takes over from another, and GPUs that fail --------------------------------------------------------------


@asynccontextmanager
async def serving(effects: ScriptedEffects) -> AsyncIterator[Owner]:
    async with owned(effects) as owner:
        owner.post(l.Start())
        await settle(50)
        assert effects.state() is PoolState.READY
        effects.done.clear()
        yield owner


@pytest.mark.req("PM-04")
async def test_a_reload_switches_and_ends_the_old_engine_when_its_time_is_over() -> None:
    effects = ScriptedEffects()
    async with serving(effects) as owner:
        owner.post(l.ReloadAsked(model_ref="file:/new", deadline_ms=700))
        await settle(50)
        assert effects.done == ["prepare file:/new", "switch", "watch file:/new"]
        await pass_time(0.8)
        assert effects.done[3:] == ["retire"]
        assert (effects.state(), effects.last.model_ref) == (PoolState.READY, "file:/new")
        assert PoolState.DRAINING not in {life.state for life in effects.seen}
        effects.died.set()  # the new engine's end is noticed as the old one's was
        await settle(50)
        assert "stop" in effects.done


@pytest.mark.req("PM-04")
async def test_the_old_engine_ends_at_once_when_its_work_has() -> None:
    effects = ScriptedEffects()
    async with serving(effects) as owner:
        owner.post(l.WorkEnded())
        await settle(50)
        assert effects.done == [], "there is no old engine"
        owner.post(l.ReloadAsked(model_ref="file:/new", deadline_ms=700_000))
        await settle(50)
        owner.post(l.WorkEnded())
        owner.post(l.WorkEnded())
        await settle(50)
        assert effects.done == ["prepare file:/new", "switch", "watch file:/new", "retire"]
        assert effects.state() is PoolState.READY
        await pass_time(800)
        assert effects.done[4:] == []


@pytest.mark.req("PM-04")
async def test_a_successor_that_cannot_be_had_leaves_the_old_one_alone() -> None:
    effects = ScriptedEffects()
    effects.script["prepare"] = failing(Cause.MODEL_MISSING)
    async with serving(effects) as owner:
        owner.post(l.ReloadAsked(model_ref="file:/new", deadline_ms=700))
        await settle(50)
        assert effects.done == ["prepare file:/new", "abandon"]
        assert (effects.state(), effects.last.model_ref) == (PoolState.READY, "file:/m")
        assert effects.last.error is not None


async def test_a_successor_is_prepared_only_when_the_one_before_it_is_gone() -> None:
    effects = ScriptedEffects()
    ended = asyncio.Event()

    async def linger() -> None:
        try:
            await forever()
        finally:
            await ended.wait()

    effects.script["prepare"] = linger
    async with serving(effects) as owner:
        owner.post(l.ReloadAsked(model_ref="file:/new", deadline_ms=0))
        await settle(50)
        del effects.script["prepare"]
        owner.post(l.ReloadAsked(model_ref="file:/third", deadline_ms=0))
        await settle(50)
        assert effects.done == ["prepare file:/new"]
        ended.set()
        await settle(50)
        assert effects.done[:3] == ["prepare file:/new", "prepare file:/third", "switch"]
        assert effects.last.model_ref == "file:/third"


async def test_a_defect_in_one_pool_is_its_own_failure(caplog: pytest.LogCaptureFixture) -> None:
    effects = ScriptedEffects()

    def broken() -> bool:
        raise AssertionError("no successor")

    effects.switch_over = broken  # type: ignore[method-assign]
    async with serving(effects) as owner:
        owner.post(l.ReloadAsked(model_ref="file:/new", deadline_ms=0))
        await settle(50)
        assert "a defect: AssertionError('no successor')" in caplog.text
        assert any(life.error is not None and life.error.cause is Cause.INTERNAL for life in effects.seen)
        await pass_time(3)
        assert effects.state() is PoolState.READY


@pytest.mark.req("PM-01")
async def test_a_state_that_cannot_be_shown_is_entered_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    effects = ScriptedEffects()
    show = effects.publish

    def refuses(life: l.Life) -> None:
        show(life)
        if life.state is PoolState.STAGING_MODEL:
            raise UnicodeEncodeError("utf-8", "?", 0, 1, "surrogates not allowed")

    effects.publish = refuses  # type: ignore[method-assign]
    async with owned(effects) as owner:
        owner.post(l.Start())
        await settle()
        assert effects.state() is PoolState.READY
    assert "cannot be shown" in caplog.text


async def test_where_there_is_no_room_the_old_engine_ends_first() -> None:
    effects = ScriptedEffects()
    effects.no_room = True
    async with serving(effects) as owner:
        owner.post(l.ReloadAsked(model_ref="file:/new", deadline_ms=0))
        await settle(80)
        assert effects.done[:3] == ["prepare file:/new", "stop", "stage file:/new"]
        assert (effects.state(), effects.last.model_ref) == (PoolState.READY, "file:/new")


async def test_a_drain_ends_the_successor_that_is_being_prepared() -> None:
    effects = ScriptedEffects()
    effects.script["prepare"] = forever
    async with serving(effects) as owner:
        owner.post(l.ReloadAsked(model_ref="file:/new", deadline_ms=0))
        await settle(50)
        owner.post(l.DrainAsked(deadline_ms=500))
        await pass_time(0.6)
        assert effects.done == ["prepare file:/new", "abandon", "stop"]
        assert effects.state() is PoolState.STOPPED


async def test_a_second_reload_waits_until_the_retired_engine_has_left_its_place() -> None:
    effects = ScriptedEffects()
    gate = asyncio.Event()
    effects.script["retire"] = lambda: _wait(gate)
    async with serving(effects) as owner:
        owner.post(l.ReloadAsked(model_ref="file:/new", deadline_ms=0))
        await settle(50)
        owner.post(l.ReloadAsked(model_ref="file:/third", deadline_ms=5000))
        await settle(50)
        assert "prepare file:/third" not in effects.done
        gate.set()
        await settle(50)
        assert effects.last.model_ref == "file:/third"


@pytest.mark.req("PM-03", "PM-06")
async def test_a_lost_gpu_ends_the_engine_and_its_return_starts_it_anew() -> None:
    effects = ScriptedEffects()
    back = asyncio.Event()
    effects.script["devices"] = lambda: _wait(back)
    async with serving(effects) as owner:
        owner.post(l.DevicesFailed(cause=Cause.GPU_LOST, message="it fell off the bus"))
        await pass_time(1.1)
        assert (effects.done, effects.state()) == (["stop", "devices"], PoolState.QUARANTINED)
        back.set()
        await settle(50)
        assert effects.state() is PoolState.READY


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
