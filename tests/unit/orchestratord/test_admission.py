"""Every refusal with its code, field, message and hint; and what may enter."""

from typing import Any

import pytest
from msgspec.structs import replace

from contracts.config import Engine, FullPolicy, Limits, Mode, Server, Sessions
from contracts.errors import ErrorCode
from contracts.labels import PolicyLabel
from contracts.pools import Cause, Gates, GateState, PoolError, PoolState
from contracts.tasks import (
    ChatMessage,
    Determinism,
    KvHint,
    Placement,
    PlacementMode,
    Role,
    Sampling,
    TaskRequest,
    Workload,
)
from orchestratord.admission import (
    Eligible,
    PoolView,
    Refusal,
    eligible,
    evicted,
    outage,
    over_rate,
    queue_full,
    rated,
    serves,
    wrong_input,
)
from orchestratord.backlog import Full
from orchestratord.rates import Wait
from tests.unit.orchestratord.world import MODEL, request, snapshot

NOW_MS = 1_000_000
CHAT = (ChatMessage(role=Role.USER, content="hello"),)
PIN = PlacementMode.PIN


def view(pool_id: str = "p", workloads: tuple[Workload, ...] = (Workload.COMPLETION,), **changes: Any) -> PoolView:  # noqa: ANN401 - any field of the snapshot
    return PoolView(snapshot=snapshot(pool_id, **changes), workloads=workloads)


def refused(task: TaskRequest, *views: PoolView) -> Refusal:
    found = eligible(task, views, NOW_MS)
    assert isinstance(found, Refusal)
    return found


def admitted(task: TaskRequest, *views: PoolView) -> set[str]:
    found = eligible(task, views, NOW_MS)
    assert isinstance(found, Eligible), found
    return set(found.ids)


# --- the request by itself --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field", "message", "hint"),
    [
        ({"prompt": None}, "prompt", "workload completion takes 'prompt' and nothing else; got none", None),
        (
            {"messages": CHAT},
            "messages",
            "workload completion takes 'prompt' and nothing else; got prompt, messages",
            None,
        ),
        (
            {"workload": Workload.CHAT},
            "messages",
            "workload chat takes 'messages' and nothing else; got prompt",
            None,
        ),
        (
            {"workload": Workload.EMBEDDING},
            "inputs",
            "workload embedding takes 'inputs' and nothing else; got prompt",
            None,
        ),
        (
            {"placement": Placement(mode=PIN)},
            "placement.pool_id",
            "a pin needs the id of a pool",
            "GET /v1/pools lists them",
        ),
        (
            {"placement": Placement(pool_id="p")},
            "placement.pool_id",
            "pool_id goes with mode pin only",
            'use "mode": "pin", or prefer: [..]',
        ),
        (
            {"sampling": Sampling(json_schema={}, grammar="root ::= x")},
            "sampling.grammar",
            "json_schema and grammar exclude each other",
            "keep one of them",
        ),
        (
            {"sampling": Sampling(json_schema={"properties": {"a": {"$ref": "#/nope"}}})},
            "sampling.json_schema",
            "#/properties/a: $ref '#/nope' leads nowhere",
            "a reference is a pointer within the schema: #/$defs/name",
        ),
    ],
    ids=["nothing", "two", "chat-prompt", "embedding-prompt", "pin-nowhere", "pool-no-pin", "schema-grammar", "schema"],
)
def test_wrong_input_names_the_field(changes: dict[str, Any], field: str, message: str, hint: str | None) -> None:
    found = refused(request(**changes), view())
    assert found == Refusal(code=ErrorCode.INVALID_PARAMS, message=message, field=field, hint=hint)


def test_an_empty_prompt_is_a_prompt() -> None:
    assert wrong_input(request(prompt="")) is None


# --- the request against the pools ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ref", [MODEL, "m", "sha256:0"])
def test_a_model_is_known_by_reference_id_and_digest(ref: str) -> None:
    assert serves(snapshot(), ref)
    assert admitted(request(model_ref=ref), view()) == {"p"}


