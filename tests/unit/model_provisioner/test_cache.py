"""The cache of fetched models, on real files."""

import json
import os
from pathlib import Path, PurePosixPath

import pytest

from catalog_core.models import FsModelCatalog
from contracts.config import Models
from contracts.engines import ModelEntry, ModelFormat, ModelState
from contracts.pools import Cause
from model_provisioner.cache import BUSY_MS, ModelCache, engines_left
from model_provisioner.errors import ModelError
from model_provisioner.eviction import LEFTOVER_KEPT_MS
from model_provisioner.holds import Hold
from model_provisioner.quarantine import Quarantine
from model_provisioner.reference import HfRef, parse
from model_provisioner.shelf import Fetched, FileHere
from model_provisioner.shelf import Shelf as Notes
from tests.plugins.failures import OperatorSees

NOW = 1_800_000_000_000


class Shelf:
    """A cache with its catalog."""

    def __init__(self, root: Path, max_bytes: int | None = 100, pinned: tuple[str, ...] = ()) -> None:
        self.root = root / "cache/models"
        self.journal = root / "provenance"
        self.catalog = FsModelCatalog(root / "catalog")
        self.holds: list[Hold] = []
        self.now = NOW
        self.cache = ModelCache(
            self.root,
            self.catalog,
            settings=Models(max_bytes=max_bytes, pinned=pinned),
            journal=self.journal,
            base_dir=root,
            clock=lambda: self.now,
            holds=lambda: self.holds,
        )

    def file(self, name: str, size: int, age_ms: int = 2 * BUSY_MS) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        written = (self.now - age_ms) * 1_000_000
        os.utime(path, ns=(written, written))
        return path

    def put(self, identifier: str, path: Path, *, fetched: bool = True, created_ms: int = 1, **more: object) -> None:
        fields = {"ref": f"hf:org/{identifier}", "size_bytes": 1, "digest": f"sha256:{identifier}"} | more
        entry = ModelEntry(id=identifier, local_path=str(path), fetched=fetched, created_ms=created_ms, **fields)  # type: ignore[arg-type]
        self.catalog.put(entry, now_ms=created_ms)

    def fetched(self, identifier: str, size: int, created_ms: int = 1, **more: object) -> Path:
        path = self.file(f"hf/org/{identifier}/rev/{identifier}.gguf", size)
        self.put(identifier, path, created_ms=created_ms, **more)  # type: ignore[arg-type]
        return path

    def ids(self) -> list[str]:
        return [entry.id for entry in self.catalog.list()]

    def files(self) -> list[str]:
        found = [path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file()]
        return sorted(str(path) for path in found if len(path.parts) > 1)


