from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from contracts.artifacts import canonical
from contracts.config import Engine, FullPolicy, Mode
from contracts.examples.receipts import RECEIPT
from contracts.pools import Capability, QueueInfo
from contracts.receipts import Receipt
from contracts.tasks import OnDisconnect, Placement, PlacementMode, Sampling, TaskRequest, Workload
from llama_orch.replay.request import (
    CannotAskError,
    Place,
    asked_again,
    gives_results,
    notes_of,
    place_of,
    recorded_request,
)

pytestmark = pytest.mark.req("HP-21", "HP-12")

ASKED = recorded_request(RECEIPT)
ANYWHERE = Place(pool_id=None, model_ref="haiku")


def receipt(request: TaskRequest, **more: Any) -> Receipt:  # noqa: ANN401 - any field
    return replace(RECEIPT, request=msgspec.Raw(canonical(request)), **more)


def pool(pool_id: str = "trial", model: str = "haiku", digest: str | None = None) -> Capability:
    return Capability(
        pool_id=pool_id,
        engine=Engine.LLAMACPP,
        provisioning_mode=Mode.PACKAGE,
        model_ref=f"/srv/models/{model}.gguf",
        model_id=model,
        model_digest=digest,
        ctx_max=512,
        slots=1,
        workloads=(),
        features=(),
        sampler_profile_version="v1",
        queue=QueueInfo(capacity=1, policy=FullPolicy.REJECT, depth=0),
        devices=(),
        ready=True,
    )


def test_the_request_is_asked_as_it_was_without_what_was_of_the_first_run_alone() -> None:
    given = replace(
        ASKED,
        task_id="poem-1",
        session_id="moon",
        deadline_ms=50,
        seed=None,
        sampling=Sampling(temperature=0.5, stop=("x",)),
        placement=Placement(mode=PlacementMode.PREFER, prefer=("other",)),
    )
    again = asked_again(given, receipt(given, seed=99), Place(pool_id="trial", model_ref="haiku"), "cli-1")
    assert again == replace(
        given,
        task_id="cli-1",
        session_id=None,
        deadline_ms=None,
        seed=99,
        placement=Placement(mode=PlacementMode.PIN, pool_id="trial"),
        on_disconnect=OnDisconnect.CANCEL,
    )
    assert asked_again(given, receipt(given), ANYWHERE, "cli-1").placement == Placement()


def test_a_schema_is_sent_with_its_members_as_the_client_had_them() -> None:
    text = '{"type":"object","properties":{"z":{},"a":{}}}'
    given = replace(ASKED, sampling=Sampling(json_schema=msgspec.json.decode(text)))
    kept = receipt(given, json_schema=text)
    assert text.encode() not in bytes(kept.request)
    sent = msgspec.json.encode(asked_again(recorded_request(kept), kept, ANYWHERE, "cli-1"))
    assert b'"json_schema":' + text.encode() in sent


def test_a_request_without_its_texts_cannot_be_asked() -> None:
    with pytest.raises(CannotAskError, match="too long to be kept"):
        recorded_request(receipt(replace(ASKED, prompt=None), cut=True))
    cut_answer = receipt(ASKED, cut=True, transcript=None)
    assert recorded_request(cut_answer) == ASKED


def test_a_request_of_another_version_cannot_be_asked() -> None:
    with pytest.raises(CannotAskError, match="cannot be read"):
        recorded_request(replace(RECEIPT, request=msgspec.Raw(b'{"model_ref":"m","novelty":1}')))
    with pytest.raises(CannotAskError, match="schema"):
        asked_again(ASKED, replace(RECEIPT, json_schema="nonsense"), ANYWHERE, "cli-1")


# --- where ------------------------------------------------------------------------------------------------------------


def test_the_recorded_pool_is_asked_where_it_is_there() -> None:
    assert place_of(RECEIPT, ASKED, (pool("other"), pool()), None) == Place(pool_id="trial", model_ref="haiku")


def test_a_model_that_has_another_name_now_is_found_by_its_digest() -> None:
    served = RECEIPT.engine
    assert served is not None
    renamed = pool("trial", "epic", served.model_digest)
    assert place_of(RECEIPT, ASKED, (renamed,), None) == Place(pool_id="trial", model_ref="/srv/models/epic.gguf")
    elsewhere = place_of(RECEIPT, ASKED, (pool("b"), pool("a", "epic", served.model_digest)), None)
    assert (elsewhere.pool_id, elsewhere.model_ref) == ("a", "/srv/models/epic.gguf")
    assert elsewhere.note == "pool trial is not there any more: asked of pool a, which has the same model"


def test_without_the_pool_and_its_model_whoever_serves_the_name_is_asked() -> None:
    found = place_of(RECEIPT, ASKED, (pool("trial", "epic"), pool("b")), None)
    assert (found.pool_id, found.model_ref) == (None, "haiku")
    assert found.note == "pool trial serves another: asked of whichever pool serves the model"


def test_the_pool_that_is_wanted_is_asked_for_its_own_model() -> None:
    there = (pool("trial"), pool("b", "epic"))
    assert place_of(RECEIPT, ASKED, there, "b") == Place(pool_id="b", model_ref="/srv/models/epic.gguf")
    with pytest.raises(CannotAskError, match="there is no pool 'c'") as refused:
        place_of(RECEIPT, ASKED, there, "c")
    assert refused.value.hint == "pools: trial, b"


def test_a_task_that_never_ran_goes_wherever_it_may() -> None:
    assert place_of(replace(RECEIPT, engine=None), ASKED, (pool(),), None) == ANYWHERE


# --- what one should know ---------------------------------------------------------------------------------------------


def test_what_makes_the_comparison_weaker_is_said() -> None:
    assert notes_of(RECEIPT, ASKED) == []
    secret = receipt(replace(ASKED, prompt="my key is ***"), redacted=True, attempts=2)
    notes = notes_of(secret, replace(ASKED, session_id="moon"))
    assert [note.partition(":")[0] for note in notes] == [
        "a secret was taken out of the request",
        "it was a turn of the session moon",
        "it was given to 2 replicas",
    ]


@pytest.mark.parametrize("workload", list(Workload))
def test_embeddings_and_reranks_give_results(workload: Workload) -> None:
    assert gives_results(replace(ASKED, workload=workload)) is (workload in {Workload.EMBEDDING, Workload.RERANK})
