"""The catalog of a running manager: models come, are verified, retired and forgotten, and pools are told."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts.catalog import CatalogJob
from contracts.engines import ModelState
from contracts.pools import Cause, PoolSnapshot, PoolState
from contracts.rpc import MAX_FRAME_BYTES, PoolSet, RpcCode
from tests.integration.pool_managerd.home import Home
from tests.integration.pool_managerd.support import Peer
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.timeout(120)


class Client:
    """A subscriber that also asks."""

    def __init__(self, peer: Peer, first: dict[str, Any]) -> None:
        self.peer = peer
        self.first = first

    async def ask(self, method: str, **params: object) -> dict[str, Any]:
        return await self.peer.call(method, **params)

    async def job(self, method: str, **params: object) -> CatalogJob:
        """Ask for a job, and wait for its end."""
        asked = await self.ask(method, **params)
        number = asked["result"]["number"]
        async with asyncio.timeout(30):
            while True:
                frame = await self.peer.next_told()
                if frame.get("method") == "catalog.job":
                    job = msgspec.convert(frame["params"], CatalogJob)
                    if job.number == number and job.over:
                        return job

    async def pool(self, holds: Callable[[PoolSnapshot], bool]) -> PoolSnapshot:
        """Wait for something that lasts, as what was told while an answer was awaited is not told again."""
        async with asyncio.timeout(30):
            seen = msgspec.convert((await self.ask("pool.list"))["result"], PoolSet).pools[0]
            while not holds(seen):
                frame = await self.peer.next_told()
                if frame.get("method") == "pool.changed":
                    told = msgspec.convert(frame["params"], PoolSnapshot)
                    seen = max(seen, told, key=lambda each: each.revision)
        return seen


@asynccontextmanager
async def client(home: Home) -> AsyncIterator[Client]:
    peer = Peer(*await asyncio.open_unix_connection(home.run / "pool-managerd.sock", limit=MAX_FRAME_BYTES))
    try:
        await peer.hello()
        yield Client(peer, (await peer.call("subscribe"))["result"])
    finally:
        peer.writer.close()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A model of this test's own, which it may spoil."""
    (tmp_path / "own").mkdir()
    return write_tiny_gguf(tmp_path / "own/served.gguf", ctx=256)


def entries(home: Home) -> dict[str, dict[str, Any]]:
    path = home.root / ".local/share/llama-orch/catalog/models.json"
    return dict(json.loads(path.read_text())["entries"])


def spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


@pytest.mark.req("CAT-03", "HP-20")
async def test_a_model_is_registered_verified_and_forgotten(home: Home, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "other.gguf", ctx=256)
    await home.start()
    async with client(home) as here:
        job = await here.job("catalog.put", model_ref=str(path), pinned=True, id="mine")
        assert (job.state, job.model_id, job.engine) == ("done", "mine", "none")
        entry = entries(home)["mine"]
        assert (entry["local_path"], entry["state"], entry["pinned"]) == (str(path), "Active", True)
        again = await here.job("catalog.put", model_ref=f"file:{path}")
        assert again.model_id == "mine"
        job = await here.job("catalog.verify", model_id="mine")
        assert (job.state, job.result, job.reason) == ("done", "ok", "matched")
        assert (await here.ask("catalog.delete", model_id="mine", files=True))["result"] == {}
        assert "mine" not in entries(home)
        assert path.exists(), "it is the user's own"


@pytest.mark.req("CAT-03")
@pytest.mark.parametrize(
    ("method", "params", "number", "texts"),
    [
        ("catalog.put", {"model_ref": "ftp://x/y"}, RpcCode.INVALID_PARAMS, ("is not one of", "https://host")),
        ("catalog.verify", {"model_id": "tinny"}, RpcCode.NOT_FOUND, ("there is no model 'tinny'", "'tiny'")),
        ("catalog.set_state", {"model_id": "x", "state": "Retired"}, RpcCode.NOT_FOUND, ("no model 'x'", "tiny")),
        ("catalog.set_state", {"model_id": "tiny", "state": "Gone"}, RpcCode.INVALID_PARAMS, ("Active, Retired", "")),
        ("catalog.delete", {"model_id": "tiny"}, RpcCode.CONFLICT, ("is needed by pool trial", "another model")),
        (
            "catalog.put",
            {"model_ref": "x.gguf", "id": "tiny"},
            RpcCode.CONFLICT,
            ("belongs to the model", "another id"),
        ),
    ],
)
async def test_what_is_refused(
    home: Home, method: str, params: dict[str, object], number: int, texts: tuple[str, str]
) -> None:
    await home.start()
    await home.ready()
    async with client(home) as here:
        error = (await here.ask(method, **params))["error"]
    assert error["code"] == number
    assert texts[0] in error["message"]
    assert texts[1] in (error.get("data") or {"hint": ""})["hint"]


