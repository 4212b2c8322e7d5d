"""Which models are in use, and what somebody is told who names none or asks for one that a pool needs.

Decides from what a daemon said of its pools, or from the configuration alone. Never asks a daemon.
"""

from __future__ import annotations

from collections.abc import Sequence

from contracts.base import nearest
from contracts.config import Config, Mode
from contracts.errors import ErrorCode
from contracts.pools import Capability, PoolList
from llama_orch.errors import ApiError
from model_provisioner.holds import Hold


def served(pools: PoolList, capabilities: Sequence[Capability], config: Config) -> tuple[Hold, ...]:
    """What a daemon's pools use; what they are configured with as well while nobody knows how they are.

    An endpoint that somebody else runs has its model elsewhere.
    """
    elsewhere = {pool.pool_id for pool in capabilities if pool.provisioning_mode is Mode.EXTERNAL}
    found = [
        Hold(by=pool.pool_id, ref=ref, serves=True)
        for pool in pools.pools
        for ref in (pool.model_ref, pool.next_model_ref)
        if ref is not None and pool.pool_id not in elsewhere
    ]
    found += [
        Hold(by=pool.pool_id, id=pool.model_id, serves=True)
        for pool in capabilities
        if pool.model_id is not None and pool.pool_id not in elsewhere
    ]
    return (*found, *(() if pools.managed else configured(config)))


def configured(config: Config) -> tuple[Hold, ...]:
    """What the pools of a configuration are to serve."""
    pools = (pool for pool in config.pools if pool.mode is not Mode.EXTERNAL)
    return tuple(Hold(by=pool.id, ref=pool.model, serves=True) for pool in pools)


def unknown(name: str, known: Sequence[str]) -> ApiError:
    """There is no such model."""
    hint = nearest(name, known) if known else "llama-orch models pull REF fetches one"
    return ApiError(ErrorCode.NOT_FOUND, f"there is no model {name!r} in the catalog", hint=hint)


def in_use(identifier: str, pools: Sequence[str], what: str) -> ApiError:
    """A pool needs it."""
    one = pools[0]
    text = f"{identifier} is used by {'pool' if len(pools) == 1 else 'the pools'} {', '.join(pools)}, and is not {what}"
    hint = f"llama-orch reload {one} --model OTHER gives the pool another one; or change the configuration"
    if what == "retired":
        hint += "; --force retires it all the same, and the pool gets no new task"
    return ApiError(ErrorCode.CONFLICT, text, hint=hint)
