"""A catalog that was lost is rebuilt from provenance, from the notes of the cache and from what happened."""

import hashlib
from functools import partial
from pathlib import Path, PurePosixPath

import msgspec
import pytest

from catalog_core.models import FsModelCatalog
from contracts.engines import ModelEntry, ModelFormat, ModelState, ResolvedModel
from model_provisioner import provenance, reference
from model_provisioner.events import Event, EventKind, note
from model_provisioner.places import folder_of, note_of
from model_provisioner.reference import HfRef
from model_provisioner.shelf import NOTES, Fetched, FileHere
from model_provisioner.survivors import surviving
from tests.unit.model_provisioner.heads import write_directory, write_model

BASE = PurePosixPath("/")


class Ruin:
    """A machine whose catalog is damaged."""

    def __init__(self, root: Path) -> None:
        self.cache = root / "cache"
        self.journals = root / "provenance"
        self.catalog = FsModelCatalog(root / "catalog", discover=partial(surviving, self.journals, self.cache))
        (root / "catalog").mkdir()
        (root / "catalog/models.json").write_text("damaged")

    def fetched(self, ref: str, *, directory: bool = False) -> Path:
        """A model in the cache with its note, as a fetch leaves them."""
        place = reference.parse(ref, BASE)
        assert isinstance(place, HfRef)
        folder = self.cache / folder_of(place, "rev")
        folder.parent.mkdir(parents=True)
        if directory:
            write_directory(folder)
        else:
            folder.mkdir()
            write_model(folder / "m.gguf")
        files = tuple(
            FileHere(
                name=path.name, size_bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest()
            )
            for path in sorted(folder.iterdir())
        )
        fetched = Fetched(
            ref=ref,
            source=f"{ref}@rev",
            revision="rev",
            folder=str(folder.relative_to(self.cache)),
            entry=None if directory else "m.gguf",
            files=files,
        )
        (self.cache / NOTES).mkdir(exist_ok=True)
        (self.cache / NOTES / note_of(place)).write_bytes(msgspec.json.encode(fetched))
        return folder if directory else folder / "m.gguf"

    def record(self, identifier: str, path: Path, at_ms: int = 5) -> None:
        model = ResolvedModel(
            id=identifier, ref=str(path), local_path=str(path), size_bytes=path.stat().st_size, digest="sha256:1"
        )
        provenance.record(self.journals, model, now_ms=at_ms)

    def happened(self, identifier: str, kind: EventKind, message: str = "", at_ms: int = 1 << 50) -> None:
        note(self.journals, Event(at_ms=at_ms, kind=kind, id=identifier, message=message))

    def rebuilt(self) -> dict[str, ModelEntry]:
        assert self.catalog.recover() is not None
        return {entry.id: entry for entry in self.catalog.list()}


@pytest.fixture
def ruin(tmp_path: Path) -> Ruin:
    return Ruin(tmp_path)


@pytest.mark.req("CAT-04")
def test_a_fetched_model_is_found_by_the_note_of_the_cache_though_its_provenance_is_lost(ruin: Ruin) -> None:
    path = ruin.fetched("hf:org/repo/m.gguf@main")
    entry = ruin.rebuilt()["m"]
    assert (entry.ref, entry.local_path, entry.source) == ("hf:org/repo/m.gguf@main", str(path), f"{entry.ref}@rev")
    assert entry.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert (entry.fetched, entry.verified_ms, entry.state) == (True, None, ModelState.ACTIVE)


@pytest.mark.req("CAT-04")
def test_a_fetched_directory_is_found_and_waits_for_its_digest(ruin: Ruin) -> None:
    path = ruin.fetched("hf:org/Llama-3.1-8B", directory=True)
    entry = ruin.rebuilt()["Llama-3.1-8B"]
    assert (entry.local_path, entry.format, entry.digest) == (str(path), ModelFormat.HF_DIRECTORY, "")
    assert entry.size_bytes > 0


@pytest.mark.req("CAT-04")
def test_provenance_says_more_than_a_note(ruin: Ruin) -> None:
    path = ruin.fetched("hf:org/repo/m.gguf")
    ruin.record("my-name", path)
    assert [(entry.id, entry.digest) for entry in ruin.rebuilt().values()] == [("my-name", "sha256:1")]


@pytest.mark.req("CAT-04")
@pytest.mark.parametrize("damage", ["cut", "gone", "note", "other"])
def test_what_is_not_all_here_or_makes_no_sense_is_left_alone(ruin: Ruin, damage: str) -> None:
    path = ruin.fetched("hf:org/repo/m.gguf")
    (note_file,) = (ruin.cache / NOTES).iterdir()
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "gone":
            path.unlink()
        case "note":
            note_file.write_bytes(b"\xff")
        case _:
            path.write_bytes(b"x" * path.stat().st_size)
    assert ruin.rebuilt() == {}


@pytest.mark.req("CAT-03", "CAT-04")
def test_what_was_retired_is_retired_again_and_what_was_forgotten_stays_forgotten(ruin: Ruin, tmp_path: Path) -> None:
    for name in ("retired", "back", "forgotten", "again", "plain"):
        (tmp_path / f"{name}.gguf").write_bytes(b"x")
        ruin.record(name, tmp_path / f"{name}.gguf")
    ruin.happened("retired", EventKind.RETIRED, "wrong digest")
    ruin.happened("back", EventKind.RETIRED, "a mistake")
    ruin.happened("back", EventKind.ACTIVATED)
    ruin.happened("forgotten", EventKind.DELETED)
    ruin.happened("again", EventKind.DELETED, at_ms=4)  # before it was recorded anew
    found = ruin.rebuilt()
    assert sorted(found) == ["again", "back", "plain", "retired"]
    assert (found["retired"].state, found["retired"].state_reason) == (ModelState.RETIRED, "wrong digest")
    assert {found[name].state for name in ("back", "again", "plain")} == {ModelState.ACTIVE}
