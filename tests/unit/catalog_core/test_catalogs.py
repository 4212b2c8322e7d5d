"""The model catalog and the engine catalog."""

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from catalog_core.engines import EngineCatalogStore, FsEngineCatalog
from catalog_core.errors import CatalogError, EntryNotFoundError, OutsideRootError, SchemaVersionError
from catalog_core.index import Conversion, Rebuilding
from catalog_core.models import FsModelCatalog
from contracts.config import Engine
from contracts.engines import EngineEntry, ModelEntry, ModelFormat, ModelState
from tests.plugins.failures import OperatorSees

HAIKU = ModelEntry(
    id="haiku",
    ref="hf:org/haiku/haiku.gguf",
    local_path="/models/haiku.gguf",
    size_bytes=42,
    digest="sha256:" + "a" * 64,
    ctx_max=256,
    arch="llama",
    quant="F16",
    verified_ms=5,
)
SERVER = EngineEntry(
    id="llamacpp-b1",
    engine=Engine.LLAMACPP,
    version="b1",
    build_ref="abc",
    digest="sha256:" + "b" * 64,
    build_flags=("-DGGML_CUDA=ON",),
    artifacts=("/cache/llama-server",),
)


@pytest.mark.req("CAT-02", "CAT-03")
def test_models_round_trip(tmp_path: Path) -> None:
    FsModelCatalog(tmp_path).put(HAIKU, now_ms=1000)
    catalog = FsModelCatalog(tmp_path)
    assert catalog.get("haiku") == replace(HAIKU, created_ms=1000)
    assert catalog.list() == (replace(HAIKU, created_ms=1000),)
    assert catalog.exists("haiku")
    assert not catalog.exists("other")


def test_putting_again_replaces_all_but_the_creation(tmp_path: Path) -> None:
    catalog = FsModelCatalog(tmp_path)
    catalog.put(HAIKU, now_ms=1000)
    catalog.put(replace(HAIKU, size_bytes=43), now_ms=2000)
    assert catalog.get("haiku") == replace(HAIKU, size_bytes=43, created_ms=1000)


@pytest.mark.req("CAT-03")
def test_a_model_is_active_or_retired(tmp_path: Path) -> None:
    catalog = FsModelCatalog(tmp_path)
    catalog.put(HAIKU, now_ms=1)
    catalog.put(replace(HAIKU, id="other"), now_ms=1)
    catalog.set_state("haiku", ModelState.RETIRED)
    assert [entry.id for entry in catalog.list(ModelState.ACTIVE)] == ["other"]
    assert [entry.id for entry in catalog.list(ModelState.RETIRED)] == ["haiku"]
    catalog.set_state("haiku", ModelState.ACTIVE)
    assert catalog.get("haiku").state is ModelState.ACTIVE
    assert set(ModelState) == {"Active", "Retired"}


def test_deleting_forgets_the_model_and_leaves_its_file(tmp_path: Path) -> None:
    file = tmp_path / "haiku.gguf"
    file.touch()
    catalog = FsModelCatalog(tmp_path / "catalog")
    catalog.put(replace(HAIKU, local_path=str(file)), now_ms=1)
    catalog.delete("haiku")
    assert catalog.list() == ()
    assert file.exists()


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    catalog = FsModelCatalog(tmp_path)
    for act in (
        lambda: catalog.get("haiku"),
        lambda: catalog.delete("haiku"),
        lambda: catalog.set_state("haiku", ModelState.RETIRED),
        lambda: catalog.locate("haiku"),
    ):
        with pytest.raises(EntryNotFoundError) as caught:
            act()
        assert caught.value.message == "there is no model 'haiku' in the catalog"
        assert caught.value.hint == "`llama-orch models` lists what there is"


