"""Decides what a pool does next: (life, event, now) -> (life, effects).

``transitions`` says which event is legal in which state and where it may lead. An event that is not in its table raises
``IllegalTransition`` and changes nothing. What reports from an earlier run is stale and changes nothing either. Never
starts, stops or waits for anything: the owner does.

Invariants, held by property tests: a gate is ok only when those before it are; ready is reached from probing alone, or
from ready by a proved successor; but for a successor at most one engine exists, and a new one is started only after the
former is known to be gone; the breaker opens after ``max_failures`` in a row, or at once where only another
configuration helps, and only then; a pool whose GPU failed starts nothing before every GPU of its mask answers again.
"""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from contracts.engines import PreparedEngine
from contracts.pools import Cause, Endpoint, Gates, GateState, PoolState
from pool_managerd import restart_policy
from pool_managerd.life import (
    AbandonSuccessor,
    Asked,
    AwaitDevices,
    DevicesFailed,
    DevicesWell,
    DrainAsked,
    Effect,
    EndRetired,
    EngineEnsured,
    EngineExited,
    EngineGone,
    EngineProved,
    EngineSpawned,
    EnsureEngine,
    Event,
    Failure,
    Life,
    ModelStaged,
    NoRoom,
    PrepareSuccessor,
    ProveEngine,
    ReloadAsked,
    Reported,
    RestartAsked,
    SetTimer,
    SpawnEngine,
    StageModel,
    Start,
    StepFailed,
    StopAsked,
    StopEngine,
    Succession,
    SuccessorFailed,
    SuccessorProved,
    SwitchOver,
    TimerFired,
    WatchEngine,
    WorkEnded,
)
from pool_managerd.transitions import TRANSITIONS, IllegalTransition

MAX_PORT_TRIES = 5
"""How many ports are tried in one start while other processes keep taking them."""

Outcome = tuple[Life, tuple[Effect, ...]]


def step(life: Life, event: Event, now: int) -> Outcome:
    """What becomes of a pool, and what is to be done, when ``event`` happens at ``now`` (milliseconds).

    Raises IllegalTransition where the table has no such event in this state.
    """
    if getattr(event, "run", life.run) != life.run:
        return life, ()
    targets = TRANSITIONS.get(life.state, {}).get(type(event))
    if targets is None:
        raise IllegalTransition(life.state, event)
    after, effects = _decide(life, event, now)
    if after.state not in targets:  # the table and the code below disagree: a defect, and better loud than wrong
        raise IllegalTransition(life.state, event)
    return after, effects


def _decide(life: Life, event: Event, now: int) -> Outcome:
    match event:
        case Start() | StopAsked() | DrainAsked() | RestartAsked() | ReloadAsked() | WorkEnded():
            return _asked(life, event, now)
        case TimerFired():
            return _timer(life)
        case SuccessorProved() | SuccessorFailed() | NoRoom():
            return _succession(life, event, now)
        case DevicesFailed(cause=cause, message=message, hint=hint):
            return _devices_failed(life, Failure(cause=cause, message=message, hint=hint, at=now), now)
        case DevicesWell():
            return _begin(replace(life, restarts=life.restarts + 1))
        case _:
            return _reported(life, event, now)


def _asked(life: Life, event: Asked, now: int) -> Outcome:
    match event:
        case Start():
            return _begin(life)
        case StopAsked():
            return _stop(life)
        case DrainAsked(deadline_ms=deadline_ms):
            return _drain(replace(life, previous_ref=None), now + deadline_ms, now, again=False)
        case RestartAsked():
            return _restart(replace(life, failures=0))
        case ReloadAsked():
            return _reload(replace(life, failures=0), event, now)
        case WorkEnded():
            return _work_ended(life)
        case _:
            assert_never(event)


def _reported(life: Life, event: Reported, now: int) -> Outcome:
    match event:
        case ModelStaged(model=model):
            gates = replace(life.gates, model=GateState.OK)
            after = replace(life, state=PoolState.ENSURING_ENGINE, model=model, gates=gates)
            return after, (EnsureEngine(run=life.run),)
        case EngineEnsured(engine=engine):
            gates = replace(life.gates, engine=GateState.OK)
            return _spawn(replace(life, gates=gates, port_tries=1), engine)
        case EngineSpawned(endpoint=endpoint):
            return _probe(life, endpoint)
        case EngineProved():
            return _serve(life, now)
        case StepFailed(cause=cause, message=message, hint=hint):
            return _fail(life, Failure(cause=cause, message=message, hint=hint, at=now), now)
        case EngineExited():
            return _exited(life, event, now)
        case EngineGone(draw=draw):
            return _gone(life, now, draw)
        case _:
            assert_never(event)


# --- on the way up ----------------------------------------------------------------------------------------------------


def _begin(life: Life) -> Outcome:
    """A new run, from the first step. Every start goes through all steps: they are idempotent, and cheap when done."""
    after = replace(
        life,
        state=PoolState.STAGING_MODEL,
        run=life.run + 1,
        gates=Gates(),
        model=None,
        engine=None,
        endpoint=None,
        ready_since=None,
        healthy_ms=0,
        due=None,
        stopping=False,
        again=False,
        next_ref=None,
    )
    return after, (StageModel(run=after.run, model_ref=after.model_ref),)


