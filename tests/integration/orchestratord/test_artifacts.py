"""Artifacts over HTTP and on the disk, and the records that tasks leave there."""

import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts import config
from contracts.artifacts import ArtifactKind, ArtifactRequest
from daemon_core.redaction import Redactor
from orchestratord.archive import Archive
from orchestratord.artifacts import ASIDE, ArtifactStore
from orchestratord.database import Database
from orchestratord.shelf import BLOCK_BYTES, Head, Sealed, sealed
from tests.integration.orchestratord.house import House, house
from tests.plugins.failures import OperatorSees
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn
from tests.unit.orchestratord.frames import frames_of
from tests.unit.orchestratord.world import config as settings_of
from tests.unit.orchestratord.world import pool

LIMITS = config.Artifacts()
NOW = 1_700_000_000_000


def made(text: str, created_ms: int = NOW) -> Sealed:
    """An artifact that holds this text."""
    return sealed(msgspec.json.encode(text), Head(kind=ArtifactKind.OTHER, created_ms=created_ms))


def store_at(folder: Path, now_ms: int = NOW, **limits: Any) -> ArtifactStore:  # noqa: ANN401 - any limit
    store = ArtifactStore(folder, config.Artifacts(**limits), lambda: now_ms)
    store.open()
    return store


@asynccontextmanager
async def archive_at(folder: Path, secret: str = "") -> AsyncIterator[Archive]:
    async with Archive(ArtifactStore(folder, LIMITS, lambda: NOW), Redactor((secret,)), lambda: NOW) as archive:
        yield archive


def given(content: Any, **changes: Any) -> ArtifactRequest:  # noqa: ANN401 - any JSON, any field
    return ArtifactRequest(content=msgspec.Raw(msgspec.json.encode(content)), **changes)


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-21")
async def test_an_artifact_is_kept_under_the_hash_of_its_canonical_form(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        body = {"content": {"b": 1, "a": [1.5, "é"]}, "kind": "plan", "tags": ["one", "two"]}
        async with here.client.post("/v1/artifacts", json=body) as answer:
            assert answer.status == 201
            info = await answer.json()
            assert answer.headers["Location"] == f"/v1/artifacts/{info['id']}"
        canonical = '{"a":[1.5,"é"],"b":1}'.encode()
        assert info["id"] == f"sha256:{hashlib.sha256(canonical).hexdigest()}"
        assert (info["kind"], info["tags"], info["size_bytes"]) == ("plan", ["one", "two"], len(canonical))
        read = await here.get(f"/v1/artifacts/{info['id']}")
        assert read == info | {"content": body["content"]}
        file = tmp_path / "artifacts" / info["id"].removeprefix("sha256:")
        assert hashlib.sha256(file.read_bytes().partition(b"\n")[2]).hexdigest() == file.name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.req("HP-21")
async def test_the_same_content_is_kept_once_and_its_first_word_stands(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        infos = []
        for text in (b'{"content":{"a":1,"b":2},"kind":"summary"}', b'{"content": {"b":2, "a":1}, "tags": ["x"]}'):
            async with here.client.post("/v1/artifacts", data=text) as answer:
                assert answer.status == 201
                infos.append(await answer.json())
        assert infos[0] == infos[1]
        assert len(list((tmp_path / "artifacts").iterdir())) == 1


@pytest.mark.req("HP-21")
@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        (b"{}", 400, "INVALID_PARAMS", "the required field 'content' is missing"),
        (b'{"content":1,"kind":"song"}', 400, "INVALID_PARAMS", "'song' is not one of: plan, summary"),
        (b'{"content":1,"tags":[""]}', 400, "INVALID_PARAMS", "tags[0]"),
        (b'{"content":1,"more":2}', 400, "INVALID_PARAMS", "unknown field 'more'"),
        (b'{"content":1e999}', 400, "INVALID_PARAMS", "content"),
        (b'{"content":%b}' % (b"9" * 5000), 400, "INVALID_PARAMS", "content"),
        (b'{"content":%b}' % (b"[" * 500 + b"]" * 500), 400, "INVALID_PARAMS", "nested too deeply"),
        (b'{"content":', 400, "INVALID_PARAMS", "the body is no JSON"),
    ],
)
async def test_what_cannot_be_kept_is_refused(tmp_path: Path, body: bytes, status: int, code: str, words: str) -> None:
    async with house(tmp_path) as here, here.client.post("/v1/artifacts", data=body) as answer:
        said = await answer.json()
        assert (answer.status, said["code"]) == (status, code)
        assert words in said["message"]