@pytest.mark.req("CAT-04")
def test_a_file_is_located_where_it_may_be(tmp_path: Path) -> None:
    root, models = tmp_path / "catalog", tmp_path / "models"
    (root / "files").mkdir(parents=True)
    models.mkdir()
    for file in (root / "files/a.gguf", models / "b.gguf", tmp_path / "secret"):
        file.touch()
    (models / "link.gguf").symlink_to(tmp_path / "secret")
    (root / "link.gguf").symlink_to(tmp_path / "secret")
    catalog = FsModelCatalog(root)

    def locate(path: str, within: Path | None = None) -> Path:
        catalog.put(replace(HAIKU, local_path=path), now_ms=1)
        before = {file: file.stat().st_mtime_ns for file in root.iterdir()}
        try:
            return catalog.locate("haiku", within=within)
        finally:
            assert {file: file.stat().st_mtime_ns for file in root.iterdir()} == before

    assert locate(str(models / "b.gguf")) == models / "b.gguf"
    assert locate(str(models / "b.gguf"), models) == models / "b.gguf"
    assert locate("files/a.gguf") == root / "files/a.gguf"
    for path, within in (
        ("../secret", None),
        ("link.gguf", None),
        ("files/../../secret", None),
        (str(tmp_path / "secret"), models),
        (str(models / "link.gguf"), models),
        (f"{models}/../secret", models),
        (f"{models}-other/b.gguf", models),
    ):
        with pytest.raises(OutsideRootError, match="the path of 'haiku' leads out of"):
            locate(path, within)


@pytest.mark.req("CAT-04")
def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    catalog = FsModelCatalog(tmp_path)
    catalog.put(replace(HAIKU, local_path=str(tmp_path / "gone.gguf")), now_ms=1)
    assert catalog.exists("haiku")
    with pytest.raises(EntryNotFoundError) as caught:
        catalog.locate("haiku")
    assert caught.value.message == f"the model 'haiku' is gone: {tmp_path / 'gone.gguf'}"


@pytest.mark.req("CAT-04")
def test_a_damaged_model_index_keeps_the_models_whose_files_are_there(tmp_path: Path) -> None:
    (tmp_path / "here.gguf").touch()
    catalog = FsModelCatalog(tmp_path)
    catalog.put(replace(HAIKU, id="here", local_path=str(tmp_path / "here.gguf")), now_ms=1)
    catalog.put(replace(HAIKU, id="gone", local_path=str(tmp_path / "gone.gguf")), now_ms=1)
    catalog.put(replace(HAIKU, id="hurt"), now_ms=1)
    index = tmp_path / "models.json"
    text = index.read_text()
    assert text.count('"id": "hurt"') == 1
    index.write_text(text.replace('"id": "hurt"', '"id": 7'))
    report = catalog.recover()
    assert isinstance(report, Rebuilding)
    assert report.kept == 1
    assert [entry.id for entry in catalog.list()] == ["here"]


@pytest.mark.req("CAT-02")
def test_engines_round_trip(tmp_path: Path) -> None:
    store: EngineCatalogStore = FsEngineCatalog(tmp_path)
    store.put(SERVER, now_ms=1000)
    store.put(replace(SERVER, version="b2"), now_ms=2000)
    again: EngineCatalogStore = FsEngineCatalog(tmp_path)
    assert again.list() == (replace(SERVER, version="b2", created_ms=1000),)
    assert again.get("llamacpp-b1") == again.list()[0]
    assert again.exists("llamacpp-b1")
    again.delete("llamacpp-b1")
    assert not again.exists("llamacpp-b1")
    with pytest.raises(EntryNotFoundError, match="there is no engine 'llamacpp-b1' in the catalog"):
        again.get("llamacpp-b1")
    with pytest.raises(EntryNotFoundError):
        again.delete("llamacpp-b1")


@pytest.mark.req("CAT-01")
def test_the_two_catalogs_share_a_directory_and_nothing_else(tmp_path: Path) -> None:
    FsModelCatalog(tmp_path / "catalog").put(HAIKU, now_ms=1)
    FsEngineCatalog(tmp_path / "catalog").put(SERVER, now_ms=1)
    names = sorted(path.name for path in (tmp_path / "catalog").iterdir())
    assert names == ["engines.json", "engines.json.lock", "models.json", "models.json.lock"]
    assert (tmp_path / "catalog").stat().st_mode & 0o777 == 0o700
    (tmp_path / "catalog/engines.json").write_text("damaged")
    report = FsEngineCatalog(tmp_path / "catalog").recover()
    assert report is not None
    assert FsModelCatalog(tmp_path / "catalog").recover() is None
    assert FsModelCatalog(tmp_path / "catalog").exists("haiku")