@pytest.mark.req("CAT-03")
async def test_a_job_that_fails_says_why(home: Home, tmp_path: Path) -> None:
    await home.start()
    async with client(home) as here:
        job = await here.job("catalog.put", model_ref=str(tmp_path / "gone.gguf"))
    assert (job.state, job.cause) == ("failed", "model_missing")
    assert job.message == f"there is no model file {tmp_path / 'gone.gguf'}"
    assert job.hint


@pytest.mark.req("CAT-03")
async def test_a_pool_whose_model_turns_out_wrong_is_told_goes_on_and_does_not_start_with_it_again(
    homes: Callable[..., Home], own: Path
) -> None:
    # However often it is refused before the test says that it may.
    home = homes(own, restart={"initial_ms": 20, "max_ms": 50, "max_failures": 10_000})
    await home.start()
    ready = await home.ready()
    assert ready.model_state is ModelState.ACTIVE
    engine = home.engine()
    async with client(home) as here:
        spoil(own)
        job = await here.job("catalog.verify", model_id="served")
        assert (job.result, job.reason, job.engine) == ("failed", "digest_mismatch", "llamacpp")
        assert "pool trial needs it" in job.message
        told = await here.pool(lambda seen: seen.model_state is ModelState.RETIRED)
        assert told.state is PoolState.READY
        assert told.last_error is not None
        assert told.last_error.cause is Cause.MODEL_RETIRED
        assert "digest_mismatch" in told.last_error.message
        assert home.engine() == engine
        assert own.exists()

        await here.ask("pool.restart", pool_id="trial")
        failed = await here.pool(lambda seen: seen.state in {PoolState.BACKOFF, PoolState.BROKEN})
        assert failed.last_error is not None
        assert failed.last_error.cause is Cause.MODEL_RETIRED
        assert failed.last_error.message.startswith("the model served is Retired: verification: digest_mismatch")

        assert (await here.ask("catalog.set_state", model_id="served", state="Active"))["result"] == {}
        await here.pool(lambda seen: seen.ready and seen.model_state is ModelState.ACTIVE)
    assert entries(home)["served"]["state"] == "Active"


@pytest.mark.req("CAT-03")
async def test_a_model_that_somebody_else_retired_is_noticed(home: Home) -> None:
    await home.start()
    await home.ready()
    path = home.root / ".local/share/llama-orch/catalog/models.json"
    async with client(home) as here:
        path.with_suffix(".new").write_text(path.read_text().replace('"Active"', '"Retired"'))
        path.with_suffix(".new").replace(path)
        told = await here.pool(lambda seen: seen.model_state is ModelState.RETIRED)
        assert told.ready


