"""What a receipt says that made an answer, fact by fact, and which of them are others in a second receipt.

Decides which facts make the identity of an engine (those that a replica set must have in common) and which are the
circumstances. A fact that only one side tells is no change: it is unknown. Values in, values out.
"""

from __future__ import annotations

from collections.abc import Mapping

from contracts.base import Message
from contracts.pools import Capability
from contracts.receipts import EngineIdentity, Receipt

Facts = Mapping[str, object]

IDENTITY = ("engine", "engine_version", "engine_digest", "model_digest", "sampler_profile_version")
"""Two engines in which these are the same are replicas of one another; null in one of them is nobody's knowledge."""


class Change(Message, frozen=True, kw_only=True):
    """One fact that is another now. ``fact`` is its place in a receipt: ``engine_version``, ``sent.temperature``."""

    fact: str
    recorded: object
    now: object

    @property
    def of_the_identity(self) -> bool:
        """Whether it makes another engine of it."""
        return self.fact in IDENTITY


def facts_of(receipt: Receipt) -> dict[str, object]:
    """All facts of a receipt that could make another answer."""
    facts: dict[str, object] = {}
    if receipt.engine is not None:
        facts |= _of_engine(receipt.engine)
    if receipt.slot is not None:
        facts |= {
            "slot": receipt.slot.slot,
            "cache_prompt": receipt.slot.cache_prompt,
            "cached_tokens": receipt.slot.cached_tokens,
        }
    if receipt.sent is not None:
        facts |= {f"sent.{name}": value for name, value in receipt.sent.items()}
    return facts | {"profile": str(receipt.profile)}


def facts_of_pool(pool: Capability, profile: str) -> dict[str, object]:
    """What is told of a pool, where a run left no receipt."""
    return {
        "engine": str(pool.engine),
        "engine_version": pool.engine_version,
        "engine_digest": pool.engine_digest,
        "model_digest": pool.model_digest,
        "sampler_profile_version": pool.sampler_profile_version,
        "provisioning_mode": str(pool.provisioning_mode),
        "model_ref": pool.model_ref,
        "devices": list(pool.devices),
        "slots": pool.slots,
        "ctx_max": pool.ctx_max,
        "pool_id": pool.pool_id,
        "profile": profile,
    }


def changes(recorded: Facts, now: Facts) -> tuple[Change, ...]:
    """The facts that both tell and in which they differ, and the members of what was sent that only one has."""
    both_sent = _has_sent(recorded) and _has_sent(now)
    names = dict.fromkeys((*recorded, *now))
    return tuple(
        Change(fact=name, recorded=recorded.get(name), now=now.get(name))
        for name in names
        if _comparable(name, recorded, now, both_sent=both_sent) and recorded.get(name) != now.get(name)
    )


def unknown(recorded: Facts, now: Facts) -> tuple[str, ...]:
    """The facts of the identity that one side does not know."""
    return tuple(name for name in IDENTITY if recorded.get(name) is None or now.get(name) is None)


def same_identity(recorded: Facts, now: Facts) -> bool:
    """Whether both are known to have run on the same engine, with the same model and sampler profile."""
    return not unknown(recorded, now) and all(recorded[name] == now[name] for name in IDENTITY)


def _comparable(name: str, recorded: Facts, now: Facts, *, both_sent: bool) -> bool:
    if name.startswith("sent."):
        return both_sent
    if name not in recorded or name not in now:
        return False
    return name not in IDENTITY or (recorded[name] is not None and now[name] is not None)


def _has_sent(facts: Facts) -> bool:
    return any(name.startswith("sent.") for name in facts)


def _of_engine(served: EngineIdentity) -> dict[str, object]:
    return {
        "engine": str(served.engine),
        "engine_version": served.engine_version,
        "engine_digest": served.engine_digest,
        "model_digest": served.model_digest,
        "sampler_profile_version": served.sampler_profile_version,
        "provisioning_mode": str(served.provisioning_mode),
        "model_ref": served.model_ref,
        "devices": list(served.devices),
        "driver_version": served.driver_version,
        "argv": list(served.argv),
        "slots": served.slots,
        "ctx_max": served.ctx_max,
        "pool_id": served.pool_id,
        "replica_id": served.replica_id,
    }