@pytest.mark.parametrize("name", ["sha256:" + "0" * 64, "0" * 64, "sha256:..%2f..%2fmanager.sock", "md5:0", "sha256:"])
async def test_an_artifact_that_is_not_there_is_not_found(tmp_path: Path, name: str) -> None:
    async with house(tmp_path) as here, here.client.get(f"/v1/artifacts/{name}") as answer:
        said = await answer.json()
        assert (answer.status, said["code"]) == (404, "NOT_FOUND")


@pytest.mark.req("ORCH-3811")
async def test_a_secret_is_taken_out_before_it_is_kept(tmp_path: Path) -> None:
    async with archive_at(tmp_path / "a", "the-token-of-this-house") as archive:
        info = await archive.put(given({"log": "the-token-of-this-house", "password": "x"}, tags=("hf_" + "a" * 20,)))
        assert info is not None
        assert info.redacted
        found = await archive.get(info.id)
        assert found is not None
        assert (bytes(found.content), found.tags) == (b'{"log":"***","password":"***"}', ("***",))
    assert b"the-token" not in b"".join(file.read_bytes() for file in (tmp_path / "a").iterdir())


# --- records ----------------------------------------------------------------------------------------------------------


def contents_of(database: Database) -> list[bytes]:
    return [receipt.content for receipt in database.receipts(0, 100)]


async def record_of(here: House, task_id: str) -> dict[str, Any]:
    status = await here.get(f"/v1/tasks/{task_id}")
    record = await here.get(f"/v1/artifacts/{status['artifact_id']}")
    assert (record["kind"], record["tags"]) == ("trace", ["task"])
    return dict(record["content"])


@pytest.mark.req("HP-21")
async def test_every_task_that_ends_leaves_a_record_at_once_and_for_good(tmp_path: Path) -> None:
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        done = await here.submit(seed=3)
        end = frames_of(await here.stream(done))[-1].data
        record = await record_of(here, done)
        assert (record["state"], record["end"]["finish_reason"]) == ("done", "length")
        assert hashlib.sha256(record["transcript"].encode()).hexdigest() == end["stream_sha256"]
        assert end["artifact_id"] == (await here.get(f"/v1/tasks/{done}"))["artifact_id"]
        engine.set(Knobs(fault=Fault.CLOSE, fault_after=2))
        failed = await here.submit()
        await here.stream(failed)
        record = await record_of(here, failed)
        assert (record["state"], record["error"]["code"], record["pieces"]) == ("failed", "WORKER_RESET", 2)
        engine.set(Knobs(fault=Fault.HANG, fault_after=1))
        canceled = await here.submit()
        await engine.until(lambda stats: stats.running == 1)
        assert await here.cancel(canceled) == 204
        record = await record_of(here, canceled)
        assert (record["state"], record["end"]["finish_reason"]) == ("canceled", "canceled")
        hanging = await here.submit()
        await engine.until(lambda stats: stats.running == 1)
    # The daemon has stopped, and what ended because of that has left its record, too.
    database = Database.opened(tmp_path / "data" / "tasks.sqlite3")
    states = {(each["task_id"], each["state"]) for each in map(msgspec.json.decode, contents_of(database))}
    database.close()
    assert states == {(done, "done"), (failed, "failed"), (canceled, "canceled"), (hanging, "failed")}


