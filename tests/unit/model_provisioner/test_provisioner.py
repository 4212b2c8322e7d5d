"""A model from its reference into the catalog, with real files."""

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.engines import KvLayout, ModelState, ResolvedModel, WeightSizes
from contracts.pools import Cause
from model_provisioner import digest, gguf_head, local
from model_provisioner.digest import NotRegularError
from model_provisioner.errors import GgufError, ModelError
from tests.plugins.failures import OperatorSees
from tests.unit.model_provisioner.heads import STRING, head, key, tensor, text, write_model
from tests.unit.model_provisioner.place import NOW, Place


def sha256(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


@contextlib.contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.req("MP-01", "MP-05", "MP-06")
async def test_a_local_model_is_resolved_catalogued_and_recorded(place: Place) -> None:
    path = write_model(place.models / "haiku.gguf")
    model = await place.ensure("haiku.gguf")
    assert model == ResolvedModel(
        id="haiku",
        ref="haiku.gguf",
        local_path=str(path),
        size_bytes=path.stat().st_size,
        digest=sha256(path),
        ctx_max=256,
        arch="llama",
        quant="F16",
        layers=2,
        heads=4,
        kv_heads=2,
        embedding=64,
        key_length=16,
        value_length=16,
        vocabulary=300,
        kv=KvLayout(key=2 * 2 * 16, value=2 * 2 * 16),
        weights=WeightSizes(
            layers=64 * 64 * 4,
            output=300 * 64 * 2 + 64 * 4,  # the embeddings again: there is no output.weight
            input=300 * 64 * 2,
        ),
        tokenizer="llama",
        chat_template_sha256=hashlib.sha256(b"{{ messages }}").hexdigest(),
    )
    entry = place.catalog.get("haiku")
    assert (entry.state, entry.created_ms, entry.verified_ms) == (ModelState.ACTIVE, NOW, None)
    assert (entry.digest, entry.local_path, entry.ctx_max) == (model.digest, model.local_path, 256)
    assert (entry.layers, entry.heads, entry.tokenizer) == (2, 4, "llama")
    assert entry.chat_template_sha256 == model.chat_template_sha256
    assert place.journal() == [
        {
            "at_ms": NOW,
            "id": "haiku",
            "ref": "haiku.gguf",
            "resolved": str(path),
            "digest": model.digest,
            "size_bytes": model.size_bytes,
        }
    ]
    assert place.lines == [
        f"computing the digest of haiku.gguf, {model.size_bytes} bytes",
        f"haiku.gguf was not verified, because no digest is configured; it has {model.digest}",
    ]


@pytest.mark.req("MP-01")
@pytest.mark.parametrize(
    "form", ["haiku.gguf", "./haiku.gguf", "{0}/haiku.gguf", "file:haiku.gguf", "file://{0}/haiku.gguf"]
)
async def test_every_way_to_name_a_file_means_the_same_model(place: Place, form: str) -> None:
    path = write_model(place.models / "haiku.gguf")
    model = await place.ensure(form.format(place.models))
    assert (model.id, model.local_path) == ("haiku", str(path))


@pytest.mark.req("MP-01")
async def test_a_home_directory_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_model(place.models / "haiku.gguf")
    monkeypatch.setenv("HOME", str(place.root))
    assert (await place.ensure("~/models/haiku.gguf")).local_path == str(path)
    error = await place.refuse("~nobody-of-this-name/haiku.gguf")
    assert error.message == "the home directory in ~nobody-of-this-name/haiku.gguf cannot be found"
    assert error.cause is Cause.MODEL_MISSING


async def test_a_link_keeps_its_name_and_its_folder_is_resolved(place: Place) -> None:
    write_model(place.root / "blob-1234")
    (place.models / "haiku.gguf").symlink_to(place.root / "blob-1234")
    (place.root / "elsewhere").symlink_to(place.models)
    model = await place.ensure(str(place.root / "elsewhere/../elsewhere/haiku.gguf"))
    assert (model.id, model.local_path) == ("haiku", str(place.models / "haiku.gguf"))


@pytest.mark.req("MP-03")
@pytest.mark.parametrize("form", ["sha256:{}", "{}", "SHA"])
async def test_the_right_digest_verifies(place: Place, form: str) -> None:
    path = write_model(place.models / "haiku.gguf")
    bare = sha256(path).removeprefix("sha256:")
    await place.ensure("haiku.gguf", bare.upper() if form == "SHA" else form.format(bare))
    assert place.catalog.get("haiku").verified_ms == NOW
    assert not any("not verified" in line for line in place.lines)


@pytest.mark.req("MP-02", "MP-03")
async def test_a_wrong_digest_is_refused_and_the_file_stays(place: Place) -> None:
    path = write_model(place.models / "haiku.gguf")
    error = await place.refuse("haiku.gguf", "0" * 64)
    assert error.cause is Cause.MODEL_DIGEST
    assert error.message == f"{path} has the digest {sha256(path)}, but sha256:{'0' * 64} is required"
    assert error.hint == "get the right model, or put the digest of this one into model_sha256 if you trust it"
    assert path.exists()
    assert place.catalog.list() == ()


@pytest.mark.req("MP-03")
async def test_a_remembered_digest_is_compared_too(place: Place) -> None:
    write_model(place.models / "haiku.gguf")
    await place.ensure("haiku.gguf")
    assert (await place.refuse("haiku.gguf", "0" * 64)).cause is Cause.MODEL_DIGEST


@pytest.mark.req("MP-03")
@pytest.mark.parametrize("digest", ["", "abc", "md5:" + "0" * 64, "sha256:" + "0" * 63, "g" * 64])
async def test_a_digest_that_is_none_is_said(place: Place, digest: str) -> None:
    error = await place.refuse("haiku.gguf", digest)
    assert (error.cause, error.message) == (Cause.MODEL_DIGEST, f"{digest!r} is no sha256 digest")
    assert error.hint == "it has 64 hexadecimal digits: `sha256sum FILE` prints it"


@pytest.mark.req("MP-01")
async def test_a_second_start_reads_no_weights_and_writes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(place.models / "haiku.gguf")
    first = await place.ensure("haiku.gguf")
    before = place.state()

    def no_reading(*_: object) -> str:
        pytest.fail("the file was read again")

    monkeypatch.setattr(digest, "_hash", no_reading)
    assert await place.provisioner(now_ms=NOW + 5).ensure_present("haiku.gguf") == first
    assert place.state() == before


@pytest.mark.req("MP-03", "MP-06")
async def test_a_changed_file_is_read_again_and_recorded(place: Place) -> None:
    path = write_model(place.models / "haiku.gguf")
    first = await place.ensure("haiku.gguf", sha256(path))
    write_model(path, name="Haiku 2")
    second = await place.ensure("haiku.gguf")
    assert second.id == "haiku"
    assert second.digest == sha256(path) != first.digest
    assert [line["digest"] for line in place.journal()] == [first.digest, second.digest]
    assert place.catalog.get("haiku").verified_ms is None  # that was another content


async def test_verifying_later_is_noted_and_not_forgotten(place: Place) -> None:
    path = write_model(place.models / "haiku.gguf")
    await place.ensure("haiku.gguf")
    await place.provisioner(NOW + 1).ensure_present("haiku.gguf", sha256(path))
    await place.provisioner(NOW + 2).ensure_present("haiku.gguf", sha256(path))
    await place.provisioner(NOW + 3).ensure_present("haiku.gguf")
    entry = place.catalog.get("haiku")
    assert (entry.created_ms, entry.verified_ms) == (NOW, NOW + 1)


@pytest.mark.req("MP-02")
async def test_a_missing_file_is_told_what_is_there(place: Place) -> None:
    error = await place.refuse("haiku.gguf")
    assert error.cause is Cause.MODEL_MISSING
    assert error.message == f"there is no model file {place.models / 'haiku.gguf'}"
    assert error.hint == f"there is no .gguf file in {place.models}"
    write_model(place.models / "hiaku.gguf")
    assert (await place.refuse("haiku.gguf")).hint == f"in {place.models} there is: hiaku.gguf"
    error = await place.refuse("/no-such-folder/models/haiku.gguf")
    assert error.hint == "/ exists, but not /no-such-folder"
    error = await place.refuse("hiaku.gguf/haiku.gguf")
    assert error.cause is Cause.MODEL_MISSING


@pytest.mark.req("MP-02")
async def test_what_is_no_model_file_is_refused(place: Place) -> None:
    (place.models / "llama").mkdir()
    (place.models / "llama/model.gguf").touch()
    (place.models / "model.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{}")
    (place.models / "damaged.gguf").write_bytes(b"<!DOCTYPE html>")
    (place.models / "empty.gguf").touch()
    os.mkfifo(place.models / "pipe.gguf")
    (place.models / "loop.gguf").symlink_to(place.models / "loop.gguf")
    reads = "a model is a .gguf file for llama.cpp, or a directory with config.json"
    for name, cause, message, hint in (
        ("llama", Cause.MODEL_INVALID, "is a directory without config.json", "give the path of the file itself"),
        ("model.safetensors", Cause.MODEL_INVALID, "this is no GGUF file: it does not begin with GGUF", reads),
        (
            "damaged.gguf",
            Cause.MODEL_INVALID,
            "this is no GGUF file: it does not begin with GGUF",
            "download or copy it again",
        ),
        ("empty.gguf", Cause.MODEL_INVALID, "the file ends in the middle of the header (at byte 0)", "download"),
        ("pipe.gguf", Cause.MODEL_INVALID, "is not a regular file", reads),
        ("loop.gguf", Cause.MODEL_MISSING, "Too many levels of symbolic links", "check the path"),
        ("n" * 300, Cause.MODEL_MISSING, "File name too long", "check the path"),
    ):
        error = await place.refuse(name)
        assert error.cause is cause
        assert message in error.message
        assert str(place.models / name) in error.message
        assert hint in error.hint


def test_every_refusal_of_the_system_has_its_mend() -> None:
    path = Path("/models/haiku.gguf")
    denied = local.unusable(path, PermissionError(errno.EACCES, "Permission denied"))
    assert denied.message == "the model file /models/haiku.gguf cannot be read: permission denied"
    assert denied.hint.startswith("let the user of pool-managerd read it: chmod a+r /models/haiku.gguf")
    broken = local.unusable(path, OSError(errno.EIO, "Input/output error"))
    assert broken.hint == "the disk reports an error: see `dmesg`"
    assert local.unusable(path, NotRegularError(path)).cause is Cause.MODEL_INVALID


@pytest.mark.req("MP-02", "MP-05")
async def test_a_file_that_was_cut_off_is_refused(place: Place) -> None:
    whole = write_model(place.models / "haiku.gguf").read_bytes()
    path = place.models / "cut.gguf"
    for size in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:size])
        error = await place.refuse("cut.gguf")
        assert error.cause is Cause.MODEL_INVALID
        assert error.message == f"{path} was cut off: it has {size} bytes, and its tensors need {len(whole)}"
    path.write_bytes(whole[:700])
    error = await place.refuse("cut.gguf")
    assert error.message.startswith(f"{path} cannot be used: the file ends in the middle of the value of 'tokenizer")


