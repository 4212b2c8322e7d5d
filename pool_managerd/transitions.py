"""The life of a pool as a table: which event is legal in which state, and where it may lead.

Decides that and nothing more: what an event leads to, ``lifecycle`` decides, and is held to the table.
"""

from __future__ import annotations

from collections.abc import Mapping

from contracts.pools import PoolState
from pool_managerd.life import (
    DevicesFailed,
    DevicesWell,
    DrainAsked,
    EngineEnsured,
    EngineExited,
    EngineGone,
    EngineProved,
    EngineSpawned,
    Event,
    ModelStaged,
    NoRoom,
    ReloadAsked,
    RestartAsked,
    Start,
    StepFailed,
    StopAsked,
    SuccessorFailed,
    SuccessorProved,
    TimerFired,
    WorkEnded,
)

Row = Mapping[type[Event], tuple[PoolState, ...]]

_STOPPED = (PoolState.STOPPED,)
_STAGING = (PoolState.STAGING_MODEL,)
_READY = (PoolState.READY,)
_DRAINING = (PoolState.DRAINING,)
_QUARANTINED = (PoolState.QUARANTINED,)
_FAILED = (PoolState.FAILED, PoolState.QUARANTINED)
# What may happen to a pool that has or is getting an engine, and to one that has none.
_BUSY: Row = {
    StopAsked: _DRAINING,
    DrainAsked: _DRAINING,
    RestartAsked: _DRAINING,
    ReloadAsked: _DRAINING,
    DevicesFailed: _QUARANTINED,
}
_IDLE: Row = {
    StopAsked: _STOPPED,
    DrainAsked: _STOPPED,
    RestartAsked: _STAGING,
    ReloadAsked: _STAGING,
    DevicesFailed: _QUARANTINED,
}

TRANSITIONS: Mapping[PoolState, Row] = {
    PoolState.STOPPED: {**_IDLE, Start: _STAGING, DevicesFailed: _STOPPED, WorkEnded: _STOPPED},
    PoolState.STAGING_MODEL: {
        **_BUSY,
        ModelStaged: (PoolState.ENSURING_ENGINE,),
        StepFailed: _FAILED,
        WorkEnded: _STAGING,
    },
    PoolState.ENSURING_ENGINE: {
        **_BUSY,
        EngineEnsured: (PoolState.STARTING,),
        StepFailed: _FAILED,
        WorkEnded: (PoolState.ENSURING_ENGINE,),
    },
    PoolState.STARTING: {
        **_BUSY,
        EngineSpawned: (PoolState.PROBING,),
        StepFailed: _FAILED,
        WorkEnded: (PoolState.STARTING,),
    },
    PoolState.PROBING: {
        **_BUSY,
        EngineProved: _READY,
        StepFailed: _FAILED,
        EngineExited: (*_FAILED, PoolState.STARTING),
        WorkEnded: (PoolState.PROBING,),
    },
    PoolState.READY: {
        **_BUSY,
        ReloadAsked: _READY,
        SuccessorProved: _READY,
        SuccessorFailed: _READY,
        NoRoom: (PoolState.READY, PoolState.DRAINING),
        StepFailed: _FAILED,
        EngineExited: _FAILED,
        WorkEnded: _READY,
    },
    PoolState.DRAINING: {
        **_BUSY,
        DevicesFailed: (PoolState.DRAINING, PoolState.QUARANTINED),
        SuccessorProved: _DRAINING,
        SuccessorFailed: _DRAINING,
        NoRoom: _DRAINING,
        TimerFired: _DRAINING,
        StepFailed: _DRAINING,
        EngineExited: _DRAINING,
        EngineGone: (PoolState.STOPPED, PoolState.STAGING_MODEL),
        WorkEnded: _DRAINING,
    },
    PoolState.FAILED: {
        **_BUSY,
        EngineGone: (PoolState.BACKOFF, PoolState.BROKEN, PoolState.STAGING_MODEL),
        WorkEnded: (PoolState.FAILED,),
    },
    PoolState.BACKOFF: {**_IDLE, TimerFired: _STAGING, WorkEnded: (PoolState.BACKOFF,)},
    PoolState.BROKEN: {**_IDLE, WorkEnded: (PoolState.BROKEN,)},
    PoolState.QUARANTINED: {
        StopAsked: (PoolState.STOPPED, PoolState.DRAINING),
        DrainAsked: (PoolState.STOPPED, PoolState.DRAINING),
        RestartAsked: (PoolState.STAGING_MODEL, PoolState.DRAINING),
        ReloadAsked: (PoolState.STAGING_MODEL, PoolState.DRAINING),
        DevicesFailed: _QUARANTINED,
        DevicesWell: _STAGING,
        EngineGone: _QUARANTINED,
        WorkEnded: _QUARANTINED,
    },
}
"""State -> event -> where it may lead. States that are not in here are never entered."""


class IllegalTransition(Exception):  # noqa: N818 - a broken promise of the caller, and it reads as one
    """This event cannot happen in this state."""

    def __init__(self, state: PoolState, event: Event) -> None:
        legal = ", ".join(sorted(kind.__name__ for kind in TRANSITIONS.get(state, {}))) or "nothing"
        super().__init__(f"{type(event).__name__} cannot happen in state {state!s}; what can: {legal}")


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {PoolState.STOPPED!s}"]
    for source, row in TRANSITIONS.items():
        targets = dict.fromkeys(target for legal in row.values() for target in legal)
        for target in targets:
            names = ", ".join(kind.__name__ for kind, legal in row.items() if target in legal)
            lines.append(f"    {source!s} --> {target!s}: {names}")
    return "\n".join(lines) + "\n"
