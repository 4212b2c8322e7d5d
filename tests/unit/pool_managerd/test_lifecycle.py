"""The table by example, and its invariants over random lives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from contracts.config import Engine, Mode, Restart
from contracts.engines import PreparedEngine, ResolvedModel
from contracts.pools import Cause, Endpoint, Gates, GateState, PoolState
from pool_managerd import life as l
from pool_managerd.lifecycle import MAX_PORT_TRIES, step
from pool_managerd.transitions import TRANSITIONS, IllegalTransition, diagram

RULES = Restart(initial_ms=100, max_ms=1000, healthy_ms=5000, max_failures=3)
MODEL = ResolvedModel(id="m", ref="file:/m", local_path="/m", size_bytes=1, digest="sha256:0")
ENGINE = PreparedEngine(engine=Engine.LLAMACPP, engine_version="1", provisioning_mode=Mode.PACKAGE)
ENDPOINT = Endpoint(url="http://127.0.0.1:1", api_key="k")
OK, PENDING, FAILED = GateState.OK, GateState.PENDING, GateState.FAILED


def new() -> l.Life:
    return l.Life(rules=RULES, model_ref="file:/m")


def current(event: l.Event, life: l.Life) -> l.Event:
    """The event as work of the current run would report it."""
    return event if isinstance(event, l.Asked | l.DevicesFailed) else replace(event, run=life.run)


def drive(life: l.Life, *events: l.Event, now: int = 0) -> tuple[l.Life, tuple[l.Effect, ...]]:
    """The life after these events, and the last one's effects."""
    effects: tuple[l.Effect, ...] = ()
    for event in events:
        life, effects = step(life, current(event, life), now)
    return life, effects


STAGED = l.ModelStaged(run=0, model=MODEL)
ENSURED = l.EngineEnsured(run=0, engine=ENGINE)
SPAWNED = l.EngineSpawned(run=0, endpoint=ENDPOINT)
PROVED = l.EngineProved(run=0)
EXITED = l.EngineExited(run=0, message="exited with status 1")
BROKE = l.StepFailed(run=0, cause=Cause.ENGINE_UNHEALTHY, message="no answer", hint="look")
GONE = l.EngineGone(run=0, draw=0.0)
FIRED = l.TimerFired(run=0)
UP = (l.Start(), STAGED, ENSURED, SPAWNED, PROVED)


def ready(now: int = 0) -> l.Life:
    return drive(new(), *UP, now=now)[0]


@pytest.mark.req("ORCH-3821")
def test_the_three_gates_open_in_order() -> None:
    life = new()
    seen = []
    for event in UP:
        life, _ = drive(life, event)
        seen.append((life.state, life.gates))
    assert seen == [
        (PoolState.STAGING_MODEL, Gates()),
        (PoolState.ENSURING_ENGINE, Gates(model=OK)),
        (PoolState.STARTING, Gates(model=OK, engine=OK)),
        (PoolState.PROBING, Gates(model=OK, engine=OK)),
        (PoolState.READY, Gates(model=OK, engine=OK, health=OK)),
    ]


@pytest.mark.parametrize(
    ("events", "gates"),
    [
        ((l.Start(), BROKE), Gates(model=FAILED)),
        ((l.Start(), STAGED, BROKE), Gates(model=OK, engine=FAILED)),
        ((l.Start(), STAGED, ENSURED, BROKE), Gates(model=OK, engine=OK, health=FAILED)),
        ((l.Start(), STAGED, ENSURED, SPAWNED, EXITED), Gates(model=OK, engine=OK, health=FAILED)),
        ((*UP, BROKE), Gates(model=OK, engine=OK, health=FAILED)),
        ((l.Start(), l.StepFailed(run=0, cause=Cause.NO_GPU, message="")), Gates()),
    ],
    ids=["staging", "ensuring", "starting", "probing", "ready", "no_gpu"],
)
@pytest.mark.req("ORCH-3821")
def test_the_gate_that_failed_is_seen_and_keeps_its_cause_until_the_next_try(
    events: tuple[l.Event, ...], gates: Gates
) -> None:
    failed, effects = drive(new(), *events, now=7)
    assert failed.state is PoolState.FAILED
    assert failed.gates == gates
    assert failed.error is not None
    assert failed.error.at == 7
    assert effects == (l.StopEngine(run=failed.run),)
    backoff, _ = drive(failed, GONE, now=9)
    assert (backoff.state, backoff.gates, backoff.error) == (PoolState.BACKOFF, gates, failed.error)