async def test_a_head_longer_than_a_window_is_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_head, "WINDOW", 1 << 17)
    write_model(place.models / "haiku.gguf", vocabulary=30_000)
    assert (await place.ensure("haiku.gguf")).ctx_max == 256


def test_a_file_that_shrinks_while_its_head_is_read_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(head(key("general.name", STRING, text("x" * 900)))[:500])
    with path.open("rb") as file, pytest.raises(GgufError, match="ends in the middle of the value"):
        local._read_head(file.fileno(), 5000)  # noqa: SLF001 - a size from before


@pytest.mark.req("MP-02")
async def test_an_unknown_scheme_is_refused(place: Place) -> None:
    error = await place.refuse("ftp://host/haiku.gguf")
    assert error.cause is Cause.MODEL_INVALID
    assert "is not one of: file, hf, https, s3, oci" in error.message


@pytest.mark.req("MP-02")
async def test_a_full_disk_leaves_nothing_half_written(place: Place) -> None:
    write_model(place.models / "haiku.gguf")
    with no_file_longer_than(50):
        error = await place.refuse("haiku.gguf")
    assert error.cause is Cause.INTERNAL
    assert error.message == f"cannot use {place.provenance / 'models.jsonl'}: No space left on device"
    assert error.hint.startswith("make room on the disk")
    assert place.catalog.list() == ()
    await place.ensure("haiku.gguf")
    assert len(place.journal()) == 1


