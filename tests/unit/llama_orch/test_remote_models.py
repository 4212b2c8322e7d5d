"""The models of another machine: what is asked of its daemon, and what is made of jobs that go well and badly."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from contracts.catalog import CatalogJob, CatalogModel, JobKind, JobState, VerifyReason, VerifyResult
from contracts.config import Engine
from contracts.engines import ModelState
from daemon_core.errors import StartupError
from daemon_core.token import ApiToken
from llama_orch.errors import ApiError
from llama_orch.models import remote
from llama_orch.models.remote import RemoteShelf
from llama_orch.models.values import Wish
from llama_orch.session import Session
from model_provisioner.sources.base import Transferred
from tests.unit.llama_orch.fake import TOKEN, FakeDaemon

MODEL = CatalogModel(
    id="m", ref="hf:o/r/m.gguf", state=ModelState.ACTIVE, local_path="/c/m.gguf", size_bytes=9, fetched=True
)


class Said:
    """What is shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def moved(self, at: Transferred) -> None:
        raise AssertionError("nothing is told of bytes")


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def shelf(fake: FakeDaemon, url: str, monkeypatch: pytest.MonkeyPatch) -> RemoteShelf:
    monkeypatch.setattr(remote, "LOOK_S", 0)
    fake.models["m"] = MODEL
    token = ApiToken(value=TOKEN, source="a test")
    return RemoteShelf(Session(config_path=Path("/none"), config=None, token=token, url=url))


def job(kind: JobKind, state: JobState, message: str = "", **more: object) -> CatalogJob:
    known: dict[str, object] = {"number": 1, "model_id": "m", "asked_id": "m", "model_ref": MODEL.ref, "started_ms": 1}
    return msgspec.convert(known | {"kind": kind, "state": state, "message": message} | more, CatalogJob)


def coming(state: JobState, message: str = "", **more: object) -> CatalogModel:
    return CatalogModel(id="m", ref=MODEL.ref, job=job(JobKind.PULL, state, message, **more))


async def test_models_are_listed_and_found_by_id_and_by_reference(shelf: RemoteShelf) -> None:
    assert [known.model for known in (await shelf.stock()).models] == [MODEL]
    for name in ("m", "hf:o/r/m.gguf", "hf://o/r/m.gguf", "/c/m.gguf"):
        assert (await shelf.details(name)).known.model == MODEL
    with pytest.raises(ApiError, match="there is no model 'n'"):
        await shelf.details("n")


async def test_a_pull_is_watched_to_its_end(fake: FakeDaemon, shelf: RemoteShelf, said: Said) -> None:
    running = [coming(JobState.RUNNING, f"downloaded {part} % of 9 bytes") for part in (5, 5, 10)]
    fake.model_next = [coming(JobState.WAITING), *running, replace(MODEL, job=job(JobKind.PULL, JobState.DONE))]
    pulled = await shelf.pull(Wish(ref=MODEL.ref, digest="a" * 64, pinned=True), said)
    assert pulled.known.model.state is ModelState.ACTIVE
    assert said.lines == ["m: downloaded 5 % of 9 bytes", "m: downloaded 10 % of 9 bytes"]
    path, body = fake.asked[0]
    assert path == "/v1/catalog/models"
    assert msgspec.json.decode(body) == {"model_ref": MODEL.ref, "digest": "a" * 64, "pinned": True, "id": None}


async def test_what_is_there_already_is_the_answer_at_once(fake: FakeDaemon, shelf: RemoteShelf, said: Said) -> None:
    assert (await shelf.pull(Wish(ref=MODEL.ref), said)).known.model == MODEL
    assert len(fake.asked) == 1


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (coming(JobState.FAILED, "no network", cause="model_fetch", hint="wait"), "MODEL_FETCH"),
        (coming(JobState.CANCELED), "CONFLICT"),
        (CatalogModel(id="m", ref=MODEL.ref), "CONFLICT"),
    ],
)
async def test_a_pull_that_fails_there_is_told_here(
    fake: FakeDaemon, shelf: RemoteShelf, said: Said, end: CatalogModel, code: str
) -> None:
    fake.model_next = [coming(JobState.RUNNING), end]
    with pytest.raises(ApiError) as caught:
        await shelf.pull(Wish(ref=MODEL.ref), said)
    assert caught.value.code == code
    assert caught.value.hint


@pytest.mark.parametrize("wish", [Wish(ref="hf:o/r", refresh=True), Wish(ref="hf:o/r", engine=Engine.VLLM)])
async def test_what_cannot_be_wished_for_elsewhere_is_wrong_usage(
    fake: FakeDaemon, shelf: RemoteShelf, said: Said, wish: Wish
) -> None:
    with pytest.raises(StartupError) as caught:
        await shelf.pull(wish, said)
    assert caught.value.exit_code == 2
    assert fake.asked == []


async def test_a_verification_is_watched_and_its_result_told(fake: FakeDaemon, shelf: RemoteShelf, said: Said) -> None:
    wrong = job(JobKind.VERIFY, JobState.DONE, "it is another", result="failed", reason="digest_mismatch", hint="pull")
    fake.model_next = [
        replace(MODEL, job=job(JobKind.VERIFY, JobState.RUNNING, "reading m.gguf, 9 bytes")),
        replace(MODEL, job=wrong),
    ]
    verdict = await shelf.verify("hf:o/r/m.gguf", said)
    assert (verdict.result, verdict.reason) == (VerifyResult.FAILED, VerifyReason.DIGEST_MISMATCH)
    assert (verdict.message, verdict.hint, verdict.good) == ("it is another", "pull", False)
    assert said.lines == ["m: reading m.gguf, 9 bytes"]


async def test_a_verification_that_broke_down_is_no_good_and_one_that_was_canceled_is_said(
    fake: FakeDaemon, shelf: RemoteShelf, said: Said
) -> None:
    fake.model_next = [replace(MODEL, job=job(JobKind.VERIFY, JobState.FAILED, "the disk", hint="look"))]
    assert (await shelf.verify("m", said)).result is VerifyResult.FAILED
    fake.asked.clear()
    fake.model_next = [replace(MODEL, job=job(JobKind.VERIFY, JobState.CANCELED))]
    with pytest.raises(ApiError, match="canceled"):
        await shelf.verify("m", said)


async def test_a_model_is_retired_and_removed_there(fake: FakeDaemon, shelf: RemoteShelf) -> None:
    await shelf.set_state("m", ModelState.RETIRED, "too old")
    path, body = fake.asked[-1]
    assert (path, msgspec.json.decode(body)) == (
        "/v1/catalog/models/m/state",
        {"state": "Retired", "reason": "too old"},
    )
    fake.models["m"] = replace(MODEL, pools=("gpu0",))
    asked = len(fake.asked)
    with pytest.raises(ApiError, match="used by pool gpu0"):
        await shelf.set_state("m", ModelState.RETIRED)
    assert len(fake.asked) == asked
    await shelf.set_state("m", ModelState.RETIRED, force=True)
    await shelf.set_state("m", ModelState.ACTIVE)
    removed = await shelf.remove("hf:o/r/m.gguf", keep_files=False)
    assert fake.asked[-1][0] == "/v1/catalog/models/m?files=true"
    assert (removed.freed_bytes, removed.own) == (None, False)
    fake.models["m"] = replace(MODEL, fetched=False)
    removed = await shelf.remove("m", keep_files=True)
    assert fake.asked[-1][0] == "/v1/catalog/models/m?files=false"
    assert (removed.freed_bytes, removed.own) == (0, True)