def test_a_failure_ends_the_engine_before_the_next_start_is_timed() -> None:
    life, _ = drive(ready(), EXITED, now=50)
    assert life.endpoint is None
    life, effects = drive(life, GONE, now=80)
    assert effects == (l.SetTimer(run=life.run, due=130),)  # half of 100 ms: the draw is 0
    life, effects = drive(life, FIRED, now=130)
    assert (life.state, life.restarts) == (PoolState.STAGING_MODEL, 1)
    assert effects == (l.StageModel(run=life.run, model_ref="file:/m"),)


@pytest.mark.req("PM-01")
def test_what_only_another_configuration_mends_is_not_tried_again_until_somebody_asks() -> None:
    refused = l.EngineExited(run=0, message="it does not take one of its arguments", cause=Cause.ENGINE_FLAGS)
    life, effects = drive(new(), l.Start(), STAGED, ENSURED, SPAWNED, refused, GONE)
    assert (life.state, life.failures, effects) == (PoolState.BROKEN, 1, ())
    life, _ = drive(life, l.RestartAsked())
    assert life.state is PoolState.STAGING_MODEL


def test_the_breaker_opens_after_max_failures_and_a_restart_closes_it() -> None:
    life = new()
    life, _ = drive(life, l.Start(), BROKE, GONE, FIRED, BROKE, GONE, FIRED, BROKE, GONE)
    assert (life.state, life.failures, life.restarts) == (PoolState.BROKEN, 3, 2)
    with pytest.raises(IllegalTransition, match="TimerFired cannot happen in state broken"):
        drive(life, FIRED)
    life, _ = drive(life, l.RestartAsked())
    assert (life.state, life.failures) == (PoolState.STAGING_MODEL, 0)


def test_a_healthy_period_starts_the_count_of_failures_anew() -> None:
    life, _ = drive(new(), l.Start(), BROKE, GONE, FIRED, BROKE, GONE, FIRED)
    life, _ = drive(life, *UP[1:], now=1000)
    life, _ = drive(life, EXITED, now=6000)
    life, _ = drive(life, GONE, now=6000)
    assert (life.state, life.failures) == (PoolState.BACKOFF, 1)


def test_what_an_earlier_run_reports_changes_nothing() -> None:
    life = ready()
    assert step(life, replace(EXITED, run=life.run - 1), 0) == (life, ())


def test_a_stolen_port_is_tried_again_with_another_but_not_for_ever() -> None:
    life, _ = drive(new(), *UP[:4])
    stolen = replace(EXITED, port_taken=True)
    for _ in range(MAX_PORT_TRIES - 1):
        life, effects = drive(life, stolen)
        assert (life.state, life.failures) == (PoolState.STARTING, 0)
        assert isinstance(effects[0], l.SpawnEngine)
        life, _ = drive(life, SPAWNED)
    life, _ = drive(life, stolen)
    assert life.state is PoolState.FAILED


def test_whoever_took_the_port_cannot_pass_for_the_engine() -> None:
    life, _ = drive(new(), *UP[:4])
    impostor = replace(PROVED, run=life.run)
    life, _ = drive(life, replace(EXITED, port_taken=True), SPAWNED)
    assert step(life, impostor, 0) == (life, ())


