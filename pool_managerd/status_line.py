"""Decides what the unit's status line says of this daemon. Snapshots in, one line out."""

from __future__ import annotations

from collections.abc import Iterable

from contracts.config import Engine, Mode
from contracts.pools import PoolSnapshot, PoolState

MOST = 3
"""So many pools are shown by name."""


def status_line(pools: Iterable[PoolSnapshot], *, stopping: bool, returning: bool = False) -> str:
    """One line, as ``systemctl --user status`` shows it: how many are ready, and what the others are doing.

    ``returning``: this daemon is started again at once, and the engines that are left then are taken over.
    """
    pools = tuple(pools)
    if stopping:
        left = [pool.pool_id for pool in pools if pool.live]
        how = "starting again, {} of {} engines run" if returning else "draining, {} of {} engines left"
        return how.format(len(left), len(pools)) + (f": {', '.join(left[:MOST])}" if left else "")
    ready = f"{sum(pool.ready for pool in pools)}/{len(pools)} pools ready"
    doing = [f"{pool.pool_id}: {_doing(pool)}" for pool in pools if not pool.ready]
    more = [f"and {len(doing) - MOST} more"] if len(doing) > MOST else []
    return "; ".join([ready, *doing[:MOST], *more])


def _doing(pool: PoolSnapshot) -> str:
    match pool.state:
        case PoolState.STAGING_MODEL:
            return f"fetching or checking {pool.model_ref}"
        case PoolState.ENSURING_ENGINE:
            return _ensuring(pool)
        case PoolState.STARTING:
            return f"starting {_name(pool)}"
        case PoolState.PROBING:
            return f"waiting for {_name(pool)} to load the model and answer"
        case PoolState.DRAINING:
            return "draining"
        case PoolState.BACKOFF | PoolState.FAILED | PoolState.BROKEN | PoolState.QUARANTINED:
            return str(pool.state) + (f" ({pool.last_error.cause})" if pool.last_error is not None else "")
        case _:
            return str(pool.state)


def _ensuring(pool: PoolSnapshot) -> str:
    name = _name(pool)
    match pool.provisioning_mode:
        case Mode.SOURCE:
            return f"building {name}"
        case Mode.CONTAINER:
            return f"pulling the image of {name}"
        case Mode.BINARY:
            return f"downloading {name}"
        case Mode.PACKAGE:
            return f"installing {name}"
        case _:
            return f"preparing {name}"


def _name(pool: PoolSnapshot) -> str:
    return "llama.cpp" if pool.engine is Engine.LLAMACPP else str(pool.engine)
