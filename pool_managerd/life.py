"""What a pool is, what can happen to it, and what can be done about it: the values of ``pool_managerd.lifecycle``.

Decides nothing. ``Event`` and ``Effect`` are closed unions of frozen structs: every match ends in ``assert_never``.
Moments are milliseconds of whatever clock the owner passes as ``now``; ``run`` numbers one attempt to have an engine.
"""

from __future__ import annotations

from contracts.base import Message
from contracts.config import Restart
from contracts.engines import PreparedEngine, ResolvedModel
from contracts.pools import Cause, Endpoint, Gates, PoolState


class Failure(Message, frozen=True, kw_only=True):
    """What went wrong last, with its mend."""

    cause: Cause
    message: str
    hint: str | None
    at: int


class Life(Message, frozen=True, kw_only=True):
    """All that is known of a pool."""

    rules: Restart
    model_ref: str
    state: PoolState = PoolState.STOPPED
    run: int = 0
    """Grows with every start and every end of an engine; work of an earlier run is not listened to."""
    gates: Gates = Gates()
    model: ResolvedModel | None = None
    engine: PreparedEngine | None = None
    endpoint: Endpoint | None = None
    error: Failure | None = None
    failures: int = 0
    """In a row: a healthy period or a person starts the count anew."""
    restarts: int = 0
    """How often an engine was started again after a failure."""
    port_tries: int = 0
    ready_since: int | None = None
    healthy_ms: int = 0
    """How long the engine that failed had been ready."""
    due: int | None = None
    """When a drain or a backoff is over."""
    stopping: bool = False
    """In draining and quarantined: the engine was told to end, and its end is waited for."""
    again: bool = False
    """In draining: a new engine is started when the old one is gone."""
    previous_ref: str | None = None
    """While a reload that had to end the old engine is on its way: the model that served before, to go back to."""
    next_ref: str | None = None
    """While a reload is on its way beside the serving engine: the model that is to take over."""
    patience_ms: int = 0
    """How long work on the old engine may go on once its successor has taken over, or is to be started in its place."""


# --- events -----------------------------------------------------------------------------------------------------------


class Start(Message, frozen=True, kw_only=True):
    """The pool is wanted."""


class StopAsked(Message, frozen=True, kw_only=True):
    """End the engine now and stay stopped."""


class DrainAsked(Message, frozen=True, kw_only=True):
    """Let running work finish, for at most ``deadline_ms``, then end the engine and stay stopped.

    Asked again while draining, the sooner deadline holds.
    """

    deadline_ms: int


class RestartAsked(Message, frozen=True, kw_only=True):
    """End the engine now, if there is one, and start anew. Closes the breaker."""


class ReloadAsked(Message, frozen=True, kw_only=True):
    """Serve another model. Closes the breaker.

    A ready pool starts it beside the one that serves, and switches when it is proved; where both do not fit, it drains
    and starts the new one in place of the old, back to the old one when that fails. ``deadline_ms`` is how long work on
    the old engine may go on; asked again, the sooner one holds.
    """

    model_ref: str
    deadline_ms: int


class WorkEnded(Message, frozen=True, kw_only=True):
    """No work is left on an engine that may end when its work has: one that drains, or that served before a switch."""


class ModelStaged(Message, frozen=True, kw_only=True):
    """The model is on disk; None for an engine that somebody else runs."""

    run: int
    model: ResolvedModel | None


class EngineEnsured(Message, frozen=True, kw_only=True):
    """The engine can be started."""

    run: int
    engine: PreparedEngine


class EngineSpawned(Message, frozen=True, kw_only=True):
    """The engine's process exists."""

    run: int
    endpoint: Endpoint


class EngineProved(Message, frozen=True, kw_only=True):
    """The engine answers, generates, and computes where it should."""

    run: int


class SuccessorProved(Message, frozen=True, kw_only=True):
    """The engine that was prepared beside the serving one is ready to take over."""

    run: int
    model_ref: str
    model: ResolvedModel | None
    engine: PreparedEngine
    endpoint: Endpoint


class SuccessorFailed(Message, frozen=True, kw_only=True):
    """The engine that was prepared beside the serving one cannot be had, and nothing of it is left."""

    run: int
    model_ref: str
    cause: Cause
    message: str
    hint: str | None = None


class NoRoom(Message, frozen=True, kw_only=True):
    """Two engines do not fit: the old one must end before the new one starts."""

    run: int
    model_ref: str