def test_an_unknown_model_is_told_the_nearest_one() -> None:
    found = refused(request(model_ref="n"), view(model_id="mistral-7b"), view("q", model_id="llama-8b"))
    assert found.code is ErrorCode.MODEL_UNAVAILABLE
    assert found.message == "no pool serves the model 'n'"
    assert found.field == "model_ref"
    assert found.hint == "valid here: llama-8b, mistral-7b"
    assert refused(request(model_ref="mistral-7"), view(model_id="mistral-7b")).hint == "did you mean 'mistral-7b'?"


@pytest.mark.parametrize("ref", ["haiku", "sha256:1"])
@pytest.mark.parametrize("state", sorted(set(PoolState) - {PoolState.READY}))
def test_a_short_name_may_be_that_of_a_pool_whose_model_nobody_has_seen(state: PoolState, ref: str) -> None:
    found = refused(request(model_ref=ref), view("q"), view(model_id=None, model_digest=None, state=state))
    assert (found.code, found.pool_id) == (ErrorCode.POOL_UNREADY, "p")
    assert found.message == f"no pool is known to serve the model {ref!r} yet: pool 'p' is {state}"
    assert found.hint == "GET /v1/pools/p/health shows its state"


@pytest.mark.parametrize(
    ("ref", "pool"),
    [
        ("haiku", {"model_id": "m", "state": PoolState.STARTING}),  # it has a name, and that is another one
        ("haiku", {"provisioning_mode": Mode.EXTERNAL, "state": PoolState.STARTING}),  # it will never have one
        ("haiku", {}),
        ("hf:org/haiku", {"state": PoolState.STARTING}),  # a reference is known from the beginning
        ("/models/haiku.gguf", {"state": PoolState.STARTING}),
    ],
)
def test_what_no_pool_will_be_called_is_unavailable_at_once(ref: str, pool: dict[str, Any]) -> None:
    found = refused(request(model_ref=ref), view(**({"model_id": None, "model_digest": None} | pool)))
    assert found.code is ErrorCode.MODEL_UNAVAILABLE


def test_an_unset_model_id_or_digest_is_no_name() -> None:
    nameless = snapshot(model_id=None, model_digest=None)
    assert not serves(nameless, "None")
    assert not serves(nameless, "")


@pytest.mark.parametrize(
    ("changes", "pool", "field", "message", "hint"),
    [
        ({"engine": Engine.VLLM}, {}, "engine", "the model is served by llamacpp, not by vllm", "leave engine out"),
        (
            {"workload": Workload.CHAT, "prompt": None, "messages": CHAT},
            {},
            "workload",
            "workload chat is not served by pool 'p'",
            "it serves: completion",
        ),
        ({"ctx": 5000}, {}, "ctx", "ctx 5000 exceeds the pool's 4096", "at most 4096"),
        (
            {"sampler_profile_version": "v2"},
            {},
            "sampler_profile_version",
            "the pool has sampler profile 'v1', not 'v2'",
            "leave it out, or name the pool's",
        ),
        (
            {"determinism": Determinism.STRICT},
            {"slots": 2},
            "determinism",
            "strict determinism needs one slot, and pool 'p' has 2",
            "use a pool with slots: 1, or determinism best_effort",
        ),
    ],
    ids=["engine", "workload", "ctx", "sampler", "strict"],
)
def test_what_a_pool_can_never_run_names_the_field_and_the_mend(
    changes: dict[str, Any], pool: dict[str, Any], field: str, message: str, hint: str
) -> None:
    found = refused(request(**changes), view(**pool))
    assert found == Refusal(code=ErrorCode.INVALID_PARAMS, message=message, field=field, hint=hint)


def test_only_the_pools_that_can_run_it_are_eligible() -> None:
    views = (view("one"), view("many", slots=2), view("small", ctx_max=64), view("other", model_ref="x", model_id="x"))
    task = request(determinism=Determinism.STRICT, ctx=4096)
    assert admitted(replace(task, model_ref=MODEL), *views[:3]) == {"one"}
    assert admitted(request(model_ref="x"), *views) == {"other"}


@pytest.mark.req("HP-06")
def test_a_pin_to_a_pool_that_does_not_serve_the_model_is_an_error() -> None:
    found = refused(request(placement=Placement(mode=PIN, pool_id="gpu2")), view("gpu0"), view("gpu1"))
    assert found.code is ErrorCode.POOL_UNAVAILABLE
    assert found.field == "placement.pool_id"
    assert found.message == f"pool 'gpu2' does not serve {MODEL!r}"
    assert found.hint is not None
    assert "gpu" in found.hint