def _spawn(life: Life, engine: PreparedEngine) -> Outcome:
    after = replace(life, state=PoolState.STARTING, engine=engine, endpoint=None)
    return after, (SpawnEngine(run=life.run, engine=engine, model=life.model),)


def _probe(life: Life, endpoint: Endpoint) -> Outcome:
    after = replace(life, state=PoolState.PROBING, endpoint=endpoint)
    return after, (ProveEngine(run=life.run),)


def _serve(life: Life, now: int) -> Outcome:
    gates = replace(life.gates, health=GateState.OK)
    after = replace(life, state=PoolState.READY, gates=gates, ready_since=now, previous_ref=None)
    return after, (WatchEngine(run=life.run, model_ref=life.model_ref),)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def _exited(life: Life, event: EngineExited, now: int) -> Outcome:
    retry = life.state is PoolState.PROBING and event.port_taken and life.port_tries < MAX_PORT_TRIES
    if retry and life.engine is not None:
        # A run of its own: whoever took the port may even have passed for our engine in what is reported late.
        return _spawn(replace(life, run=life.run + 1, port_tries=life.port_tries + 1), life.engine)
    return _fail(life, Failure(cause=event.cause, message=event.message, hint=event.hint, at=now), now)


def _fail(life: Life, failure: Failure, now: int) -> Outcome:
    """What is left of the engine is ended first; whether it is tried again is decided when it is gone."""
    if life.state is PoolState.DRAINING:
        return _end(replace(life, error=failure), again=life.again)
    if life.next_ref is not None:
        text = f"{failure.message}; the reload to {life.next_ref} was given up with it"
        failure = replace(failure, message=text)
    if failure.cause in _OF_A_GPU:
        return _quarantine(life, failure, now)
    after = replace(_failing(life, failure, now), state=PoolState.FAILED, run=life.run + 1)
    return after, (StopEngine(run=after.run),)


def _failing(life: Life, failure: Failure, now: int) -> Life:
    """What a failure leaves of a life, whatever state it leads to."""
    return replace(
        life,
        gates=_failed_gates(life, failure.cause),
        endpoint=None,
        error=failure,
        healthy_ms=0 if life.ready_since is None else now - life.ready_since,
        ready_since=None,
        due=None,
        next_ref=None,
    )


_OF_A_GPU = frozenset({Cause.GPU_LOST, Cause.GPU_ERROR})
"""What another start on the same GPU does not mend."""
_OF_THE_CONFIGURATION = frozenset({Cause.ENGINE_FLAGS})
"""What no other start mends."""


def _devices_failed(life: Life, failure: Failure, now: int) -> Outcome:
    match life.state:
        case PoolState.STOPPED:
            return life, ()  # nothing runs there, and nothing is wanted
        case PoolState.QUARANTINED:
            return replace(life, error=failure), ()
        case PoolState.DRAINING if not life.again:
            return _end(replace(life, error=failure), again=False)
        case _:
            return _quarantine(life, failure, now)


def _quarantine(life: Life, failure: Failure, now: int) -> Outcome:
    """The engine is ended; a new one is started when every GPU of the mask answers again."""
    told = life.state is PoolState.FAILED or life.stopping
    idle = life.state in {PoolState.BACKOFF, PoolState.BROKEN}
    after = replace(_failing(life, failure, now), state=PoolState.QUARANTINED, again=False, stopping=not idle)
    if told:
        return after, ()
    after = replace(after, run=life.run + 1)
    if idle:
        return replace(after, due=now), (AwaitDevices(run=after.run, due=now),)
    return after, (StopEngine(run=after.run),)


def _failed_gates(life: Life, cause: Cause) -> Gates:
    if life.stopping or life.state in {PoolState.FAILED, PoolState.BACKOFF, PoolState.BROKEN}:
        return life.gates
    if life.state is PoolState.STAGING_MODEL and cause in {Cause.NO_GPU, Cause.DRIVER, *_OF_A_GPU}:
        return life.gates  # no gate was tried
    if life.state is PoolState.STAGING_MODEL:
        return replace(life.gates, model=GateState.FAILED)
    if life.state is PoolState.ENSURING_ENGINE:
        return replace(life.gates, engine=GateState.FAILED)
    return replace(life.gates, health=GateState.FAILED)