async def test_no_record_is_left_where_none_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = settings_of
    monkeypatch.setattr(
        "tests.integration.orchestratord.house.config",
        lambda *pools, **server: msgspec.structs.replace(
            plain(*pools, **server), artifacts=config.Artifacts(records=False)
        ),
    )
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url, pool()) as here:
        task_id = await here.submit()
        assert "artifact_id" not in frames_of(await here.stream(task_id))[-1].data
        assert (await here.get(f"/v1/tasks/{task_id}"))["artifact_id"] is None
    assert list((tmp_path / "artifacts").iterdir()) == []


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-21")
def test_a_restart_finds_what_was_kept_and_keeps_the_bounds_over_it(tmp_path: Path) -> None:
    first = store_at(tmp_path)
    for number, text in enumerate("abc"):
        first.put(made(text), durable=True)
        os.utime(tmp_path / made(text).name, (number, number))
    second = store_at(tmp_path, now_ms=3_000, max_bytes=2 * BLOCK_BYTES)
    kept = [second.get(made(text).name) for text in "abc"]
    assert [found is not None for found in kept] == [False, True, True]
    third = store_at(tmp_path, now_ms=3_000, max_age_ms=1_500)
    assert len(third.shelf) == 1
    assert {file.name for file in tmp_path.iterdir()} == {made("c").name}


@pytest.mark.req("HP-21")
def test_what_is_broken_or_foreign_is_set_aside_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, operator_sees: OperatorSees
) -> None:
    store = store_at(tmp_path)
    store.put(made("good"), durable=False)
    for name, content in ((made("torn").name, b'{"kind":"other","created_ms":1}\n"to'), (made("head").name, b"what")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "notes.txt").write_text("not ours")
    (tmp_path / f"{made('half').name}.new").write_text("unfinished")
    (tmp_path / made("dir").name).mkdir()
    again = store_at(tmp_path)
    assert f"2 files in {tmp_path} are no artifacts, and stand in {tmp_path / ASIDE} now: " in caplog.text
    assert [again.get(made(text).name) for text in ("torn", "head")] == [None, None]
    assert caplog.text.count("does not hold what its name says") == 2
    operator_sees("artifact/damaged", caplog.records[-1].message)
    assert (tmp_path / ASIDE / "notes.txt").read_text() == "not ours"
    assert {file.name for file in (tmp_path / ASIDE).iterdir()} == {
        "notes.txt",
        *(made(text).name for text in ("torn", "head", "dir")),
    }
    assert {file.name for file in tmp_path.iterdir()} == {ASIDE, made("good").name}
    found = again.get(made("good").name)
    assert found is not None
    assert again.put(made("torn"), durable=True).id == made("torn").id


@pytest.mark.req("HP-21")
def test_a_disk_that_takes_a_part_at_a_time_gets_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr("orchestratord.artifacts.os.write", lambda file, data: write(file, data[:7]))
    store = ArtifactStore(tmp_path, LIMITS, lambda: NOW)
    store.open()
    store.put(made("a text of some length"), durable=False)
    found = store.get(made("a text of some length").name)
    assert found is not None
    assert found.content == msgspec.Raw(b'"a text of some length"')


@pytest.mark.req("HP-21")
async def test_a_full_disk_costs_the_artifacts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, operator_sees: OperatorSees
) -> None:
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        kept = await here.submit()
        await here.stream(kept)
        async with here.client.post("/v1/artifacts", json={"content": "before"}) as answer:
            before = (await answer.json())["id"]

        def full(*_: object, **__: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as disk:
            disk.setattr("orchestratord.artifacts.os.open", full)
            async with here.client.post("/v1/artifacts", json={"content": "more"}) as answer:
                said = await answer.json()
                assert (answer.status, said["code"]) == (500, "INTERNAL")
                assert said["message"] == (
                    f"artifacts cannot be written in {tmp_path / 'artifacts'}: No space left on device"
                )
                assert "artifacts.max_bytes" in said["hint"]
            for _ in range(2):
                other = await here.submit()
                assert frames_of(await here.stream(other))[-1].event == "end"
        assert await here.get(f"/v1/artifacts/{before}")
        async with here.client.post("/v1/artifacts", json={"content": "after"}) as answer:
            assert answer.status == 201
    assert not list((tmp_path / "artifacts").glob("*.new"))
    operator_sees("artifact/full-disk", f"{said['code']}: {said['message']}\n  hint: {said['hint']}")