def test_a_new_entry_may_bring_its_own_time(tmp_path: Path) -> None:
    FsEngineCatalog(tmp_path).put(replace(SERVER, created_ms=7), now_ms=1000)
    assert FsEngineCatalog(tmp_path).get("llamacpp-b1").created_ms == 7


@pytest.mark.req("CAT-02")
def test_a_catalog_of_a_newer_version_is_refused_with_the_way_back(tmp_path: Path, operator_sees: OperatorSees) -> None:
    (tmp_path / "models.json").write_text('{"schema": 3, "entries": {}}')
    (tmp_path / "models.json.schema-2").write_text('{"schema": 2, "entries": {}}')
    with pytest.raises(SchemaVersionError) as caught:
        FsModelCatalog(tmp_path).list()
    operator_sees("model/catalog-of-a-newer-version", f"{caught.value.message}\n  hint: {caught.value.hint}")


@pytest.mark.req("CAT-02")
def test_a_catalog_of_schema_1_is_converted(tmp_path: Path) -> None:
    entry = {"id": "m", "ref": "m", "local_path": "/m/Llama-3.1-8B", "size_bytes": 1, "digest": "sha256:0", "arch": "x"}
    (tmp_path / "models.json").write_text(json.dumps({"schema": 1, "entries": {"m": entry}}))
    assert FsModelCatalog(tmp_path).get("m").format is ModelFormat.HF_DIRECTORY
    assert isinstance(FsModelCatalog(tmp_path).recover(), Conversion)
    assert FsModelCatalog(tmp_path).get("m").arch == "x"
    assert FsModelCatalog(tmp_path).recover() is None


# --- what was decided about a model -----------------------------------------------------------------------------------


@pytest.mark.req("CAT-03")
def test_admitting_a_known_model_changes_nothing_that_was_decided_about_it(tmp_path: Path) -> None:
    catalog = FsModelCatalog(tmp_path)
    catalog.admit(HAIKU, now_ms=5)
    assert catalog.get("haiku") == replace(HAIKU, created_ms=5)
    catalog.alter("haiku", lambda entry: replace(entry, pinned=True))
    catalog.set_state("haiku", ModelState.RETIRED, "too slow")
    catalog.admit(replace(HAIKU, size_bytes=43), now_ms=9)
    expected = replace(
        HAIKU, size_bytes=43, created_ms=5, pinned=True, state=ModelState.RETIRED, state_reason="too slow"
    )
    assert catalog.get("haiku") == expected
    catalog.set_state("haiku", ModelState.ACTIVE, "whatever")
    assert catalog.get("haiku").state_reason is None


def test_a_model_gets_another_id_unless_another_one_has_it(tmp_path: Path) -> None:
    catalog = FsModelCatalog(tmp_path)
    catalog.put(HAIKU, now_ms=1)
    catalog.put(replace(HAIKU, id="epic"), now_ms=1)
    with pytest.raises(CatalogError, match="the id 'epic' belongs to another model"):
        catalog.rename("haiku", "epic")
    catalog.rename("haiku", "haiku")
    catalog.rename("haiku", "poem")
    assert [entry.id for entry in catalog.list()] == ["epic", "poem"]
    with pytest.raises(EntryNotFoundError):
        catalog.rename("haiku", "any")


def test_the_identity_of_a_catalog_changes_with_every_change(tmp_path: Path) -> None:
    catalog = FsModelCatalog(tmp_path)
    seen = [catalog.identity()]
    catalog.put(HAIKU, now_ms=1)
    seen.append(catalog.identity())
    catalog.set_state("haiku", ModelState.RETIRED)
    seen.append(catalog.identity())
    catalog.delete("haiku")
    seen.append(catalog.identity())
    assert catalog.identity() == seen[-1]
    assert len(set(seen)) == len(seen)