def test_a_drain_lets_work_finish_until_its_deadline() -> None:
    life, effects = drive(ready(), l.DrainAsked(deadline_ms=300), now=10)
    assert (life.state, life.endpoint) == (PoolState.DRAINING, ENDPOINT)
    assert effects == (l.SetTimer(run=life.run, due=310),)
    life, effects = drive(life, FIRED, now=310)
    assert effects == (l.StopEngine(run=life.run),)
    life, effects = drive(life, GONE)
    assert (life.state, life.gates, life.endpoint, effects) == (PoolState.STOPPED, Gates(), None, ())


def test_a_drain_asked_again_ends_sooner_and_never_later() -> None:
    life, _ = drive(ready(), l.DrainAsked(deadline_ms=300))
    assert drive(life, l.DrainAsked(deadline_ms=900))[1] == ()
    assert drive(life, l.DrainAsked(deadline_ms=100))[1] == (l.SetTimer(run=life.run, due=100),)
    after, effects = drive(life, l.DrainAsked(deadline_ms=0))
    assert effects == (l.StopEngine(run=after.run),)


def test_a_drain_ends_when_no_work_is_left() -> None:
    life, _ = drive(ready(), l.DrainAsked(deadline_ms=300))
    after, effects = drive(life, l.WorkEnded())
    assert (after.state, effects) == (PoolState.DRAINING, (l.StopEngine(run=after.run),))
    assert drive(after, l.WorkEnded()) == (after, ())
    assert drive(after, GONE)[0].state is PoolState.STOPPED


@pytest.mark.req("PM-04")
def test_a_reload_that_drains_goes_on_when_no_work_is_left() -> None:
    life, _ = drive(ready(), l.ReloadAsked(model_ref="file:/new", deadline_ms=300))
    life, _ = drive(life, l.NoRoom(run=life.run, model_ref="file:/new"))
    life, effects = drive(life, l.WorkEnded())
    assert effects == (l.StopEngine(run=life.run),)
    life, effects = drive(life, GONE)
    assert (life.state, life.model_ref) == (PoolState.STAGING_MODEL, "file:/new")


@pytest.mark.parametrize("state", [state for state in TRANSITIONS if state is not PoolState.DRAINING])
def test_where_nobody_waits_for_work_its_end_changes_nothing(state: PoolState) -> None:
    life = replace(ready(), state=state)
    after, effects = step(life, l.WorkEnded(), 0)
    assert after == life
    assert effects == ((l.EndRetired(run=life.run),) if state is PoolState.READY else ())


def test_an_engine_that_dies_while_draining_is_cleared_away_and_stays_stopped() -> None:
    life, effects = drive(ready(), l.DrainAsked(deadline_ms=300), EXITED)
    assert effects == (l.StopEngine(run=life.run),)
    assert drive(life, GONE)[0].state is PoolState.STOPPED


def test_a_restart_of_a_ready_pool_waits_for_the_end_of_the_old_engine() -> None:
    life, effects = drive(ready(), l.RestartAsked())
    assert (life.state, effects) == (PoolState.DRAINING, (l.StopEngine(run=life.run),))
    life, effects = drive(life, GONE)
    assert (life.state, effects) == (PoolState.STAGING_MODEL, (l.StageModel(run=life.run, model_ref="file:/m"),))
    assert life.restarts == 0


def test_a_drain_asked_while_the_old_engine_of_a_restart_ends_wins() -> None:
    life, _ = drive(ready(), l.RestartAsked(), l.DrainAsked(deadline_ms=0), GONE)
    assert life.state is PoolState.STOPPED