@pytest.mark.req("CAT-04")
async def test_a_damaged_index_is_said_to_everybody_and_written_down(home: Home) -> None:
    manager = await home.start()
    await home.ready()
    await manager.close()
    folder = home.root / ".local/share/llama-orch"
    (folder / "catalog/models.json").write_text("damaged")
    (folder / "catalog/engines.json").write_text("damaged")
    await home.start()
    async with client(home) as here:
        notice, other = here.first["notices"]
    assert "engines.json could not be read" in other
    assert "kept as models.json.corrupt-1, 1 entries rebuilt" in notice
    lines = [json.loads(line) for line in (folder / "provenance/catalog.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["message"]) for line in lines] == [("recovered", notice), ("recovered", other)]
    assert list(entries(home)) == ["tiny"]


@pytest.mark.req("CAT-04")
@pytest.mark.parametrize("method", ["catalog.put", "catalog.set_state", "catalog.delete", "catalog.verify"])
async def test_a_change_mends_an_index_that_is_damaged_while_the_manager_runs(
    home: Home, tmp_path: Path, method: str
) -> None:
    path = write_tiny_gguf(tmp_path / "other.gguf", ctx=256)
    await home.start()
    await home.ready()  # the pool has written its own model down: nobody but the call changes the index now
    async with client(home) as here:
        await here.job("catalog.put", model_ref=str(path))
        folder = home.root / ".local/share/llama-orch"
        (folder / "catalog/models.json").write_text("damaged")
        more = {"model_ref": str(path)} if method == "catalog.put" else {"model_id": "other"}
        state = {"state": "Retired"} if method == "catalog.set_state" else {}
        assert "error" not in await here.ask(method, **more, **state)
    lines = [json.loads(line) for line in (folder / "provenance/catalog.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines].count("recovered") == 1
    assert (folder / "catalog/models.json.corrupt-1").exists()


@pytest.mark.req("CAT-03")
async def test_the_end_of_the_manager_ends_a_verification(home: Home, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "large.gguf", ctx=256)
    manager = await home.start()
    await home.ready()  # the pool has written its own model down: nobody but the call changes the index now
    async with client(home) as here:
        await here.job("catalog.put", model_ref=str(path))
        index = home.root / ".local/share/llama-orch/catalog/models.json"
        document = json.loads(index.read_text())
        os.truncate(path, 1 << 40)
        document["entries"]["large"]["size_bytes"] = 1 << 40
        index.write_text(json.dumps(document))
        asked = await here.ask("catalog.verify", model_id="large")
        assert asked["result"]["state"] == "waiting"
        while (await here.peer.next_told()).get("params", {}).get("message", "") == "":
            pass
    assert await manager.kill(signal.SIGTERM) == 0


@pytest.mark.req("CAT-03")
async def test_a_pull_is_joined_only_by_who_wants_the_same(home: Home, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    path = write_tiny_gguf(tmp_path / "large.gguf", ctx=256)
    other = write_tiny_gguf(tmp_path / "second/large.gguf", ctx=512)
    os.truncate(path, 1 << 40)  # a hole of a terabyte: reading it takes longer than anybody waits
    await home.start()
    async with client(home) as here:
        job = (await here.ask("catalog.put", model_ref=str(path)))["result"]
        same = (await here.ask("catalog.put", model_ref=f"file:{path}"))["result"]
        assert same["number"] == job["number"]
        for more in ({"digest": "0" * 64}, {"pinned": True}):
            error = (await here.ask("catalog.put", model_ref=str(path), **more))["error"]
            assert error["message"] == "large is being pulled already, with another digest or another pin"
        error = (await here.ask("catalog.put", model_ref=str(other), id="large"))["error"]
        assert error["message"] == f"the id 'large' is being given to the model {path}"
        second = (await here.ask("catalog.put", model_ref=str(other)))["result"]
        assert (second["model_ref"], second["number"]) == (str(other), job["number"] + 1)
        assert second["asked_id"].startswith("large-")
        assert (await here.ask("catalog.delete", model_id="large"))["result"] == {}
        async with asyncio.timeout(30):
            while (frame := await here.peer.next_told()).get("params", {}).get("model_id") != "large" or (
                frame["params"].get("number"),
                frame["params"].get("state"),
            ) != (second["number"], "done"):
                pass
        assert entries(home)["large"]["local_path"] == str(other)


@pytest.mark.req("CAT-03", "HP-20")
async def test_the_end_of_a_model_ends_its_jobs_and_a_refused_one_ends_none(home: Home, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "large.gguf", ctx=256)
    os.truncate(path, 1 << 40)  # a hole of a terabyte: reading it takes longer than anybody waits
    await home.start()
    await home.ready()
    async with client(home) as here:
        job = (await here.ask("catalog.put", model_ref=str(path)))["result"]
        error = (await here.ask("catalog.delete", model_id="tiny"))["error"]
        assert error["code"] == RpcCode.CONFLICT
        async with asyncio.timeout(30):
            while (frame := await here.peer.next_told()).get("params", {}).get("state") != "running":
                pass
        assert frame["params"]["number"] == job["number"]
        assert (await here.ask("catalog.delete", model_id="large"))["result"] == {}
        assert (await here.ask("catalog.delete", model_id="large"))["error"]["code"] == RpcCode.NOT_FOUND
        assert [each["state"] for each in (await here.ask("subscribe"))["result"]["jobs"]] == ["canceled"]