@pytest.mark.req("MP-02")
async def test_a_disk_that_is_full_at_the_last_step_leaves_no_entry(place: Place) -> None:
    write_model(place.models / "haiku.gguf")
    await place.ensure("haiku.gguf")
    index, journal = place.root / "data/catalog/models.json", place.provenance / "models.jsonl"
    between = (index.stat().st_size + journal.stat().st_size) // 2
    assert journal.stat().st_size < between < index.stat().st_size
    shutil.rmtree(place.root / "data")
    with no_file_longer_than(between), pytest.raises(ModelError, match=r"models\.json: File too large"):
        await place.ensure("haiku.gguf")
    assert place.catalog.list() == ()
    assert [path.name for path in index.parent.iterdir()] == ["models.json.lock"]
    await place.ensure("haiku.gguf")
    assert place.catalog.exists("haiku")


@pytest.mark.req("MP-02")
async def test_a_newer_catalog_is_left_alone(place: Place) -> None:
    write_model(place.models / "haiku.gguf")
    (place.root / "data/catalog").mkdir(parents=True)
    (place.root / "data/catalog/models.json").write_text('{"schema": 3, "entries": {}}')
    error = await place.refuse("haiku.gguf")
    assert error.cause is Cause.INTERNAL
    assert "has schema 3, but this version reads schema 2" in error.message