NEW = "file:/new"
RELOAD = l.ReloadAsked(model_ref=NEW, deadline_ms=500)
OTHER = Endpoint(url="http://127.0.0.1:2", api_key="k2")
SUCCEEDED = l.SuccessorProved(run=0, model_ref=NEW, model=MODEL, engine=ENGINE, endpoint=OTHER)
REFUSED = l.SuccessorFailed(run=0, model_ref=NEW, cause=Cause.MODEL_MISSING, message="no such file", hint="look")
NO_ROOM = l.NoRoom(run=0, model_ref=NEW)
LOST = l.DevicesFailed(cause=Cause.GPU_LOST, message="GPU-1 fell off the bus", hint="reboot")
WELL = l.DevicesWell(run=0)


@pytest.mark.req("PM-04")
def test_a_reload_prepares_the_new_model_beside_the_one_that_serves() -> None:
    before = ready()
    life, effects = drive(before, RELOAD, now=10)
    assert (life.state, life.run, life.endpoint, life.next_ref) == (PoolState.READY, before.run, ENDPOINT, NEW)
    assert effects == (l.PrepareSuccessor(run=life.run, model_ref=NEW, patience_ms=500),)
    life, effects = drive(life, SUCCEEDED, now=100)
    assert (life.state, life.model_ref, life.endpoint, life.next_ref) == (PoolState.READY, NEW, OTHER, None)
    assert (life.run, life.ready_since) == (before.run + 1, 100)
    assert effects == (l.SwitchOver(run=life.run, due=600), l.WatchEngine(run=life.run, model_ref=NEW))


@pytest.mark.req("PM-04")
def test_a_successor_that_fails_leaves_the_old_model_serving_and_the_reason() -> None:
    before = ready()
    life, effects = drive(before, RELOAD, REFUSED, now=7)
    assert (life.state, life.run, life.model_ref, life.endpoint) == (PoolState.READY, before.run, "file:/m", ENDPOINT)
    assert (life.next_ref, effects) == (None, ())
    assert life.error == l.Failure(
        cause=Cause.MODEL_MISSING,
        message="the reload to file:/new failed, and file:/m serves on: no such file",
        hint="look",
        at=7,
    )


@pytest.mark.req("PM-04")
def test_where_two_do_not_fit_the_old_one_is_drained_first() -> None:
    life, effects = drive(ready(), RELOAD, NO_ROOM, now=10)
    assert (life.state, life.model_ref, life.previous_ref) == (PoolState.DRAINING, NEW, "file:/m")
    assert effects == (l.SetTimer(run=life.run, due=510),)


def test_a_reload_asked_again_replaces_the_successor_and_asked_for_the_same_is_only_less_patient() -> None:
    life, _ = drive(ready(), RELOAD)
    same, effects = drive(life, l.ReloadAsked(model_ref=NEW, deadline_ms=0))
    assert (same.patience_ms, effects) == (0, ())
    other, effects = drive(life, l.ReloadAsked(model_ref="file:/third", deadline_ms=0))
    assert effects == (l.PrepareSuccessor(run=life.run, model_ref="file:/third", patience_ms=0),)
    for late in (SUCCEEDED, REFUSED, NO_ROOM):
        assert drive(other, late) == (other, ())


def test_a_drain_gives_the_successor_up() -> None:
    life, effects = drive(ready(), RELOAD, l.DrainAsked(deadline_ms=300))
    assert effects == (l.AbandonSuccessor(run=life.run), l.SetTimer(run=life.run, due=300))
    assert drive(life, SUCCEEDED) == (life, ())


def test_the_serving_engines_end_ends_its_successor_too() -> None:
    life, effects = drive(ready(), RELOAD, EXITED)
    assert life.error is not None
    assert life.error.message == "exited with status 1; the reload to file:/new was given up with it"
    assert (life.state, life.model_ref, life.next_ref) == (PoolState.FAILED, "file:/m", None)
    assert effects == (l.StopEngine(run=life.run),)
    assert step(life, replace(SUCCEEDED, run=life.run - 1), 0) == (life, ())