@pytest.mark.req("HP-06")
@pytest.mark.parametrize("state", [PoolState.STOPPED, PoolState.STARTING, PoolState.BACKOFF])
def test_a_pin_to_an_unready_pool_is_an_error_and_never_falls_back(state: PoolState) -> None:
    views = (view("gpu0", state=state), view("gpu1"))
    found = refused(request(placement=Placement(mode=PIN, pool_id="gpu0")), *views)
    assert (found.code, found.pool_id) == (ErrorCode.POOL_UNREADY, "gpu0")
    assert admitted(request(placement=Placement(mode=PIN, pool_id="gpu1")), *views) == {"gpu1"}


def test_pools_to_avoid_are_left_out_and_all_of_them_is_an_error() -> None:
    views = (view("gpu0"), view("gpu1"))
    assert admitted(request(placement=Placement(avoid=("gpu0",))), *views) == {"gpu1"}
    found = refused(request(placement=Placement(avoid=("gpu0", "gpu1"))), *views)
    assert found == Refusal(
        code=ErrorCode.POOL_UNAVAILABLE,
        message="every pool that serves this model is to be avoided",
        hint="shorten avoid",
        field="placement.avoid",
    )


# --- pools on their way up and down -----------------------------------------------------------------------------------

ALL_OK = Gates(model=GateState.OK, engine=GateState.OK, health=GateState.FAILED)
NO_ENGINE = Gates(model=GateState.OK, engine=GateState.FAILED)
NO_MODEL = Gates(model=GateState.FAILED)


ACCEPTING = (
    (PoolState.STAGING_MODEL, Gates(), True),
    (PoolState.ENSURING_ENGINE, Gates(), True),
    (PoolState.STARTING, Gates(), True),
    (PoolState.PROBING, Gates(), True),
    (PoolState.READY, ALL_OK, True),
    (PoolState.RELOADING, ALL_OK, True),
    (PoolState.FAILED, ALL_OK, True),
    (PoolState.BACKOFF, ALL_OK, True),
    (PoolState.BACKOFF, NO_ENGINE, False),
    (PoolState.FAILED, NO_MODEL, False),
    (PoolState.STOPPED, Gates(), False),
    (PoolState.DRAINING, ALL_OK, False),
    (PoolState.BROKEN, ALL_OK, False),
    (PoolState.QUARANTINED, ALL_OK, False),
)


@pytest.mark.parametrize(("state", "gates", "accepts"), ACCEPTING)
def test_tasks_queue_for_what_comes_back_by_itself(state: PoolState, gates: Gates, accepts: bool) -> None:
    assert view(state=state, gates=gates).accepts is accepts


def test_every_state_has_been_decided_about() -> None:
    assert {state for state, _, _ in ACCEPTING} == set(PoolState)


def test_an_unready_pool_says_why_and_when_to_come_back() -> None:
    error = PoolError(cause=Cause.ENGINE_BUILD, message="cmake failed", hint="install nvcc")
    broken = view(state=PoolState.BACKOFF, gates=NO_ENGINE, last_error=error, retry_at_ms=NOW_MS + 4_000)
    assert refused(request(), view("q", state=PoolState.STOPPED), broken) == Refusal(
        code=ErrorCode.POOL_UNREADY,
        message="pool 'p' is backoff: cmake failed",
        hint="install nvcc",
        pool_id="p",
        engine="llamacpp",
        retry_after_ms=4_000,
    )


def test_an_unready_pool_without_a_known_cause_points_at_its_health() -> None:
    found = refused(request(), view(state=PoolState.STOPPED))
    assert found.message == "pool 'p' is stopped"
    assert found.hint == "GET /v1/pools/p/health shows its state"
    assert found.retry_after_ms is None


def test_a_retry_that_is_due_is_never_negative() -> None:
    late = view(state=PoolState.BACKOFF, gates=NO_MODEL, retry_at_ms=NOW_MS - 5)
    assert refused(request(), late).retry_after_ms == 0