def _gone(life: Life, now: int, draw: float) -> Outcome:
    if life.state is PoolState.DRAINING:
        if life.again:
            return _begin(life)
        # The run ends with it: a timer that was set for it has nothing to say any more.
        cleared = replace(life, run=life.run + 1, gates=Gates(), endpoint=None, ready_since=None, due=None)
        return replace(cleared, state=PoolState.STOPPED, stopping=False), ()
    if life.previous_ref is not None and life.state is PoolState.FAILED:
        return _begin(replace(life, model_ref=life.previous_ref, previous_ref=None, restarts=life.restarts + 1))
    decision = restart_policy.decide(life.failures, life.healthy_ms, life.rules, draw)
    if life.state is PoolState.QUARANTINED:
        # No breaker: it is the GPU that must mend, and looking at it costs nothing.
        due = now + (decision.delay_ms if decision.delay_ms is not None else life.rules.max_ms)
        after = replace(life, stopping=False, failures=decision.failures, healthy_ms=0, due=due)
        return after, (AwaitDevices(run=life.run, due=due),)
    if decision.delay_ms is None or (life.error is not None and life.error.cause in _OF_THE_CONFIGURATION):
        return replace(life, state=PoolState.BROKEN, failures=decision.failures), ()
    due = now + decision.delay_ms
    after = replace(life, state=PoolState.BACKOFF, failures=decision.failures, due=due)
    return after, (SetTimer(run=life.run, due=due),)


# --- a model takes over from another ----------------------------------------------------------------------------------


def _succession(life: Life, event: Succession, now: int) -> Outcome:
    if life.next_ref is None or event.model_ref != life.next_ref:
        return life, ()  # nobody waits for it any more
    match event:
        case SuccessorProved(model_ref=model_ref, model=model, engine=engine, endpoint=endpoint):
            after = replace(
                life,
                run=life.run + 1,
                model_ref=model_ref,
                model=model,
                engine=engine,
                endpoint=endpoint,
                next_ref=None,
                ready_since=now,
                failures=0,
            )
            over = SwitchOver(run=after.run, due=now + life.patience_ms)
            return after, (over, WatchEngine(run=after.run, model_ref=model_ref))
        case SuccessorFailed(cause=cause, message=message, hint=hint):
            text = f"the reload to {event.model_ref} failed, and {life.model_ref} serves on: {message}"
            return replace(life, next_ref=None, error=Failure(cause=cause, message=text, hint=hint, at=now)), ()
        case NoRoom(model_ref=model_ref):
            asked = replace(life, model_ref=model_ref, previous_ref=life.model_ref, next_ref=None)
            return _drain(asked, now + life.patience_ms, now, again=True)
        case _:
            assert_never(event)


# --- what is asked for ------------------------------------------------------------------------------------------------


def _stop(life: Life) -> Outcome:
    if _without_engine(life):
        return replace(life, state=PoolState.STOPPED, run=life.run + 1, gates=Gates(), due=None, previous_ref=None), ()
    return _end(replace(life, previous_ref=None), again=False)


def _drain(life: Life, until: int, now: int, *, again: bool) -> Outcome:
    if not _serving(life):
        return _restart(life) if again else _stop(life)
    if until <= now:
        return _end(life, again=again)
    abandon = () if life.next_ref is None else (AbandonSuccessor(run=life.run),)
    after = replace(life, state=PoolState.DRAINING, again=again, next_ref=None)
    if life.due is not None and life.due <= until:
        return after, abandon
    return replace(after, due=until), (*abandon, SetTimer(run=life.run, due=until))


def _work_ended(life: Life) -> Outcome:
    """Nobody needs to be waited for any more; where nobody is, it changes nothing."""
    if life.state is PoolState.DRAINING and not life.stopping:
        return _end(life, again=life.again)
    return life, (EndRetired(run=life.run),) if life.state is PoolState.READY else ()


def _restart(life: Life) -> Outcome:
    return _begin(life) if _without_engine(life) else _end(life, again=True)


def _without_engine(life: Life) -> bool:
    """Whether there is no engine, nor one that is still ending."""
    quarantined = life.state is PoolState.QUARANTINED and not life.stopping
    return quarantined or life.state in {PoolState.STOPPED, PoolState.BACKOFF, PoolState.BROKEN}


def _reload(life: Life, event: ReloadAsked, now: int) -> Outcome:
    if life.state is PoolState.READY:
        if life.next_ref == event.model_ref:
            return replace(life, patience_ms=min(life.patience_ms, event.deadline_ms)), ()
        after = replace(life, next_ref=event.model_ref, patience_ms=event.deadline_ms)
        patience_ms = event.deadline_ms
        return after, (PrepareSuccessor(run=life.run, model_ref=event.model_ref, patience_ms=patience_ms),)
    proven = life.model_ref if _serving(life) else None
    asked = replace(life, model_ref=event.model_ref, previous_ref=life.previous_ref or proven)
    return _drain(asked, now + event.deadline_ms, now, again=True)


def _serving(life: Life) -> bool:
    """Whether work may still be running on an engine that was ready."""
    return life.state is PoolState.READY or (life.state is PoolState.DRAINING and not life.stopping)


def _timer(life: Life) -> Outcome:
    if life.state is PoolState.DRAINING:
        return _end(life, again=life.again)
    return _begin(replace(life, restarts=life.restarts + 1))


def _end(life: Life, *, again: bool) -> Outcome:
    """The engine is told to end, unless it has been told already."""
    told = life.state is PoolState.FAILED or life.stopping
    after = replace(life, state=PoolState.DRAINING, again=again, stopping=True, due=None, next_ref=None)
    if told:
        return after, ()
    after = replace(after, run=life.run + 1)
    return after, (StopEngine(run=after.run),)