@pytest.mark.req("CAT-04")
async def test_a_lost_catalog_is_rebuilt_from_provenance_and_what_is_on_the_disk(place: Place) -> None:
    for name in ("one", "two", "three", "four"):
        write_model(place.models / f"{name}.gguf", name=name)
        await place.ensure(f"{name}.gguf")
    two = place.catalog.get("two")
    (place.models / "three.gguf").unlink()
    (place.models / "four.gguf").write_bytes(b"another file by now")
    (place.root / "data/catalog/models.json").write_bytes(b"\0" * 100)  # nothing in it can be saved
    place.lines.clear()
    await place.ensure("one.gguf")
    assert "models.json could not be read" in place.lines[-1]
    assert "kept as models.json.corrupt-1, 2 entries rebuilt" in place.lines[-1]
    (line,) = (place.provenance / "catalog.jsonl").read_text().splitlines()
    assert (json.loads(line)["kind"], json.loads(line)["message"]) == ("recovered", place.lines[-1])
    assert [entry.id for entry in place.catalog.list()] == ["one", "two"]
    assert (place.catalog.get("two").digest, place.catalog.get("two").local_path) == (two.digest, two.local_path)
    assert place.catalog.get("one").ctx_max == 256


async def test_two_models_of_one_name_have_two_ids(place: Place) -> None:
    for folder in ("a", "b", "c"):
        (place.models / folder).mkdir()
    write_model(place.models / "a/haiku.gguf", name="A")
    write_model(place.models / "b/haiku.gguf", name="BB")
    (place.models / "c/haiku.gguf").write_bytes((place.models / "a/haiku.gguf").read_bytes())
    provisioner = place.provisioner()
    async with asyncio.TaskGroup() as group:
        one = group.create_task(provisioner.ensure_present("a/haiku.gguf"))
        other = group.create_task(provisioner.ensure_present("b/haiku.gguf"))
    first, second = sorted((one.result(), other.result()), key=lambda model: len(model.id))
    assert first.id == "haiku"
    assert second.id == f"haiku-{second.digest[7:15]}"
    assert {entry.id for entry in place.catalog.list()} == {first.id, second.id}
    assert (await place.ensure("a/haiku.gguf")).id == one.result().id
    assert (await place.ensure("b/haiku.gguf")).id == other.result().id
    if one.result().id == "haiku":
        assert (await place.ensure("c/haiku.gguf")).id == "haiku"  # the same content


