"""Where strict can be kept, and which pools give the same answer."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from contracts.config import Engine, Mode
from contracts.pools import PoolSnapshot, PoolState, StrictInfo
from contracts.tasks import Determinism, Workload
from orchestratord.determinism import (
    PINNED,
    Reason,
    departure,
    difference,
    may_join,
    may_stay,
    repeatable,
    replica_set,
    sets,
    told,
    unable,
)
from tests.unit.orchestratord.world import request, snapshot

pytestmark = pytest.mark.req("HP-12")

FEATURES = ("seed", "cache_prompt")
COMPLETION = Workload.COMPLETION
STRICT = request(determinism=Determinism.STRICT)
READY = snapshot(argv=("A=1", "/llama-server", "--model", "/m.gguf", "--port", "{port}"), driver_version="560")


# --- one engine -------------------------------------------------------------------------------------------------------


def test_a_pool_of_which_all_is_known_keeps_it() -> None:
    assert unable(READY, COMPLETION, FEATURES) is None


@pytest.mark.parametrize(
    ("changes", "features", "message", "hint"),
    [
        (
            {"slots": 2},
            FEATURES,
            "strict determinism needs one slot, and pool 'p' has 2",
            "use a pool with slots: 1, or determinism best_effort",
        ),
        (
            {"sampler_profile_version": "v9"},
            FEATURES,
            "the sampler profile of pool 'p', 'v9', is none that is known here",
            "sampler_profile_version of the pool takes greedy, v1",
        ),
        (
            {"provisioning_mode": Mode.EXTERNAL, "engine_version": "unknown", "engine_digest": None},
            FEATURES,
            "pool 'p' is an endpoint that somebody else runs, and does not say which build and which model it has",
            "use a pool whose engine this installation provides, or determinism best_effort",
        ),
        (
            {"engine_version": None},
            FEATURES,
            "the version of the engine of pool 'p' is not known, so another one could not be told from it",
            "pin the engine in provisioning of the pool, or determinism best_effort",
        ),
        (
            {"engine_digest": None},
            FEATURES,
            "the digest of the engine of pool 'p' is not known, so another build could not be told from it",
            "let this installation provide the engine (provisioning.mode), or determinism best_effort",
        ),
        (
            {"model_digest": None},
            FEATURES,
            "the digest of the model of pool 'p' is not known, so another model could not be told from it",
            "use a model that this installation fetches or finds as a file, or determinism best_effort",
        ),
        (
            {},
            ("cache_prompt",),
            "the engine of pool 'p' does not show that it takes a seed",
            "use another pool, or determinism best_effort",
        ),
        (
            {},
            ("seed",),
            "the engine of pool 'p' does not show that its prompt cache can be left out",
            "use another pool, or determinism best_effort",
        ),
    ],
)
def test_every_reason_has_its_own_words_and_mend(
    changes: dict[str, Any], features: tuple[str, ...], message: str, hint: str
) -> None:
    found = unable(replace(READY, **changes), COMPLETION, features)
    assert found == Reason(message, hint)
    assert told(replace(READY, **changes), (COMPLETION,), features) == StrictInfo(
        available=False, why=message, hint=hint
    )


@pytest.mark.parametrize("engine", sorted(set(Engine) - {Engine.LLAMACPP}))
def test_an_engine_that_batches_is_refused_with_what_its_adapter_says(engine: Engine) -> None:
    found = unable(replace(READY, engine=engine), COMPLETION, FEATURES)
    assert found is not None
    assert "determinism: strict" in found.message


def test_what_draws_no_tokens_needs_neither_seed_nor_cache() -> None:
    assert unable(READY, Workload.EMBEDDING, ()) is None


def test_what_is_on_its_way_is_not_known_yet_and_that_is_no_reason() -> None:
    starting = snapshot(state=PoolState.STARTING, engine_version=None, engine_digest=None, model_digest=None)
    assert unable(starting, COMPLETION, None) is None
    said = told(starting, (), None)
    assert (said.available, said.replica_set) == (False, None)
    assert said.why == "pool 'p' is starting, and its engine has not said what it is"


def test_clients_are_told_the_replica_set() -> None:
    found = replica_set(READY)
    assert found is not None
    assert told(READY, (COMPLETION,), FEATURES) == StrictInfo(available=True, replica_set=found.id)
    other = replica_set(replace(READY, engine_version="b2"))
    assert other is not None
    assert other.id != found.id


# --- several ----------------------------------------------------------------------------------------------------------

APART: dict[str, Any] = {
    "engine_version": "b2",
    "engine_digest": "sha256:other",
    "model_digest": "sha256:1",
    "sampler_profile_version": "greedy",
    "slots": 2,
    "ctx_max": 512,
    "devices": ("0", "1"),
    "argv": (*READY.argv, "--cache-type-k", "q8_0"),
}


def test_pools_that_differ_in_nothing_but_their_own_are_one_set() -> None:
    theirs = ("CUDA_VISIBLE_DEVICES=GPU-2", "A=1", "/llama-server", "--model", "/other.gguf", "--port", "{port}")
    twin = replace(READY, pool_id="twin", replica_id="twin-0", argv=theirs, model_ref="file:/other.gguf", restarts=3)
    assert replica_set(twin) == replica_set(READY)
    assert list(sets([READY, twin]).values()) == [frozenset({"p", "twin"})]


@pytest.mark.parametrize("name", sorted(APART))
def test_a_difference_in_one_thing_makes_two_sets(name: str) -> None:
    other = replace(READY, pool_id="q", **{name: APART[name]})
    assert sorted(map(sorted, sets([READY, other]).values())) == [["p"], ["q"]]
    bound_to = replica_set(READY)
    assert bound_to is not None
    assert not may_join(STRICT, bound_to, other)
    assert not may_stay(bound_to, other)
    assert "was" in departure(bound_to, other)


def test_best_effort_goes_anywhere() -> None:
    assert may_join(request(), None, replace(READY, engine_version="b2"))


def test_a_strict_task_of_no_set_yet_is_joined_by_nobody_and_stays_where_it_is() -> None:
    assert not may_join(STRICT, None, READY)
    assert may_stay(None, READY)


def test_what_is_not_ready_has_yet_to_show_what_it_is() -> None:
    bound_to = replica_set(READY)
    assert may_stay(bound_to, snapshot(state=PoolState.BACKOFF, engine_version="b2"))
    assert replica_set(snapshot(state=PoolState.BACKOFF)) is None
    assert bound_to is not None
    assert departure(bound_to, replace(READY, engine_digest=None)) == "what it runs is not known any more"


@given(st.lists(st.sampled_from(["b1", "b2", "b3", None]), min_size=1, max_size=8))
def test_sets_divide_the_pools(versions: list[str | None]) -> None:
    pools = [replace(READY, pool_id=f"p{n}", engine_version=version) for n, version in enumerate(versions)]
    found = sets(pools)
    assert sorted(pool_id for members in found.values() for pool_id in members) == sorted(p.pool_id for p in pools)
    for key, members in found.items():
        assert {replica_set(pool) for pool in pools if pool.pool_id in members} == {key}


# --- the same engine --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PINNED)
def test_every_fact_that_an_answer_may_depend_on_makes_another_engine(name: str) -> None:
    changed: PoolSnapshot = replace(READY, **{name: "other"})
    found = difference(READY, changed)
    assert found is not None
    assert found.startswith(f"{name} was ")
    assert difference(READY, replace(READY, restarts=9, revision=7, endpoint=None)) is None


@pytest.mark.parametrize("name", ["engine_version", "engine_digest", "model_digest"])
def test_what_is_not_known_is_not_repeated(name: str) -> None:
    assert repeatable(STRICT, READY)
    assert not repeatable(STRICT, replace(READY, **{name: None}))
    assert not repeatable(STRICT, replace(READY, slots=2))
    assert not repeatable(request(), READY)