@pytest.mark.req("HP-08")
def test_a_pool_that_only_a_person_mends_is_not_worth_another_try() -> None:
    broken = view(state=PoolState.BROKEN, gates=NO_ENGINE)
    found = refused(request(), broken)
    assert (found.code, found.retriable) == (ErrorCode.POOL_UNREADY, False)
    assert refused(request(), broken, view("q", state=PoolState.STOPPED)).retriable is None


# --- queues and rates -----------------------------------------------------------------------------------------------


@pytest.mark.req("HP-02", "HP-04")
@pytest.mark.parametrize(
    ("policy", "code"),
    [(FullPolicy.REJECT, ErrorCode.ADMISSION_REJECT), (FullPolicy.DROP_LRU, ErrorCode.QUEUE_FULL_DROP_LRU)],
)
def test_a_full_queue_names_its_policy(policy: FullPolicy, code: ErrorCode) -> None:
    found = queue_full(Full("p", policy), "llamacpp", 250)
    assert (found.code, str(found.policy_label), found.retry_after_ms, found.pool_id) == (code, policy, 250, "p")
    gone = evicted("p", "llamacpp", 250)
    assert (gone.code, gone.policy_label) == (ErrorCode.QUEUE_FULL_DROP_LRU, "drop-lru")


@pytest.mark.req("HP-04", "HP-16")
def test_every_bound_of_the_configuration_is_a_label() -> None:
    bounds = {*FullPolicy, *Limits.__struct_fields__, "max_streams_per_client", "max_sessions"}
    assert bounds <= set(PolicyLabel)
    assert {"max_streams_per_client", "max_sessions"} <= {*Server.__struct_fields__, *Sessions.__struct_fields__}


@pytest.mark.req("HP-04", "HP-16")
@pytest.mark.parametrize(("limit", "what"), [("requests_per_minute", "tasks"), ("tokens_per_minute", "tokens")])
def test_a_rate_says_which_limit_and_how_long(limit: str, what: str) -> None:
    found = over_rate(Wait(limit, 60, 1_234))
    assert found.message == f"this client has used up its 60 {what} a minute"
    assert found.hint == f"send it again after retry_after_ms; limits.{limit} sets the limit"
    assert (found.code, found.policy_label, found.retry_after_ms) == (ErrorCode.ADMISSION_REJECT, limit, 1_234)


def test_a_rate_counts_the_prompt_and_what_was_asked_for_or_is_expected() -> None:
    assert rated(request(max_tokens=8), 100.4, 5.0) == 108
    assert rated(request(max_tokens=None), 100.4, 5.0) == 105


def test_an_outage_names_the_pools_and_how_they_are() -> None:
    found = outage([view(), view(pool_id="q", state=PoolState.BACKOFF)], 5_000.0)
    assert (found.code, found.pool_id) == (ErrorCode.POOL_UNREADY, "p")
    text = "no pool has served this task for 5000 ms: 'p' is ready and does not answer, 'q' is backoff"
    assert found.message == text
    assert "timeouts.start_ms" in (found.hint or "")


def test_what_went_wrong_earlier_is_no_reason_why_a_pool_drains() -> None:
    error = PoolError(cause=Cause.MODEL_MISSING, message="the reload to x failed", hint="look")
    found = refused(request(), view(state=PoolState.DRAINING, last_error=error))
    assert found.message == "pool 'p' is draining"


# --- embeddings and scores --------------------------------------------------------------------------------------------

RERANK_TAKES = "workload rerank takes 'prompt' (the query) and 'inputs' (the documents)"
RESULTS = (Workload.EMBEDDING, Workload.RERANK)


def embedding(*inputs: str, **changes: Any) -> TaskRequest:  # noqa: ANN401 - any field of the request
    fields: dict[str, Any] = {"workload": Workload.EMBEDDING, "prompt": None, "inputs": inputs, "max_tokens": None}
    return request(**(fields | changes))


def rerank(query: str | None, *documents: str, **changes: Any) -> TaskRequest:  # noqa: ANN401 - any field of the request
    return embedding(*documents, workload=Workload.RERANK, prompt=query, **changes)