@pytest.mark.req("MP-06")
def test_the_least_recently_used_goes_with_its_entry_and_its_empty_folders(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.fetched("a", 40, created_ms=1)
    shelf.fetched("b", 40, created_ms=2)
    shelf.cache.used("a")
    assert shelf.cache.make_room(30, shelf.root / "hf/org/c") == ("removed b from the cache, 40 bytes",)
    assert shelf.ids() == ["a"]
    assert shelf.files() == ["hf/org/a/rev/a.gguf"]
    assert not (shelf.root / "hf/org/b").exists()
    line = json.loads((shelf.journal / "catalog.jsonl").read_text())
    assert line == {"at_ms": NOW, "kind": "removed", "id": "b", "message": "removed b from the cache, 40 bytes"}


@pytest.mark.req("MP-06")
def test_a_users_own_file_is_never_counted_and_never_removed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    own = tmp_path / "own.gguf"
    own.write_bytes(b"x" * 500)
    inside = shelf.file("hf/org/own/rev/own.gguf", 500)
    shelf.put("own", own, fetched=False)
    shelf.put("lies", own, fetched=True)  # it says that it was fetched, and lies elsewhere
    (shelf.root / "hf/org/link.gguf").symlink_to(own)
    shelf.put("link", shelf.root / "hf/org/link.gguf")
    (shelf.root / "hf/away").symlink_to(tmp_path)
    shelf.put("away", shelf.root / "hf/away/own.gguf")
    shelf.put("dots", shelf.root / "hf/../../../own.gguf")
    inside.unlink()
    assert shelf.cache.make_room(100, shelf.root / "hf/org/new") == ()
    assert own.stat().st_size == 500
    assert shelf.ids() == ["away", "dots", "lies", "link", "own"]


@pytest.mark.req("MP-06")
def test_a_model_that_is_named_by_its_path_in_the_cache_is_nobodys_forgotten_file(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    path = shelf.file("hf/org/own/rev/own.gguf", 60)
    parts = [shelf.file(f"put/here/by/split-0000{number}-of-00002.gguf", 20) for number in (1, 2)]
    shelf.put("own", path, fetched=False)
    shelf.put("split", parts[0], fetched=False)
    shelf.fetched("a", 40)
    assert shelf.cache.make_room(60, shelf.root / "hf/new") == ()
    assert path.exists()
    assert all(part.exists() for part in parts)


@pytest.mark.req("MP-06")
@pytest.mark.parametrize(
    "hold",
    [
        Hold(by="pool p", ref="hf:org/a"),
        Hold(by="pool p", ref="hf://org/a"),
        Hold(by="pool p", id="a"),
        Hold(by="an engine of pool p", digest="sha256:a"),
    ],
)
def test_what_somebody_needs_stays_and_is_named_where_there_is_no_room(tmp_path: Path, hold: Hold) -> None:
    shelf = Shelf(tmp_path, pinned=("hf:org/b",))
    shelf.fetched("a", 40)
    shelf.fetched("b", 30)
    shelf.fetched("c", 20, pinned=True)
    shelf.fetched("d", 10)
    shelf.holds = [hold]
    with pytest.raises(ModelError) as caught:
        shelf.cache.make_room(50, shelf.root / "hf/new")
    assert caught.value.cause is Cause.MODEL_FETCH
    assert caught.value.message == (
        "no room for 50 bytes: models.max_bytes is 100 bytes, 100 bytes are used, and what is there is held: "
        f"a (40 bytes) by {hold.by}, b (30 bytes) by models.pinned, c (20 bytes) by its own entry"
    )
    assert shelf.ids() == ["a", "b", "c", "d"]
    shelf.cache.make_room(10, shelf.root / "hf/new")
    assert shelf.ids() == ["a", "b", "c"]


@pytest.mark.req("MP-06")
@pytest.mark.parametrize("catalogued", [True, False])
def test_a_reference_holds_the_files_that_it_came_to_whatever_the_catalog_calls_them(
    tmp_path: Path, *, catalogued: bool
) -> None:
    shelf = Shelf(tmp_path, pinned=("hf:org/a",))
    path = shelf.file("hf/org/a/rev/a.gguf", 60)
    place = parse("hf:org/a", PurePosixPath(tmp_path))
    assert isinstance(place, HfRef)
    note = Fetched(
        ref="hf:org/a",
        source="hf:org/a/a.gguf@rev",
        revision="rev",
        folder="hf/org/a/rev",
        entry="a.gguf",
        files=(FileHere(name="a.gguf", size_bytes=60, sha256="0" * 64),),
    )
    Notes(shelf.root, Quarantine(shelf.root, lambda: NOW)).remember(place, note)
    if catalogued:
        shelf.put("a", path, ref="hf:org/a/a.gguf")
    with pytest.raises(ModelError, match=r"models\.pinned"):
        shelf.cache.make_room(50, shelf.root / "hf/org/new")
    assert path.exists()


@pytest.mark.req("MP-06")
def test_who_holds_the_room_is_told_with_the_numbers(tmp_path: Path, operator_sees: OperatorSees) -> None:
    shelf = Shelf(tmp_path, max_bytes=24 << 30)
    for name, size in (("coder", 18 << 30), ("writer", 5 << 30)):
        os.truncate(shelf.fetched(name, 0), size)
    shelf.holds = [Hold(by="pool gpu0", id="coder"), Hold(by="pool gpu1", id="writer")]
    with pytest.raises(ModelError) as caught:
        shelf.cache.make_room(8 << 30, shelf.root / "hf/new")
    operator_sees("model/no-room-in-the-cache", caught.value.render())


@pytest.mark.req("MP-06")
def test_a_fetch_under_way_keeps_its_bytes_and_its_room(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.fetched("a", 40)
    one, other = shelf.root / "hf/org/one/rev", shelf.root / "https/host/other/rev"
    shelf.cache.make_room(50, one)
    shelf.file("hf/org/one/rev/x.gguf.part", 20)
    assert shelf.cache.make_room(20, other) == ("removed a from the cache, 40 bytes",)
    shelf.file("https/host/other/rev/x.gguf.part", 5)
    with pytest.raises(ModelError, match="are being fetched"):
        shelf.cache.make_room(40, shelf.root / "hf/third")
    assert shelf.files() == ["hf/org/one/rev/x.gguf.part", "https/host/other/rev/x.gguf.part"]
    shelf.cache.release(one)
    shelf.cache.release(other)
    shelf.cache.make_room(90, shelf.root / "hf/third")
    assert shelf.files() == ["https/host/other/rev/x.gguf.part"]


@pytest.mark.req("MP-06")
def test_two_fetches_into_one_folder_each_keep_their_bytes_and_their_room(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    folder = shelf.root / "hf/org/repo/rev"
    shelf.file("hf/org/repo/rev/there.gguf", 40)
    shelf.put("there", folder / "there.gguf")
    shelf.cache.make_room(20, folder)  # what lay there before is none of what comes
    with pytest.raises(ModelError, match=r"40 bytes are used, 20 bytes are being fetched"):
        shelf.cache.make_room(41, shelf.root / "hf/new")
    shelf.cache.make_room(20, folder)
    with pytest.raises(ModelError, match=r"40 bytes are being fetched"):
        shelf.cache.make_room(21, shelf.root / "hf/new")
    shelf.file("hf/org/repo/rev/first.gguf", 20)
    shelf.cache.release(folder)
    shelf.file("hf/org/repo/rev/second.gguf.part", 15)
    with pytest.raises(ModelError, match=r"75 bytes are used, 5 bytes are being fetched"):
        shelf.cache.make_room(21, shelf.root / "hf/new")
    shelf.cache.release(folder)
    shelf.cache.make_room(100, shelf.root / "hf/new")
    assert shelf.files() == []


@pytest.mark.req("MP-06")
def test_the_first_part_that_another_process_is_done_with_stays_until_the_last_has_come(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.file("hf/org/a/rev/a-00001-of-00002.gguf", 40)
    shelf.file("hf/org/a/rev/a-00002-of-00002.gguf.part", 20, age_ms=BUSY_MS - 1)
    with pytest.raises(ModelError, match="by a fetch under way"):
        shelf.cache.make_room(50, shelf.root / "hf/new")
    assert len(shelf.files()) == 2


@pytest.mark.req("MP-06")
def test_what_another_process_writes_to_stays(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.file("hf/org/a/rev/a.gguf.part", 60, age_ms=BUSY_MS - 1)
    with pytest.raises(ModelError, match="by a fetch under way"):
        shelf.cache.make_room(50, shelf.root / "hf/new")


@pytest.mark.req("MP-06")
def test_old_halves_and_old_quarantine_go_at_the_start_and_our_notes_stay(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, max_bytes=None)
    shelf.fetched("a", 40)
    shelf.file("hf/org/b/rev/b.gguf.part", 5, age_ms=LEFTOVER_KEPT_MS)
    shelf.file("hf/org/b/rev/b.gguf.part.json", 5, age_ms=LEFTOVER_KEPT_MS)
    shelf.file(f"quarantine/{NOW - LEFTOVER_KEPT_MS}-c.gguf", 5)
    shelf.file(f"quarantine/{NOW - LEFTOVER_KEPT_MS + 1}-d.gguf", 5, age_ms=2 * LEFTOVER_KEPT_MS)
    shelf.file("digests.json", 5, age_ms=LEFTOVER_KEPT_MS)
    assert len(shelf.cache.sweep()) == 3
    assert shelf.files() == ["hf/org/a/rev/a.gguf", f"quarantine/{NOW - LEFTOVER_KEPT_MS + 1}-d.gguf"]
    assert (shelf.root / "digests.json").exists()


@pytest.mark.req("MP-06")
def test_a_lower_cap_is_kept_at_the_next_start_as_far_as_it_can_be(tmp_path: Path) -> None:
    Shelf(tmp_path).fetched("a", 60)
    lower = Shelf(tmp_path, max_bytes=50)
    lower.holds = [Hold(by="pool p", id="a")]
    assert lower.cache.sweep()[0].startswith("no room for 0 bytes: models.max_bytes is 50 bytes, 60 bytes are used")
    lower.holds = []
    assert lower.cache.sweep() == ("removed a from the cache, 60 bytes",)


@pytest.mark.req("MP-06")
def test_models_that_share_a_folder_or_a_file(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    weights = shelf.file("hf/org/repo/rev/model.gguf", 30)
    shelf.file("hf/org/repo/rev/config.json", 10)
    second = shelf.file("hf/org/repo/rev2/model.gguf", 0)
    second.unlink()
    second.hardlink_to(weights)
    shelf.put("file", weights, created_ms=1)
    shelf.put("folder", weights.parent, created_ms=2, format=ModelFormat.HF_DIRECTORY)
    shelf.put("linked", second, created_ms=3)
    assert shelf.cache.make_room(60, shelf.root / "hf/new") == ()  # 40 bytes are used, not 100
    shelf.cache.release(shelf.root / "hf/new")
    assert len(shelf.cache.make_room(65, shelf.root / "hf/new")) == 1
    assert shelf.ids() == ["file", "linked"], "only the end of the folder frees something"
    assert shelf.files() == ["hf/org/repo/rev/model.gguf", "hf/org/repo/rev2/model.gguf"]


@pytest.mark.req("MP-06")
def test_a_split_model_goes_with_all_its_parts(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first = shelf.file("hf/org/s/rev/s[1]-00001-of-00002.gguf", 30)
    shelf.file("hf/org/s/rev/s[1]-00002-of-00002.gguf", 30)
    shelf.put("s", first)
    assert shelf.cache.make_room(41, shelf.root / "hf/new") == ("removed s from the cache, 60 bytes",)
    assert shelf.files() == []


@pytest.mark.req("MP-06")
def test_when_a_model_was_used_may_be_lost(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.fetched("a", 40, created_ms=1)
    shelf.fetched("b", 40, created_ms=2)
    shelf.cache.used("a")
    (shelf.root / "uses.json").write_text("damaged")
    assert shelf.cache.make_room(30, shelf.root / "hf/new") == ("removed a from the cache, 40 bytes",)
    shelf.cache.used("b")
    assert list(json.loads((shelf.root / "uses.json").read_text())["entries"]) == ["b"]


@pytest.mark.req("MP-03")
def test_only_a_fetched_model_is_set_aside(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.fetched("a", 40)
    own = tmp_path / "own.gguf"
    own.write_bytes(b"mine")
    shelf.put("own", own, fetched=False, state=ModelState.RETIRED)
    assert shelf.cache.quarantine(shelf.catalog.get("own"), {}) == ()
    assert shelf.cache.quarantine(shelf.catalog.get("a"), {}) == (shelf.root / f"quarantine/{NOW}--a.gguf",)
    assert shelf.files() == [f"quarantine/{NOW}--a.gguf", f"quarantine/{NOW}--a.gguf.json"]
    assert own.read_bytes() == b"mine"


@pytest.mark.req("MP-06")
def test_files_are_removed_when_asked_but_for_those_of_another_entry(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    weights = shelf.file("hf/org/repo/rev/model.gguf", 30)
    shelf.file("hf/org/repo/rev/config.json", 10)
    shelf.put("file", weights)
    shelf.put("folder", weights.parent)
    entry = shelf.catalog.get("folder")
    shelf.catalog.delete("folder")
    assert shelf.cache.remove_files(entry) == ("removed folder from the cache, 10 bytes",)
    assert shelf.files() == ["hf/org/repo/rev/model.gguf"]


def test_the_models_of_engines_that_outlived_their_manager(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"pool_id": "p", "model_digest": "sha256:1", "port": 1}')
    (tmp_path / "q.json").write_text('{"pool_id": "q", "model_digest": null}')
    (tmp_path / "broken.json").write_bytes(b"\xff")
    assert engines_left(tmp_path) == (Hold(by="an engine of pool p", digest="sha256:1", serves=True),)
    assert engines_left(tmp_path / "missing") == ()
