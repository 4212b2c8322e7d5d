"""Fetches into a cache with a limit, from a real server: what goes, what stays, what is spoiled and fetched again."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog_core.models import FsModelCatalog
from contracts.catalog import VerifyReason
from contracts.config import Engine, Models
from contracts.engines import ModelState, ResolvedModel
from contracts.pools import Cause
from model_provisioner.cache import BUSY_MS, ModelCache
from model_provisioner.digest import DigestMemory
from model_provisioner.errors import ModelError
from model_provisioner.holds import Hold
from model_provisioner.provisioner import ModelProvisioner
from model_provisioner.survivors import surviving
from model_provisioner.verify import ModelVerifier
from tests.integration.model_provisioner.pulling import NOW, Puller
from tests.support.file_server import FileServer
from tests.support.hub import Hub
from tests.unit.model_provisioner.heads import write_directory, write_model


class Room:
    """A provisioner with a limit."""

    def __init__(self, puller: Puller, max_bytes: int | None) -> None:
        self.puller = puller
        self.holds: list[Hold] = []
        self.now = NOW
        self.catalog = puller.catalog
        self.cache = ModelCache(
            puller.cache,
            self.catalog,
            settings=Models(max_bytes=max_bytes),
            journal=puller.provenance,
            base_dir=puller.root,
            clock=self.clock,
            holds=lambda: self.holds,
        )
        self.provisioner = ModelProvisioner(
            cache_dir=puller.cache,
            catalog=self.catalog,
            provenance=puller.provenance,
            base_dir=puller.root,
            clock=self.clock,
            gate=puller.gate(),
            environ=puller.environ,
            room=self.cache,
        )
        digests = DigestMemory(puller.cache / "digests.json")
        self.verifier = ModelVerifier(self.catalog, self.cache, digests, journal=puller.provenance, clock=self.clock)

    def clock(self) -> int:
        self.now += 1
        return self.now

    async def pull(self, ref: str, *, revive: bool = False) -> ResolvedModel:
        return await self.provisioner.ensure_present(ref, None, self.puller.say, revive=revive)

    def ids(self) -> list[str]:
        return [entry.id for entry in self.catalog.list()]


def spoil(path: Path) -> None:
    """Change the last byte and nothing that stat shows."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.req("MP-06")
async def test_a_fetch_makes_room_by_removing_what_was_not_used_for_longest(
    server: FileServer, puller: Puller, haiku: bytes
) -> None:
    room = Room(puller, int(2.5 * len(haiku)))
    for name in "abc":
        server.files[f"/{name}.gguf"] = haiku
    await room.pull(server.url("/a.gguf"))
    await room.pull(server.url("/b.gguf"))
    await room.pull(server.url("/a.gguf"))  # it is here, and used
    await room.pull(server.url("/c.gguf"))
    assert room.ids() == ["a", "c"]
    assert len(puller.left(".gguf")) == 2
    assert f"removed b from the cache, {len(haiku)} bytes" in puller.said
    asked = len(server.asked)
    await room.pull(server.url("/b.gguf"))
    assert len(server.asked) > asked, "what was removed is not remembered as here"
    assert room.ids() == ["b", "c"]


@pytest.mark.req("MP-06")
async def test_what_a_pool_needs_stays_and_the_fetch_is_refused_with_the_numbers(
    server: FileServer, puller: Puller, haiku: bytes
) -> None:
    room = Room(puller, int(1.5 * len(haiku)))
    server.files["/a.gguf"] = server.files["/b.gguf"] = haiku
    first = server.url("/a.gguf?token=sesame")
    await room.pull(first)
    room.holds = [Hold(by="pool gpu0", ref=first)]
    with pytest.raises(ModelError) as caught:
        await room.pull(server.url("/b.gguf"))
    assert caught.value.cause is Cause.MODEL_FETCH
    assert caught.value.message.endswith(f"and what is there is held: a ({len(haiku)} bytes) by pool gpu0")
    assert room.ids() == ["a"]
    assert server.sent.get("/b.gguf", 0) <= 1
    room.holds = []
    await room.pull(server.url("/b.gguf"))
    assert room.ids() == ["b"]