@pytest.mark.req("PM-03", "PM-06")
def test_a_pool_whose_gpu_is_lost_is_quarantined_until_the_gpu_answers_again() -> None:
    life, effects = drive(ready(), LOST, now=10)
    assert (life.state, life.endpoint, effects) == (PoolState.QUARANTINED, None, (l.StopEngine(run=life.run),))
    assert life.error is not None
    assert life.error.cause is Cause.GPU_LOST
    life, effects = drive(life, GONE, now=20)
    assert effects == (l.AwaitDevices(run=life.run, due=70),)  # half of 100 ms: the draw is 0
    life, effects = drive(life, WELL, now=200)
    assert (life.state, life.restarts) == (PoolState.STAGING_MODEL, 1)
    assert effects == (l.StageModel(run=life.run, model_ref="file:/m"),)


@pytest.mark.req("PM-03")
@pytest.mark.parametrize("cause", [Cause.GPU_LOST, Cause.GPU_ERROR])
def test_an_engine_that_dies_of_its_gpu_quarantines_its_pool(cause: Cause) -> None:
    life, _ = drive(ready(), replace(EXITED, cause=cause))
    assert life.state is PoolState.QUARANTINED


def test_a_pool_that_waits_to_start_again_is_quarantined_without_an_engine_to_end() -> None:
    life, _ = drive(new(), l.Start(), BROKE, GONE)
    life, effects = drive(life, LOST, now=9)
    assert (life.state, effects) == (PoolState.QUARANTINED, (l.AwaitDevices(run=life.run, due=9),))


def test_a_gpu_that_stays_lost_opens_no_breaker() -> None:
    life, _ = drive(new(), l.Start())
    for _ in range(RULES.max_failures + 2):
        life, effects = drive(life, replace(BROKE, cause=Cause.GPU_LOST), GONE)
        assert (life.state, len(effects)) == (PoolState.QUARANTINED, 1)
        life, _ = drive(life, WELL)
    assert life.failures == RULES.max_failures + 2


def test_what_can_be_asked_of_a_quarantined_pool() -> None:
    ending, _ = drive(ready(), LOST)
    waiting, _ = drive(ending, GONE)
    for life, stopped, started in (
        (ending, PoolState.DRAINING, PoolState.DRAINING),
        (waiting, PoolState.STOPPED, PoolState.STAGING_MODEL),
    ):
        assert drive(life, l.StopAsked())[0].state is stopped
        assert drive(life, l.DrainAsked(deadline_ms=5))[0].state is stopped
        assert drive(life, l.RestartAsked())[0].state is started
        assert drive(life, RELOAD)[0].state is started
    assert drive(ending, l.RestartAsked(), GONE)[0].state is PoolState.STAGING_MODEL


def test_a_stopped_pool_does_not_care_about_its_gpu_and_a_draining_one_ends_at_once() -> None:
    assert drive(new(), LOST) == (new(), ())
    life, effects = drive(ready(), l.DrainAsked(deadline_ms=300), LOST)
    assert (life.state, effects) == (PoolState.DRAINING, (l.StopEngine(run=life.run),))


def test_a_reload_without_room_switches_to_the_new_model() -> None:
    life, _ = drive(ready(), replace(RELOAD, deadline_ms=0), NO_ROOM, GONE)
    assert (life.state, life.model_ref, life.previous_ref) == (PoolState.STAGING_MODEL, "file:/new", "file:/m")
    life, _ = drive(life, *UP[1:])
    assert (life.state, life.model_ref, life.previous_ref) == (PoolState.READY, "file:/new", None)


@pytest.mark.req("PM-04")
def test_a_reload_without_room_that_fails_goes_back_to_the_model_that_served_and_keeps_the_error() -> None:
    life, _ = drive(ready(), replace(RELOAD, deadline_ms=0), NO_ROOM, GONE, BROKE, GONE)
    assert (life.state, life.model_ref, life.failures) == (PoolState.STAGING_MODEL, "file:/m", 0)
    assert life.error is not None
    life, _ = drive(life, *UP[1:])
    assert (life.state, life.model_ref) == (PoolState.READY, "file:/m")