class DevicesFailed(Message, frozen=True, kw_only=True):
    """A GPU of the pool's mask is lost, or reported a fatal error: whatever runs there cannot be trusted."""

    cause: Cause
    message: str
    hint: str | None = None


class DevicesWell(Message, frozen=True, kw_only=True):
    """Every GPU of a quarantined pool answers again."""

    run: int


class StepFailed(Message, frozen=True, kw_only=True):
    """A step of the start, or the liveness check of a ready engine, failed."""

    run: int
    cause: Cause
    message: str
    hint: str | None = None


class EngineExited(Message, frozen=True, kw_only=True):
    """The engine ended without being told to. ``port_taken``: another process has its port."""

    run: int
    message: str
    cause: Cause = Cause.ENGINE_EXIT
    hint: str | None = None
    port_taken: bool = False


class EngineGone(Message, frozen=True, kw_only=True):
    """The engine that was told to end is no more, nor is any child of it. ``draw`` in [0, 1) is for the jitter."""

    run: int
    draw: float


class TimerFired(Message, frozen=True, kw_only=True):
    """The moment of the last ``SetTimer`` has come."""

    run: int


Asked = Start | StopAsked | DrainAsked | RestartAsked | ReloadAsked | WorkEnded
Reported = ModelStaged | EngineEnsured | EngineSpawned | EngineProved | StepFailed | EngineExited | EngineGone
Succession = SuccessorProved | SuccessorFailed | NoRoom
Watched = DevicesFailed | DevicesWell
Event = Asked | Reported | Succession | Watched | TimerFired


# --- effects ----------------------------------------------------------------------------------------------------------


class StageModel(Message, frozen=True, kw_only=True):
    """See that the devices exist, then bring the model to this disk: ``ModelStaged`` or ``StepFailed``."""

    run: int
    model_ref: str


class EnsureEngine(Message, frozen=True, kw_only=True):
    """Make the engine startable: ``EngineEnsured`` or ``StepFailed``."""

    run: int


class SpawnEngine(Message, frozen=True, kw_only=True):
    """Start the engine, or take over the one that a former manager left running in just this way.

    ``EngineSpawned`` or ``StepFailed``, and ``EngineExited`` when it ends by itself.
    """

    run: int
    engine: PreparedEngine
    model: ResolvedModel | None


class ProveEngine(Message, frozen=True, kw_only=True):
    """Wait for health, then generate one token, then look at the GPUs: ``EngineProved`` or ``StepFailed``."""

    run: int


class WatchEngine(Message, frozen=True, kw_only=True):
    """Hand the endpoint over and look after the engine's health: ``StepFailed`` when it is lost."""

    run: int
    model_ref: str


class StopEngine(Message, frozen=True, kw_only=True):
    """Cancel all work of earlier runs, end the engine and all its children, take back what was handed over.

    Always answered by ``EngineGone``, however long it takes; with no engine at once.
    """

    run: int


class SetTimer(Message, frozen=True, kw_only=True):
    """Report ``TimerFired`` at ``due``; replaces the former timer."""

    run: int
    due: int


class PrepareSuccessor(Message, frozen=True, kw_only=True):
    """Start and prove an engine for another model beside the serving one; replaces a former preparation.

    Where an engine that was retired before still has its place, that one is ended after ``patience_ms`` at most.
    ``SuccessorProved``, ``SuccessorFailed`` or ``NoRoom``.
    """

    run: int
    model_ref: str
    patience_ms: int


class AbandonSuccessor(Message, frozen=True, kw_only=True):
    """Give up the preparation and end what runs of it. Not answered."""

    run: int


class SwitchOver(Message, frozen=True, kw_only=True):
    """The successor serves from now on; the old engine is ended at ``due``. ``EngineExited`` when the new one ends."""

    run: int
    due: int


class EndRetired(Message, frozen=True, kw_only=True):
    """End the engine that served before the last switch, if there is one, without waiting any longer. Not answered."""

    run: int


class AwaitDevices(Message, frozen=True, kw_only=True):
    """From ``due`` on look whether every GPU of the mask answers: ``DevicesWell`` when they do."""

    run: int
    due: int


Effect = (
    StageModel
    | EnsureEngine
    | SpawnEngine
    | ProveEngine
    | WatchEngine
    | StopEngine
    | SetTimer
    | PrepareSuccessor
    | AbandonSuccessor
    | SwitchOver
    | EndRetired
    | AwaitDevices
)