@pytest.mark.req("AD-05")
@pytest.mark.parametrize(
    ("task", "field", "message"),
    [
        (embedding(), "inputs", "workload embedding without inputs has nothing to answer"),
        (
            embedding("a", prompt="p"),
            "prompt",
            "workload embedding takes 'inputs' and nothing else; got prompt, inputs",
        ),
        (
            rerank(None, "a"),
            "prompt",
            "workload rerank takes 'prompt' (the query) and 'inputs' (the documents) and nothing else; got inputs",
        ),
        (
            rerank("q", inputs=None),
            "inputs",
            "workload rerank takes 'prompt' (the query) and 'inputs' (the documents) and nothing else; got prompt",
        ),
        (rerank("q"), "inputs", "workload rerank without inputs has nothing to answer"),
        (
            rerank("q", "a", messages=CHAT),
            "messages",
            f"{RERANK_TAKES} and nothing else; got prompt, inputs, messages",
        ),
        (
            embedding("a", sampling=Sampling(temperature=0.0)),
            "sampling.temperature",
            "workload embedding draws no tokens and takes no sampling.temperature",
        ),
        (
            rerank("q", "a", max_tokens=4),
            "max_tokens",
            "workload rerank draws no tokens and takes no max_tokens",
        ),
    ],
)
def test_what_is_wrong_with_a_task_for_results(task: TaskRequest, field: str, message: str) -> None:
    found = refused(task, view(workloads=RESULTS))
    assert (found.code, found.field, found.message) == (ErrorCode.INVALID_PARAMS, field, message)


@pytest.mark.parametrize("task", [embedding("a", ""), embedding("a", seed=1), rerank("q", "a"), rerank("", "a")])
def test_a_task_for_results_enters(task: TaskRequest) -> None:
    assert admitted(task, view(workloads=RESULTS)) == {"p"}


# --- what engines can honour ------------------------------------------------------------------------------------------


@pytest.mark.req("AD-06")
def test_what_no_engine_can_honour_is_refused_with_the_field_the_engine_and_the_mend() -> None:
    found = refused(request(sampling=Sampling(grammar="g")), view(engine=Engine.TGI))
    assert (found.code, found.field, found.engine) == (ErrorCode.INVALID_PARAMS, "sampling.grammar", "tgi")
    assert found.hint == "use json_schema"


@pytest.mark.req("AD-06")
def test_a_pool_that_cannot_honour_is_left_out_where_another_can() -> None:
    tgi, llamacpp = view("t", engine=Engine.TGI), view("l")
    assert admitted(request(sampling=Sampling(grammar="g")), tgi, llamacpp) == {"l"}
    assert admitted(request(), tgi, llamacpp) == {"t", "l"}
    found = refused(request(sampling=Sampling(grammar="g"), placement=Placement(mode=PIN, pool_id="t")), tgi, llamacpp)
    assert found.field == "sampling.grammar"


@pytest.mark.req("AD-06", "HP-12")
@pytest.mark.parametrize("engine", [engine for engine in Engine if engine is not Engine.LLAMACPP])
def test_strict_determinism_is_refused_where_it_cannot_be_kept(engine: Engine) -> None:
    found = refused(request(determinism=Determinism.STRICT), view(engine=engine))
    assert found.field == "determinism"
    assert "best_effort" in (found.hint or "")


def test_a_hint_is_no_reason_to_refuse() -> None:
    assert admitted(request(kv_hint=KvHint.COLD), view(engine=Engine.TRITON)) == {"p"}


@pytest.mark.parametrize(("features", "field"), [(None, None), (("rest_of_context",), None), ((), "max_tokens")])
def test_what_depends_on_the_running_engine(features: tuple[str, ...] | None, field: str | None) -> None:
    pool = replace(view(engine=Engine.OPENAI), features=features)
    found = eligible(request(max_tokens=None), [pool], NOW_MS)
    assert (found.field if isinstance(found, Refusal) else None) == field


def test_a_pool_whose_engine_will_not_say_what_it_serves() -> None:
    mute = replace(view(), mute="the server has no model 'x'")
    found = refused(request(), mute)
    assert found.code is ErrorCode.POOL_UNREADY
    assert found.message == "pool 'p' runs and does not say what it serves: the server has no model 'x'"
    assert admitted(request(), mute, view("q")) == {"q"}
    assert replace(mute, snapshot=snapshot(state=PoolState.STARTING)).accepts  # a new start may say more