def test_a_reload_drains_first_and_asked_again_with_no_deadline_goes_on_at_once() -> None:
    life, effects = drive(ready(), RELOAD, NO_ROOM)
    assert (life.state, effects) == (PoolState.DRAINING, (l.SetTimer(run=life.run, due=500),))
    life, effects = drive(life, l.ReloadAsked(model_ref="file:/new", deadline_ms=0))
    assert effects == (l.StopEngine(run=life.run),)
    life, _ = drive(life, GONE)
    assert (life.model_ref, life.previous_ref) == ("file:/new", "file:/m")


def test_an_event_that_cannot_happen_raises_and_names_what_can() -> None:
    with pytest.raises(IllegalTransition) as caught:
        step(new(), l.TimerFired(run=0), 0)
    assert str(caught.value) == (
        "TimerFired cannot happen in state stopped; "
        "what can: DevicesFailed, DrainAsked, ReloadAsked, RestartAsked, Start, StopAsked, WorkEnded"
    )


def test_the_diagram_draws_every_transition_of_the_table() -> None:
    text = diagram()
    assert text.startswith("stateDiagram-v2\n    [*] --> stopped\n")
    for source, row in TRANSITIONS.items():
        for kind, targets in row.items():
            for target in targets:
                line = next(line for line in text.splitlines() if f" {source} --> {target}:" in line)
                assert kind.__name__ in line


# --- invariants -------------------------------------------------------------------------------------------------------

events: st.SearchStrategy[l.Event] = st.one_of(
    st.just(l.Start()),
    st.just(l.StopAsked()),
    st.builds(l.DrainAsked, deadline_ms=st.integers(0, 500)),
    st.just(l.RestartAsked()),
    st.builds(l.ReloadAsked, model_ref=st.sampled_from(["file:/m", "file:/n"]), deadline_ms=st.integers(0, 500)),
    st.just(STAGED),
    st.just(ENSURED),
    st.just(SPAWNED),
    st.just(PROVED),
    st.builds(l.StepFailed, run=st.just(0), cause=st.sampled_from(Cause), message=st.just("broke")),
    st.builds(l.EngineExited, run=st.just(0), message=st.just("exited"), port_taken=st.booleans()),
    st.builds(l.EngineGone, run=st.just(0), draw=st.floats(0, 1, exclude_max=True)),
    st.just(FIRED),
    st.sampled_from([SUCCEEDED, REFUSED, NO_ROOM, LOST, WELL]),
)
# Mostly what can happen next: purely random events seldom get a pool to ready.
moves = st.tuples(events, st.integers(0, 3), st.integers(0, 3000), st.integers(0, 1000))