@pytest.mark.req("CAT-03", "MP-03")
async def test_a_spoiled_model_is_retired_set_aside_refused_and_fetched_again_when_asked_for_by_name(
    server: FileServer, puller: Puller, haiku: bytes
) -> None:
    room = Room(puller, None)
    server.files["/a.gguf"] = haiku
    ref = server.url("/a.gguf")
    model = await room.pull(ref)
    spoil(Path(model.local_path))
    assert (await room.verifier.verify("a", puller.say)).reason is VerifyReason.DIGEST_MISMATCH
    with pytest.raises(ModelError, match="the model a is Retired: verification: digest_mismatch"):
        await room.pull(ref)
    again = await room.pull(ref, revive=True)
    assert again == model
    assert Path(again.local_path).read_bytes() == haiku
    entry = room.catalog.get("a")
    assert (entry.state, entry.state_reason) == (ModelState.ACTIVE, None)
    assert (await room.verifier.verify("a", puller.say)).reason is VerifyReason.MATCHED


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def overwrite(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


@pytest.mark.req("CAT-03", "MP-03")
@pytest.mark.parametrize(
    ("which", "harm"),
    [("*.safetensors", spoil), ("*.safetensors", cut), ("*.safetensors", overwrite), ("config.json", overwrite)],
)
async def test_of_a_model_of_many_files_only_the_spoiled_ones_are_set_aside(
    which: str, harm: Callable[[Path], None], the_hub: Hub, puller: Puller, tmp_path: Path
) -> None:
    room = Room(puller, None)
    files = {path.name: path.read_bytes() for path in write_directory(tmp_path / "m").iterdir()}
    the_hub.add("org/repo", files)
    model = await room.pull("hf:org/repo")
    before = {path.name for path in Path(model.local_path).iterdir()}
    spoiled = min(Path(model.local_path).glob(which))
    harm(spoiled)
    verdict = await room.verifier.verify(model.id, puller.say)
    assert verdict.retires
    assert before - {path.name for path in Path(model.local_path).iterdir()} == {spoiled.name}
    sent = the_hub.cdn.sent + the_hub.server.sent
    assert (await room.pull("hf:org/repo", revive=True)).digest == model.digest
    assert len(the_hub.cdn.sent + the_hub.server.sent - sent) <= 1


@pytest.mark.req("CAT-03", "MP-03")
async def test_of_a_split_model_only_the_part_is_set_aside_that_was_cut(
    the_hub: Hub, puller: Puller, tmp_path: Path
) -> None:
    room = Room(puller, None)
    write_model(tmp_path / "haiku.gguf", split=1)
    the_hub.add("org/split", {path.name: path.read_bytes() for path in tmp_path.glob("haiku-*.gguf")})
    model = await room.pull("hf:org/split")
    parts = sorted(Path(model.local_path).parent.iterdir())
    cut(parts[0])
    assert (await room.verifier.verify(model.id, puller.say)).retires
    assert sorted(Path(model.local_path).parent.iterdir()) == parts[1:]


@pytest.mark.req("CAT-04")
async def test_fetched_models_are_found_again_when_catalog_and_provenance_are_lost(
    server: FileServer, puller: Puller, haiku: bytes
) -> None:
    room = Room(puller, None)
    server.files["/a.gguf"] = haiku
    await room.pull(server.url("/a.gguf"))
    (puller.provenance / "models.jsonl").unlink()
    (room.catalog.root / "models.json").write_text("damaged")
    catalog = FsModelCatalog(room.catalog.root, discover=lambda: surviving(puller.provenance, puller.cache))
    report = catalog.recover()
    assert report is not None
    entry = catalog.get("a")
    assert (entry.ref, entry.fetched) == (server.url("/a.gguf"), True)
    assert entry.digest == f"sha256:{hashlib.sha256(haiku).hexdigest()}"


def test_the_time_in_which_a_file_counts_as_being_written_outlasts_a_silent_server() -> None:
    assert BUSY_MS >= 600_000


@pytest.mark.req("MP-06")
async def test_a_fetched_model_stays_one_where_a_pool_names_it_by_its_path(
    server: FileServer, puller: Puller, haiku: bytes
) -> None:
    room = Room(puller, int(1.5 * len(haiku)))
    server.files = {"/a.gguf": haiku, "/b.gguf": haiku}
    model = await room.pull(server.url("/a.gguf"))
    before = room.catalog.get("a")
    await room.pull(model.local_path)
    assert room.catalog.get("a") == before
    room.holds = [Hold(by="pool p", ref=model.local_path)]
    with pytest.raises(ModelError, match=r"what is there is held: a .* by pool p"):
        await room.pull(server.url("/b.gguf"))
    assert Path(model.local_path).exists()


@pytest.mark.req("MP-06")
async def test_the_use_of_a_model_that_is_here_ends_no_fetch_into_its_folder(
    the_hub: Hub, puller: Puller, haiku: bytes
) -> None:
    room = Room(puller, 3 * len(haiku))
    the_hub.add("org/poems", {"a.gguf": haiku, "b.gguf": haiku})
    model = await room.pull("hf:org/poems/a.gguf")
    room.cache.make_room(len(haiku), Path(model.local_path).parent)  # as a fetch of b does
    await room.pull("hf:org/poems/a.gguf")
    with pytest.raises(ModelError, match="are being fetched"):
        room.cache.make_room(2 * len(haiku), puller.cache / "hf/new")


@pytest.mark.req("MP-06")
async def test_a_fetch_that_is_cancelled_while_room_is_made_leaves_none_taken(
    server: FileServer, puller: Puller, haiku: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(puller, 2 * len(haiku))
    server.files["/a.gguf"] = haiku
    making, go = threading.Event(), threading.Event()
    make_room = room.cache.make_room

    def slowly(size_bytes: int, target: Path) -> tuple[str, ...]:
        making.set()
        go.wait(50)
        return make_room(size_bytes, target)

    monkeypatch.setattr(room.cache, "make_room", slowly)
    async with asyncio.TaskGroup() as group:
        pulling = group.create_task(room.pull(server.url("/a.gguf")))
        await asyncio.to_thread(making.wait, 50)
        pulling.cancel()
        group.create_task(asyncio.to_thread(go.set))
    assert pulling.cancelled()
    make_room(2 * len(haiku), puller.cache / "hf/new")


@pytest.mark.req("MP-01")
async def test_a_model_stays_known_where_another_engine_cannot_load_it(
    the_hub: Hub, puller: Puller, haiku: bytes
) -> None:
    the_hub.add("org/poems", {"haiku.gguf": haiku})
    model = await puller.pull("hf:org/poems/haiku.gguf", engine=Engine.LLAMACPP)
    asked = len(the_hub.server.asked)
    assert (await puller.refusal("hf:org/poems/haiku.gguf", engine=Engine.VLLM)).cause is Cause.MODEL_INVALID
    assert await puller.pull("hf:org/poems/haiku.gguf", engine=Engine.LLAMACPP) == model
    assert len(the_hub.server.asked) == asked
