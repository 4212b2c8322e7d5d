"""What ``strict`` means: where it can be kept, and which engines are the same.

Decides why a pool cannot keep it, which pools are one replica set, and whether an engine is still the one that it was.
One definition serves the refusal, the queue, a silent retry and a restart. Values in, values out: it never looks at an
engine, and says nothing of GPUs of different models, which may round differently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256

import msgspec

from adapters import parameters
from adapters.parameters import GENERATING, Parameter
from contracts.config import Engine, Mode
from contracts.pools import PoolSnapshot, StrictInfo
from contracts.sampler_profiles import PROFILES
from contracts.tasks import Determinism, TaskRequest, Workload

UNKNOWN = frozenset({None, "unknown"})
"""What is said of what nobody has asked or seen."""
SLOTS = 1
BEST_EFFORT = "or determinism best_effort"


class ReplicaSet(msgspec.Struct, frozen=True, kw_only=True):
    """All that two pools have in common whose engines give the same answer."""

    engine: Engine
    engine_version: str
    engine_digest: str
    model_digest: str
    sampler_profile_version: str
    slots: int
    ctx_max: int
    gpus: int
    """How many: a model that is divided computes in another order."""
    flags: tuple[str, ...] = ()
    """What the engine was started with, without what each pool has for itself."""

    @property
    def id(self) -> str:
        """Its name: the same for the same."""
        return "set-" + sha256(msgspec.json.encode(self)).hexdigest()[:16]


PINNED = (
    "engine",
    "engine_version",
    "engine_digest",
    "model_digest",
    "sampler_profile_version",
    "slots",
    "ctx_max",
    "argv",
)
"""Of a pool's snapshot: what makes the engine the same. That it says the same is compared."""
PLACES = frozenset({"--port", "--host", "--api-key", "--api-key-file", "--log-file"})
"""Arguments that say where an engine listens and tells, which is new in each start."""
OWN = PLACES | {"--model", "CUDA_VISIBLE_DEVICES"}
"""Likewise, and what each pool of a replica set has for itself: its GPUs, and a path to a model of the same digest."""


class Reason(msgspec.Struct, frozen=True):
    """Why strict determinism cannot be kept, and what to do."""

    message: str
    hint: str


# --- one engine -------------------------------------------------------------------------------------------------------


def unable(snapshot: PoolSnapshot, workload: Workload, features: tuple[str, ...] | None) -> Reason | None:
    """Why this pool can never keep strict determinism; None where it can, or where that is not known yet.

    ``features`` are what the running engine was found to have; None while it has not been asked.
    """
    asked = {Parameter.STRICT: Determinism.STRICT}
    engine = parameters.obstacle(snapshot.engine, workload, asked, features)
    if engine is not None:
        return Reason(engine.message, engine.hint)
    pool = f"pool {snapshot.pool_id!r}"
    if snapshot.slots != SLOTS:
        text = f"strict determinism needs one slot, and {pool} has {snapshot.slots}"
        return Reason(text, f"use a pool with slots: 1, {BEST_EFFORT}")
    if snapshot.sampler_profile_version not in PROFILES:
        text = f"the sampler profile of {pool}, {snapshot.sampler_profile_version!r}, is none that is known here"
        return Reason(text, f"sampler_profile_version of the pool takes {', '.join(sorted(PROFILES))}")
    return _unidentified(snapshot, pool) or _lacking(workload, features, pool)


def told(snapshot: PoolSnapshot, workloads: Sequence[Workload], features: tuple[str, ...] | None) -> StrictInfo:
    """What a pool's clients are told of all this; ``workloads`` as it serves them, or may turn out to."""
    reasons = [unable(snapshot, each, features) for each in workloads or parameters.WORKLOADS[snapshot.engine]]
    if None not in reasons and reasons[0] is not None:
        return StrictInfo(available=False, why=reasons[0].message, hint=reasons[0].hint)
    found = replica_set(snapshot)
    if found is None or not snapshot.ready or features is None:
        text = f"pool {snapshot.pool_id!r} is {snapshot.state}, and its engine has not said what it is"
        return StrictInfo(available=False, why=text, hint="ask again when the pool is ready")
    return StrictInfo(available=True, replica_set=found.id)


def difference(before: PoolSnapshot, now: PoolSnapshot) -> str | None:
    """What makes the engine of a pool another one than before, in words; None where an answer would be the same."""
    facts = [(name, _fact(before, name), _fact(now, name)) for name in PINNED]
    return _words(facts)


def comparable(argv: Sequence[str], without: Collection[str] = PLACES) -> tuple[str, ...]:
    """The arguments that an answer may depend on."""
    pairs = zip(argv, ("", *argv), strict=False)
    return tuple(word for word, before in pairs if before not in without and word.partition("=")[0] not in without)