class Machine:
    """A world that does what the effects ask for, as the owner would, and checks the rules after every step."""

    def __init__(self) -> None:
        self.life = new()
        self.now = 0
        self.engines = 0
        self.successor: str | None = None
        """What is prepared beside the serving engine."""
        self.begun = 0

    def legal(self, pick: int) -> l.Event:
        """One of the events that the table allows now, by number."""
        samples: list[l.Event] = [
            *UP,
            FIRED,
            GONE,
            EXITED,
            BROKE,
            l.StopAsked(),
            l.DrainAsked(deadline_ms=50),
            l.RestartAsked(),
            RELOAD,
            SUCCEEDED,
            REFUSED,
            NO_ROOM,
            LOST,
            WELL,
        ]
        fitting = [event for event in samples if type(event) in TRANSITIONS[self.life.state]]
        return fitting[pick % len(fitting)]

    def possible(self, event: l.Event) -> bool:
        """Whether this world can bring the event about: an owner reports only on work that it was given."""
        match event:
            case l.EngineGone():
                return self.life.state is PoolState.FAILED or self.life.stopping
            case l.TimerFired():
                return self.life.due is not None
            case l.DevicesWell():
                return not self.life.stopping
            case l.SuccessorProved() | l.SuccessorFailed() | l.NoRoom():
                return self.successor == event.model_ref
            case _:
                return True

    def take(self, event: l.Event) -> None:
        event = current(event, self.life)
        if not self.possible(event):
            return
        before = self.life
        try:
            after, effects = step(before, event, self.now)
        except IllegalTransition:
            assert type(event) not in TRANSITIONS[before.state]
            assert self.life is before
            return
        if isinstance(event, l.EngineExited | l.EngineGone):
            self.engines = 0
        if isinstance(event, l.SuccessorProved | l.SuccessorFailed | l.NoRoom):
            self.successor = None
        for effect in effects:
            match effect:
                case l.SpawnEngine():
                    self.engines += 1
                case l.StageModel():
                    self.begun += 1
                case l.PrepareSuccessor(model_ref=model_ref):
                    self.successor = model_ref
                case l.AbandonSuccessor() | l.StopEngine():
                    self.successor = None
                case l.SwitchOver():
                    self.engines = 1
                case _:
                    pass
        self.life = after
        self.check(before, event, effects)

    def check(self, before: l.Life, event: l.Event, effects: tuple[l.Effect, ...]) -> None:
        after = self.life
        assert self.engines <= 1
        assert after.state in TRANSITIONS[before.state][type(event)]
        gates = after.gates
        assert gates.engine is PENDING or gates.model is OK
        assert gates.health is PENDING or gates.engine is OK
        if after.state is PoolState.READY:
            assert before.state in {PoolState.PROBING, PoolState.READY}
            assert gates == Gates(model=OK, engine=OK, health=OK)
            assert after.endpoint is not None
        down = {PoolState.FAILED, PoolState.BACKOFF, PoolState.BROKEN, PoolState.STOPPED, PoolState.QUARANTINED}
        if after.state in down:
            assert after.endpoint is None
        assert self.successor == after.next_ref
        assert after.next_ref is None or after.state is PoolState.READY
        if after.state in {PoolState.STOPPED, PoolState.BACKOFF, PoolState.BROKEN}:
            assert self.engines == 0
        if after.state is PoolState.BACKOFF:
            assert after.due is not None
            assert 0 < after.due - self.now <= RULES.max_ms or before.state is PoolState.BACKOFF
            assert after.failures < RULES.max_failures
        if after.state is PoolState.BROKEN:
            never = after.error is not None and after.error.cause is Cause.ENGINE_FLAGS
            assert after.failures <= RULES.max_failures if never else after.failures == RULES.max_failures
        if after.state is PoolState.STAGING_MODEL and before.state is not PoolState.STAGING_MODEL:
            assert self.engines == 0
            assert after.run > before.run
        if before.state is PoolState.FAILED and after.state is PoolState.BACKOFF:
            healthy = before.healthy_ms >= RULES.healthy_ms
            assert after.failures == (1 if healthy else before.failures + 1)
        restarted = (isinstance(event, l.TimerFired) and before.state is PoolState.BACKOFF) or isinstance(
            event, l.DevicesWell
        )
        rolled_back = before.state is PoolState.FAILED and after.state is PoolState.STAGING_MODEL
        assert after.restarts == before.restarts + (restarted or rolled_back)
        assert sum(isinstance(effect, l.StopEngine) for effect in effects) <= 1


@pytest.mark.req("PM-01", "ORCH-3821")
@settings(max_examples=400)
@given(st.lists(moves, max_size=60))
def test_every_life_keeps_the_rules(script: list[tuple[l.Event, int, int, int]]) -> None:
    machine = Machine()
    for event, luck, pick, wait in script:
        machine.now += wait * (7 if wait > 900 else 1)
        machine.take(event if luck == 0 else machine.legal(pick))
