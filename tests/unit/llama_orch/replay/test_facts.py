from typing import Any

import pytest
from msgspec.structs import replace

from contracts.config import Engine, FullPolicy, Mode
from contracts.examples.receipts import RECEIPT
from contracts.pools import Capability, QueueInfo
from contracts.receipts import Receipt
from llama_orch.replay.facts import (
    IDENTITY,
    Change,
    changes,
    facts_of,
    facts_of_pool,
    same_identity,
    unknown,
)

pytestmark = pytest.mark.req("HP-21", "HP-12")

THEN = facts_of(RECEIPT)


def with_engine(**more: Any) -> Receipt:  # noqa: ANN401 - any field
    assert RECEIPT.engine is not None
    return replace(RECEIPT, engine=replace(RECEIPT.engine, **more))


def test_nothing_has_changed_between_a_receipt_and_itself() -> None:
    assert changes(THEN, THEN) == ()
    assert same_identity(THEN, THEN)


@pytest.mark.parametrize(
    ("field", "value", "of_the_identity"),
    [
        ("engine_version", "b2", True),
        ("engine_digest", "sha256:" + "0" * 64, True),
        ("model_digest", "sha256:" + "1" * 64, True),
        ("sampler_profile_version", "v2", True),
        ("engine", Engine.VLLM, True),
        ("devices", ("GPU-1",), False),
        ("driver_version", "580.1", False),
        ("argv", ("llama-server",), False),
        ("slots", 2, False),
        ("ctx_max", 4096, False),
        ("pool_id", "gpu0", False),
        ("replica_id", "gpu0-0", False),
        ("model_ref", "/elsewhere/haiku.gguf", False),
        ("provisioning_mode", Mode.SOURCE, False),
    ],
)
def test_every_fact_of_the_engine_that_changed_is_named(field: str, value: object, of_the_identity: bool) -> None:
    now = facts_of(with_engine(**{field: value}))
    (change,) = changes(THEN, now)
    assert (change.fact, change.of_the_identity) == (field, of_the_identity)
    assert change.recorded != change.now
    assert same_identity(THEN, now) is not of_the_identity


def test_what_was_sent_and_the_use_of_the_slot_are_compared_member_by_member() -> None:
    assert RECEIPT.sent is not None
    assert RECEIPT.slot is not None
    sent = {**RECEIPT.sent, "n_predict": 4, "zeal": 1}
    del sent["stream"]
    now = facts_of(replace(RECEIPT, sent=sent, slot=replace(RECEIPT.slot, cached_tokens=9, slot=1)))
    assert changes(THEN, now) == (
        Change(fact="slot", recorded=0, now=1),
        Change(fact="cached_tokens", recorded=1, now=9),
        Change(fact="sent.n_predict", recorded=3, now=4),
        Change(fact="sent.stream", recorded=True, now=None),
        Change(fact="sent.zeal", recorded=None, now=1),
    )


def test_what_only_one_side_tells_is_no_change() -> None:
    unsent = facts_of(replace(RECEIPT, sent=None, slot=None))
    assert changes(THEN, unsent) == changes(unsent, THEN) == ()


@pytest.mark.parametrize("field", IDENTITY)
def test_an_identity_that_one_side_does_not_know_is_unknown_and_not_the_same(field: str) -> None:
    lacking = {**THEN, field: None}
    for one, other in ((THEN, lacking), (lacking, THEN), (lacking, lacking)):
        assert unknown(one, other) == (field,)
        assert changes(one, other) == ()
        assert not same_identity(one, other)


def test_a_task_that_never_ran_has_no_identity() -> None:
    assert unknown(facts_of(replace(RECEIPT, engine=None, slot=None, sent=None)), THEN) == IDENTITY


def test_a_pool_tells_what_it_can_where_there_is_no_receipt() -> None:
    served = RECEIPT.engine
    assert served is not None
    pool = Capability(
        pool_id="trial",
        engine=served.engine,
        engine_version=served.engine_version,
        engine_digest=served.engine_digest,
        provisioning_mode=served.provisioning_mode,
        model_ref=served.model_ref,
        model_id=served.model_id,
        model_digest=served.model_digest,
        ctx_max=512,
        slots=1,
        workloads=(),
        features=(),
        sampler_profile_version="v1",
        queue=QueueInfo(capacity=1, policy=FullPolicy.REJECT, depth=0),
        devices=(),
        ready=True,
    )
    now = facts_of_pool(pool, "trial")
    assert changes(THEN, now) == ()
    assert same_identity(THEN, now)