def repeatable(request: TaskRequest, served: PoolSnapshot) -> bool:
    """Whether the same engine would give the same answer, and could be told from another one."""
    return request.determinism is Determinism.STRICT and served.slots == SLOTS and _known(served)


# --- several ----------------------------------------------------------------------------------------------------------


def replica_set(snapshot: PoolSnapshot) -> ReplicaSet | None:
    """The set that a pool belongs to; None while its engine is not there, or not known well enough."""
    version, digest, model = snapshot.engine_version, snapshot.engine_digest, snapshot.model_digest
    if not snapshot.live or version is None or digest is None or model is None or not _known(snapshot):
        return None
    return ReplicaSet(
        engine=snapshot.engine,
        engine_version=version,
        engine_digest=digest,
        model_digest=model,
        sampler_profile_version=snapshot.sampler_profile_version,
        slots=snapshot.slots,
        ctx_max=snapshot.ctx_max,
        gpus=len(snapshot.devices),
        flags=comparable(snapshot.argv, OWN),
    )


def sets(snapshots: Iterable[PoolSnapshot]) -> dict[ReplicaSet | None, frozenset[str]]:
    """The pools by their sets. Under None are those that are on their way: which set they are of will show."""
    found: dict[ReplicaSet | None, set[str]] = {}
    for snapshot in snapshots:
        found.setdefault(replica_set(snapshot), set()).add(snapshot.pool_id)
    return {key: frozenset(pools) for key, pools in found.items()}


def may_join(request: TaskRequest, bound_to: ReplicaSet | None, snapshot: PoolSnapshot) -> bool:
    """Whether a waiting task may go to a pool that it was not queued for, as far as its replica set goes."""
    strict = request.determinism is Determinism.STRICT
    return not strict or (bound_to is not None and replica_set(snapshot) == bound_to)


def may_stay(bound_to: ReplicaSet | None, snapshot: PoolSnapshot) -> bool:
    """Whether a task may still wait for a pool that it was queued for: what is not ready has yet to show what it is."""
    return bound_to is None or not snapshot.ready or replica_set(snapshot) == bound_to


def departure(bound_to: ReplicaSet, snapshot: PoolSnapshot) -> str:
    """Why a pool is no member of a set any more, in words."""
    now = replica_set(snapshot)
    if now is None:
        return "what it runs is not known any more"
    facts = [(name, getattr(bound_to, name), getattr(now, name)) for name in ReplicaSet.__struct_fields__]
    return _words(facts) or "nothing has changed"


# --- inside -----------------------------------------------------------------------------------------------------------


def _known(snapshot: PoolSnapshot) -> bool:
    return UNKNOWN.isdisjoint({snapshot.engine_version, snapshot.engine_digest, snapshot.model_digest})


def _unidentified(snapshot: PoolSnapshot, pool: str) -> Reason | None:
    """What is not known of the engine. One that is on its way is not known yet, which is no reason."""
    if snapshot.provisioning_mode is Mode.EXTERNAL and not _known(snapshot):
        text = f"{pool} is an endpoint that somebody else runs, and does not say which build and which model it has"
        return Reason(text, f"use a pool whose engine this installation provides, {BEST_EFFORT}")
    if not snapshot.ready:
        return None
    if snapshot.engine_version in UNKNOWN:
        text = f"the version of the engine of {pool} is not known, so another one could not be told from it"
        return Reason(text, f"pin the engine in provisioning of the pool, {BEST_EFFORT}")
    if snapshot.engine_digest in UNKNOWN:
        text = f"the digest of the engine of {pool} is not known, so another build could not be told from it"
        return Reason(text, f"let this installation provide the engine (provisioning.mode), {BEST_EFFORT}")
    if snapshot.model_digest in UNKNOWN:
        text = f"the digest of the model of {pool} is not known, so another model could not be told from it"
        return Reason(text, f"use a model that this installation fetches or finds as a file, {BEST_EFFORT}")
    return None


def _lacking(workload: Workload, features: tuple[str, ...] | None, pool: str) -> Reason | None:
    """What the running engine does not show that it can, where tokens are drawn."""
    if features is None or workload not in GENERATING:
        return None
    if "seed" not in features:
        text = f"the engine of {pool} does not show that it takes a seed"
        return Reason(text, f"use another pool, {BEST_EFFORT}")
    if "cache_prompt" not in features:
        text = f"the engine of {pool} does not show that its prompt cache can be left out"
        return Reason(text, f"use another pool, {BEST_EFFORT}")
    return None


def _fact(served: PoolSnapshot, name: str) -> object:
    fact = getattr(served, name)
    return comparable(fact) if name == "argv" else fact


def _words(facts: Iterable[tuple[str, object, object]]) -> str | None:
    """What has changed, of names with what they were and what they are."""
    changed = [f"{name} was {was} and is {is_now}" for name, was, is_now in facts if was != is_now]
    return ", ".join(changed) or None