async def test_a_model_that_moved_keeps_its_id(place: Place) -> None:
    path = write_model(place.models / "haiku.gguf")
    await place.ensure("haiku.gguf")
    path.rename(place.root / "haiku.gguf")
    moved = await place.ensure(str(place.root / "haiku.gguf"))
    assert moved.id == "haiku"
    assert [entry.local_path for entry in place.catalog.list()] == [str(place.root / "haiku.gguf")]


async def test_an_id_whose_file_is_gone_is_free_again(place: Place) -> None:
    old = write_model(place.root / "haiku.gguf", name="Older")
    await place.ensure(str(old))
    old.unlink()
    write_model(place.models / "haiku.gguf")
    assert (await place.ensure("haiku.gguf")).id == "haiku"


async def test_two_pools_with_one_model_read_it_once(place: Place) -> None:
    write_model(place.models / "haiku.gguf")
    provisioner = place.provisioner()
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(provisioner.ensure_present("haiku.gguf", progress=place.lines.append))
    assert sum(line.startswith("computing the digest") for line in place.lines) == 1
    assert len(place.journal()) == 1


async def test_the_event_loop_goes_on_and_a_cancel_is_quick(place: Place) -> None:
    path = place.models / "large.gguf"
    path.write_bytes(head(tensors=(tensor("w", [1 << 36], kind=0),)))
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # sparse: its digest would take the better part of an hour
    hashing = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(place.provisioner().ensure_present("large.gguf", progress=lambda _: hashing.set()))
        await hashing.wait()
        for _ in range(1000):
            await asyncio.sleep(0)  # nothing holds the loop
        task.cancel()
    assert task.cancelled()
    assert place.catalog.list() == ()
    assert not (place.provenance / "models.jsonl").exists()


# --- out of use -------------------------------------------------------------------------------------------------------


@pytest.mark.req("CAT-03")
@pytest.mark.parametrize("ref", ["haiku.gguf", "./haiku.gguf", "file:haiku.gguf"])
async def test_a_retired_model_is_refused_and_stays_retired(
    place: Place, ref: str, operator_sees: OperatorSees
) -> None:
    write_model(place.models / "haiku.gguf")
    await place.ensure("haiku.gguf")
    place.catalog.set_state("haiku", ModelState.RETIRED, "its licence ended")
    error = await place.refuse(ref)
    assert error.cause is Cause.MODEL_RETIRED
    operator_sees("model/retired", error.render())
    assert error.message == "the model haiku is Retired: its licence ended"
    assert error.hint == "`llama-orch models activate haiku` brings it back; or give the pool another model"


@pytest.mark.req("CAT-03")
async def test_a_retired_model_is_refused_by_another_name_too(place: Place) -> None:
    write_model(place.models / "haiku.gguf")
    await place.ensure("haiku.gguf")
    place.catalog.set_state("haiku", ModelState.RETIRED)
    (place.models / "copy").mkdir()
    (place.models / "copy/haiku.gguf").hardlink_to(place.models / "haiku.gguf")
    error = await place.refuse("copy/haiku.gguf")
    assert error.message == "the model haiku is Retired: an operator took it out of use"


@pytest.mark.req("CAT-03")
async def test_who_asks_for_a_retired_model_by_name_has_it_back(place: Place) -> None:
    write_model(place.models / "haiku.gguf")
    await place.ensure("haiku.gguf")
    place.catalog.alter("haiku", lambda entry: replace(entry, pinned=True))
    place.catalog.set_state("haiku", ModelState.RETIRED, "a mistake")
    await place.provisioner().ensure_present("haiku.gguf", revive=True)
    entry = place.catalog.get("haiku")
    assert (entry.state, entry.state_reason, entry.pinned) == (ModelState.ACTIVE, None, True)


@pytest.mark.req("CAT-03")
async def test_a_start_changes_nothing_that_an_operator_said_of_a_model(place: Place) -> None:
    path = write_model(place.models / "haiku.gguf")
    await place.ensure("haiku.gguf")
    place.catalog.alter("haiku", lambda entry: replace(entry, pinned=True))
    write_model(path, name="Another")
    await place.ensure("haiku.gguf")
    assert place.catalog.get("haiku").pinned
