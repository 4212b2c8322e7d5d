"""The catalog over HTTP: what is read from the index, and what is asked of pool-managerd."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from catalog_core.models import FsModelCatalog
from contracts import rpc
from contracts.catalog import CatalogJob, JobKind, JobState, VerifyReason, VerifyResult
from contracts.engines import ModelEntry, ModelState
from contracts.pools import Cause, PoolError
from contracts.rpc import Method, Push
from orchestratord.metrics import MAX_MODELS
from tests.integration.orchestratord.house import House, house
from tests.integration.orchestratord.manager import Manager, listening, params
from tests.integration.orchestratord.test_control import linked
from tests.standin.knobs import Knobs
from tests.standin.server import StandIn
from tests.unit.orchestratord.world import MODEL, snapshot

ENTRY = ModelEntry(
    id="m",
    ref="https://example.org/m.gguf?signature=secret",
    local_path="/cache/m.gguf",
    size_bytes=7,
    digest="sha256:0",
    ctx_max=256,
    arch="llama",
    quant="F16",
    fetched=True,
    created_ms=5,
)
JOB = CatalogJob(
    number=1,
    kind=JobKind.PULL,
    model_id="m",
    asked_id="m",
    model_ref="hf:org/m",
    state=JobState.WAITING,
    started_ms=9,
)


def catalog_of(folder: Path, *entries: ModelEntry) -> FsModelCatalog:
    catalog = FsModelCatalog(folder / "catalog")
    for entry in entries:
        catalog.put(entry, now_ms=5)
    return catalog


def push(job: CatalogJob) -> bytes:
    return rpc.notification(Push.CATALOG_JOB, job)


async def post(here: House, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    async with here.client.post(path, json=body) as answer:
        return answer.status, await answer.json()


# --- what there is ----------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-20")
async def test_the_catalog_is_shown_without_pool_managerd_and_without_secrets(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, ENTRY, replace(ENTRY, id="old", ref="old.gguf", digest=""))
    catalog.set_state("old", ModelState.RETIRED, "too slow")
    async with house(tmp_path) as here:
        shown = (await here.get("/v1/catalog/models"))["models"]
        assert [(each["id"], each["state"], each["state_reason"], each["digest"]) for each in shown] == [
            ("m", "Active", None, "sha256:0"),
            ("old", "Retired", "too slow", None),
        ]
        one = await here.get("/v1/catalog/models/m")
        assert one == shown[0]
        assert one["ref"] == "https://example.org/m.gguf"
        assert (one["fetched"], one["pools"], one["job"], one["created_ms"]) == (True, [], None, 5)
        retired = (await here.get("/v1/catalog/models?state=Retired"))["models"]
        assert [each["id"] for each in retired] == ["old"]
        catalog.delete("old")
        assert [each["id"] for each in (await here.get("/v1/catalog/models"))["models"]] == ["m"]


@pytest.mark.req("HP-20")
async def test_the_pools_of_a_model_are_shown(tmp_path: Path) -> None:
    catalog_of(tmp_path, replace(ENTRY, ref=MODEL))
    async with house(tmp_path, "http://127.0.0.1:1") as here:
        assert (await here.get("/v1/catalog/models/m"))["pools"] == ["p"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v1/catalog/models/haikku", 404, "did you mean 'haiku'?"),
        ("GET", "/v1/catalog/models?state=Gone", 400, "is not one of: Active, Retired"),
        ("DELETE", "/v1/catalog/models/haiku?files=yes", 400, "is not one of: true, false"),
        ("POST", "/v1/catalog/models/haiku/verify", 503, "pool-managerd cannot be reached"),
    ],
)
async def test_what_cannot_be_answered_says_why(
    tmp_path: Path, method: str, path: str, status: int, words: str
) -> None:
    catalog_of(tmp_path, replace(ENTRY, id="haiku"))
    async with house(tmp_path) as here, here.client.request(method, path) as answer:
        assert answer.status == status
        assert words in await answer.text()


async def test_an_index_that_cannot_be_read_is_an_error_and_no_metric_is_lost(tmp_path: Path) -> None:
    catalog_of(tmp_path, ENTRY)
    async with house(tmp_path) as here:
        await here.get("/v1/catalog/models")
        (tmp_path / "catalog/models.json").write_text("damaged")
        async with here.client.get("/v1/catalog/models") as answer:
            told = await answer.json()
        assert (answer.status, told["code"]) == (500, "INTERNAL")
        assert "cannot be read as an index" in told["message"]
        assert told["hint"].startswith("the next change moves it aside and rebuilds it")
        async with here.client.get("/metrics") as answer:
            assert 'model_state{model_id="m",state="Active"} 1.0' in await answer.text()


# --- what an operator does --------------------------------------------------------------------------------------------


@pytest.mark.req("HP-20")
async def test_a_model_that_is_here_is_complete_in_the_answer(tmp_path: Path) -> None:
    manager = Manager(snapshot("p"))

    def put(request: rpc.Request) -> bytes:
        catalog_of(tmp_path, ENTRY)
        done = replace(JOB, state=JobState.DONE, message="here", ended_ms=10)
        return push(JOB) + rpc.answer(request.id, JOB) + push(done)

    manager.answers[Method.CATALOG_PUT] = put
    async with listening(manager, tmp_path / "manager.sock"), house(tmp_path) as here, asyncio.TaskGroup() as group:
        running = await linked(here, group)
        body = {"model_ref": "hf:org/m", "digest": "a" * 64, "pinned": True, "id": "m"}
        async with here.client.post("/v1/catalog/models", json=body) as answer:
            told = await answer.json()
        assert (answer.status, answer.headers["Location"]) == (201, "/v1/catalog/models/m")
        assert (told["state"], told["job"]["state"]) == ("Active", "done")
        assert params(manager.asked[-1]) == body
        running.cancel()


@pytest.mark.req("HP-20")
async def test_a_model_that_has_to_be_fetched_is_answered_for_at_once_and_followed_by_its_job(tmp_path: Path) -> None:
    manager = Manager(snapshot("p"))
    manager.answers[Method.CATALOG_PUT] = lambda request: push(JOB) + rpc.answer(request.id, JOB)
    async with listening(manager, tmp_path / "manager.sock"), house(tmp_path) as here, asyncio.TaskGroup() as group:
        running = await linked(here, group)
        status, told = await post(here, "/v1/catalog/models", {"model_ref": "hf:org/m"})
        assert (status, told["id"], told["state"], told["job"]["state"]) == (201, "m", None, "waiting")
        fetching = replace(JOB, state=JobState.RUNNING, message="5 of 10 GiB")
        manager.say(push(fetching))
        await until_job(here, "running")
        assert (await here.get("/v1/catalog/models/m"))["job"]["message"] == "5 of 10 GiB"
        assert [each["id"] for each in (await here.get("/v1/catalog/models"))["models"]] == ["m"]
        manager.say(push(replace(fetching, state=JobState.FAILED, cause="model_fetch", message="no", hint="mend")))
        await until_job(here, "failed")
        running.cancel()


async def until_job(here: House, state: str) -> None:
    while (await here.get("/v1/catalog/models/m"))["job"]["state"] != state:
        pass  # the next answer comes over the network, so others have their turn


@pytest.mark.parametrize(
    ("cause", "status", "code", "field"),
    [
        ("model_missing", 400, "INVALID_PARAMS", "model_ref"),
        ("model_digest", 409, "CONFLICT", None),
        ("model_fetch", 503, "MODEL_UNAVAILABLE", None),
        ("policy_denied", 403, "POLICY_DENIED", None),
        ("a cause of a newer version", 500, "INTERNAL", None),
    ],
)
async def test_a_registration_that_fails_at_once_is_an_error(
    tmp_path: Path, cause: str, status: int, code: str, field: str | None
) -> None:
    manager = Manager(snapshot("p"))
    failed = replace(JOB, state=JobState.FAILED, cause=cause, message="it failed", hint="do this")
    manager.answers[Method.CATALOG_PUT] = lambda request: rpc.answer(request.id, failed)
    async with listening(manager, tmp_path / "manager.sock"), house(tmp_path) as here, asyncio.TaskGroup() as group:
        running = await linked(here, group)
        found, told = await post(here, "/v1/catalog/models", {"model_ref": "gone.gguf"})
        assert (found, told["code"], told["message"], told["hint"]) == (status, code, "it failed", "do this")
        assert told.get("field") == field
        running.cancel()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "model_ref: the required field"),
        ({"model_ref": " "}, "model_ref"),
        ({"model_ref": "m", "digest": "sha256:zz"}, "digest"),
        ({"model_ref": "m", "id": "../m"}, "id"),
        ({"model_ref": "m", "pined": True}, "did you mean 'pinned'?"),
    ],
)
async def test_a_registration_that_makes_no_sense_is_refused(tmp_path: Path, body: dict[str, Any], words: str) -> None:
    async with house(tmp_path) as here:
        status, told = await post(here, "/v1/catalog/models", body)
        assert (status, told["code"]) == (400, "INVALID_PARAMS")
        assert words in f"{told['message']} {told.get('hint')} {told['field']}"


@pytest.mark.req("HP-20", "CAT-03")
async def test_a_model_is_retired_and_deleted(tmp_path: Path) -> None:
    manager = Manager(snapshot("p"))
    catalog = catalog_of(tmp_path, ENTRY)

    def set_state(request: rpc.Request) -> bytes:
        catalog.set_state("m", ModelState.RETIRED, "why not")
        return rpc.answer(request.id, rpc.Empty())

    manager.answers[Method.CATALOG_SET_STATE] = set_state
    async with listening(manager, tmp_path / "manager.sock"), house(tmp_path) as here, asyncio.TaskGroup() as group:
        running = await linked(here, group)
        body = {"state": "Retired", "reason": "why not"}
        status, told = await post(here, "/v1/catalog/models/m/state", body)
        assert (status, told["state"], told["state_reason"]) == (202, "Retired", "why not")
        assert params(manager.asked[-1]) == {"model_id": "m", **body}
        for query, files in (("", False), ("?files=true", True)):
            async with here.client.delete(f"/v1/catalog/models/m{query}") as answer:
                assert (answer.status, await answer.read()) == (204, b"")
            assert params(manager.asked[-1]) == {"model_id": "m", "files": files}
        running.cancel()


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [(rpc.RpcCode.NOT_FOUND, 404, "NOT_FOUND"), (rpc.RpcCode.CONFLICT, 409, "CONFLICT")],
)
async def test_what_the_manager_refuses_is_told_with_its_mend(
    tmp_path: Path, number: int, status: int, code: str
) -> None:
    manager = Manager(snapshot("p"))
    manager.answers[Method.CATALOG_DELETE] = lambda request: rpc.refusal(request.id, number, "no", {"hint": "mend"})
    async with listening(manager, tmp_path / "manager.sock"), house(tmp_path) as here, asyncio.TaskGroup() as group:
        running = await linked(here, group)
        async with here.client.delete("/v1/catalog/models/m") as answer:
            told = await answer.json()
        assert (answer.status, told["code"], told["message"], told["hint"]) == (status, code, "no", "mend")
        running.cancel()


# --- metrics and admission --------------------------------------------------------------------------------------------


@pytest.mark.req("CAT-03")
async def test_a_verification_is_counted_once_when_it_ends(tmp_path: Path) -> None:
    manager = Manager(snapshot("p"))
    catalog_of(tmp_path, ENTRY)
    job = replace(JOB, kind=JobKind.VERIFY, engine="llamacpp")
    over = replace(
        job, state=JobState.DONE, result=VerifyResult.FAILED, reason=VerifyReason.DIGEST_MISMATCH, message="wrong"
    )
    manager.answers[Method.CATALOG_VERIFY] = lambda request: push(job) + rpc.answer(request.id, job)
    name = 'catalog_verifications_total{engine="llamacpp",reason="digest_mismatch",result="failed"}'
    async with listening(manager, tmp_path / "manager.sock"), house(tmp_path) as here, asyncio.TaskGroup() as group:
        running = await linked(here, group)
        status, told = await post(here, "/v1/catalog/models/m/verify")
        assert (status, told["job"]["kind"], told["job"]["state"]) == (202, "verify", "waiting")
        manager.say(push(over) + push(over))
        await until_job(here, "done")
        assert (await here.get("/v1/catalog/models/m"))["job"]["reason"] == "digest_mismatch"
        async with here.client.get("/metrics") as answer:
            assert f"{name} 1.0" in await answer.text()
        running.cancel()


@pytest.mark.req("CAT-03")
async def test_every_catalogued_model_has_its_state_in_the_metrics_up_to_a_bound(tmp_path: Path) -> None:
    catalog = catalog_of(tmp_path, ENTRY, replace(ENTRY, id="old"))
    catalog.set_state("old", ModelState.RETIRED)
    async with house(tmp_path, "http://127.0.0.1:1", report={"model_id": "served"}) as here:
        async with here.client.get("/metrics") as answer:
            lines = {line for line in (await answer.text()).splitlines() if line.startswith("model_state{")}
        assert lines == {
            f'model_state{{model_id="{name}",state="{state}"}} {value}'
            for name, active in (("m", True), ("old", False), ("served", True))
            for state, value in (("Active", float(active)), ("Retired", float(not active)))
        }
        many = {f"m{number}": replace(ENTRY, id=f"m{number}") for number in range(MAX_MODELS + 5)}
        here.catalog._entries = many  # noqa: SLF001 - writing so many one by one takes a minute
        family = next(each for each in here.metrics.registry.collect() if each.name == "model_state")
        assert len(family.samples) == 2 * MAX_MODELS
        assert family.samples[0].labels["model_id"] == "served"


@pytest.mark.req("CAT-03")
async def test_a_retired_model_gets_no_new_task_and_what_runs_finishes(tmp_path: Path) -> None:
    why = PoolError(cause=Cause.MODEL_RETIRED, message="m was taken out of use", hint="reload", at_ms=1)
    async with StandIn(Knobs(tokens=20)) as engine, house(tmp_path, engine.url) as here:
        task = await here.submit(max_tokens=20)
        here.report(engine.url, model_state=ModelState.RETIRED, last_error=why)
        status, told = await post(here, "/v1/tasks", {"model_ref": MODEL, "prompt": "x"})
        assert (status, told["code"], told["field"]) == (503, "MODEL_UNAVAILABLE", "model_ref")
        assert told["message"] == f"the model {MODEL!r} is Retired: m was taken out of use"
        assert "event: end" in (await here.stream(task)).decode()
        here.report(engine.url, model_state=ModelState.ACTIVE)
        await here.submit()
