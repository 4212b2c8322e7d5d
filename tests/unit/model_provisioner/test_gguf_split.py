"""A model that was split into several GGUF files: found by its first part, and only whole."""

import hashlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.engines import WeightSizes
from contracts.pools import Cause
from model_provisioner import digest, gguf_split, local
from model_provisioner.gguf import Facts
from model_provisioner.gguf_split import PartName, SplitError, join, names_of, part_name, part_names
from tests.unit.model_provisioner.heads import STRING, head, key, number, tensor, text, write_model
from tests.unit.model_provisioner.place import Place

U16 = 2


def write_split(folder: Path, *, name: str = "haiku") -> list[Path]:
    write_model(folder / f"{name}.gguf", split=1)
    return [folder / part for part in part_names(name, 3)]


def part(*, no: int, count: int = 2, tensors: int = 2, arch: str | None = None, own: tuple[bytes, ...] = ()) -> bytes:
    numbers = {"split.no": no, "split.count": count, "split.tensors.count": tensors}
    keys = [key(name, U16, number(U16, value)) for name, value in numbers.items()]
    if arch is not None:
        keys.insert(0, key("general.architecture", STRING, text(arch)))
    own = own or (tensor(f"blk.{no}.w", [8]),)
    return head(*keys, tensors=own) + b"\0" * 99


@pytest.mark.req("MP-05", "MP-04")
async def test_a_split_model_is_one_model(place: Place) -> None:
    paths = write_split(place.models)
    whole = local.inspect(str(write_model(place.models / "whole.gguf")))
    found = local.inspect(str(paths[0]))
    assert [file.path for file in found.files] == paths
    assert [file.name for file in found.files] == [path.name for path in paths]
    assert found.size_bytes == sum(path.stat().st_size for path in paths)
    assert found.weights == whole.weights
    assert isinstance(found.facts, Facts)
    assert isinstance(whole.facts, Facts)
    split = {"split_count": 3, "split_tensors": 3, "min_file_size": found.facts.min_file_size}
    assert found.facts == msgspec.structs.replace(whole.facts, **split)

    model = await place.ensure("haiku-00001-of-00003.gguf")
    lines = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in paths)
    assert (model.id, model.local_path, model.size_bytes) == ("haiku", str(paths[0]), found.size_bytes)
    assert model.digest == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    assert place.catalog.get("haiku").digest == model.digest
    assert model.parts == (str(paths[1]), str(paths[2]))


@pytest.mark.req("MP-01")
async def test_a_second_start_reads_no_part_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_split(place.models)
    first = await place.ensure(paths[0].name)
    monkeypatch.setattr(digest, "_hash", lambda *_: pytest.fail("a file was read again"))
    assert await place.ensure(paths[0].name) == first


async def test_links_to_the_parts_of_a_download_cache_are_followed(place: Place) -> None:
    blobs, snapshot = place.root / "blobs", place.root / "snapshots/1"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in write_split(blobs):
        blob = path.rename(blobs / hashlib.sha256(path.name.encode()).hexdigest())
        (snapshot / path.name).symlink_to(blob)
    assert (await place.ensure(str(snapshot / "haiku-00001-of-00003.gguf"))).id == "haiku"


@pytest.mark.req("MP-02")
async def test_a_part_that_is_missing_is_named(place: Place) -> None:
    paths = write_split(place.models)
    paths[1].unlink()
    error = await place.refuse(paths[0].name)
    assert error.cause is Cause.MODEL_MISSING
    assert error.message == f"{paths[0]} is split into 3 parts, and 1 of them are missing: {paths[1]}"
    assert error.hint == f"download or copy all parts into {place.models}"


@pytest.mark.req("MP-02")
async def test_any_other_part_names_the_first(place: Place) -> None:
    paths = write_split(place.models)
    error = await place.refuse(paths[2].name)
    assert error.message == f"{paths[2]} cannot be used: it is part 3 of 3 of a model"
    assert error.hint == "give the first part: haiku-00001-of-00003.gguf"
    renamed = paths[0].rename(place.models / "haiku.gguf")
    error = await place.refuse(renamed.name)
    assert error.message == f"{renamed} cannot be used: it is part 1 of 3 of a model, and its name does not say so"
    assert error.hint == "rename all parts to what they were: this one to NAME-00001-of-00003.gguf"


@pytest.mark.req("MP-02", "MP-05")
async def test_a_part_that_was_cut_off_is_named(place: Place) -> None:
    paths = write_split(place.models)
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[:-1])
    error = await place.refuse(paths[0].name)
    assert error.message == f"{paths[1]} was cut off: it has {len(data) - 1} bytes, and its tensors need {len(data)}"
    paths[1].write_bytes(b"<!DOCTYPE html>")
    assert (await place.refuse(paths[0].name)).message.startswith(f"{paths[1]} cannot be used: this is no GGUF file")


FIRST = part(no=0, arch="llama")


@pytest.mark.req("MP-02", "MP-05")
@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (FIRST, FIRST, "{2} says that it is part 1 of 2, not part 2 of 2"),
        (FIRST, part(no=2, count=3), "{2} says that it is part 3 of 3, not part 2 of 2"),
        (FIRST, head(tensors=(tensor("v", [8]),)) + b"\0" * 99, "{2} says that it is part 1 of 1, not part 2 of 2"),
        (FIRST, part(no=1, tensors=3), "{2} belongs to a model of 3 tensors, and {1} to one of 2 tensors"),
        (FIRST, part(no=1, arch="qwen3"), "{2} belongs to a model of the architecture qwen3, and {1} to llama"),
        (part(no=0, tensors=9), part(no=1, tensors=9), "the parts have 2 tensors, and the model has 9 tensors"),
    ],
    ids=["the first twice", "of another split", "no part", "other tensors", "another architecture", "too few tensors"],
)
async def test_parts_that_do_not_belong_together_are_refused(
    place: Place, first: bytes, second: bytes, message: str
) -> None:
    names = part_names("m", 2)
    for name, data in zip(names, (first, second), strict=True):
        (place.models / name).write_bytes(data)
    error = await place.refuse(names[0])
    assert error.cause is Cause.MODEL_INVALID
    told = message.replace("{1}", names[0]).replace("{2}", names[1])
    assert error.message == f"{place.models / names[0]} cannot be used: {told}"
    assert error.hint == "get all parts again, from one place"


@pytest.mark.req("MP-05")
def test_experts_and_an_output_in_different_parts_add_up() -> None:
    def facts(weights: WeightSizes | None, *, no: int, own_output: bool = False, tensors: int = 1) -> Facts:
        return Facts(
            version=3,
            tensor_count=tensors,
            parameters=1,
            min_file_size=1,
            split_no=no,
            split_count=3,
            split_tensors=2,
            weights=weights,
            own_output=own_output,
        )

    names = part_names("m", 3)
    empty = facts(None, no=0, tensors=0)  # the first part may have what the model says of itself alone
    layers = facts(WeightSizes(layers=70, experts=50, output=30, input=30), no=1)
    output = facts(WeightSizes(layers=7, output=20), no=2, own_output=True)
    found = join(names, [empty, layers, output])
    assert found.weights == WeightSizes(layers=77, experts=50, output=20, input=30)
    assert (found.parameters, found.tensor_count, found.own_output) == (3, 2, True)
    tied = facts(WeightSizes(layers=7), no=2)
    assert join(names, [empty, layers, tied]).weights == WeightSizes(layers=77, experts=50, output=30, input=30)
    assert join(names, [empty, layers, facts(None, no=2)]).weights is None


def test_more_parts_than_anybody_has_are_refused() -> None:
    first = Facts(version=3, tensor_count=1, parameters=1, min_file_size=1, split_count=60_000)
    with pytest.raises(SplitError, match="one of 60000 parts, and 1024 are the most"):
        names_of("m-00001-of-60000.gguf", first)


@pytest.mark.parametrize(
    "name",
    [
        "m.gguf",
        "m-00001-of-00003.bin",
        "m-1-of-3.gguf",
        "-00001-of-00003.gguf",
        "m-00000-of-00003.gguf",
        "m-00004-of-00003.gguf",
        "m-00001-of-00003.gguf\n",
    ],
)
def test_other_names_are_no_parts(name: str) -> None:
    assert part_name(name) is None


@given(st.text(min_size=1), st.integers(1, gguf_split.MAX_PARTS), st.data())
def test_a_name_says_what_made_it(stem: str, count: int, data: st.DataObject) -> None:
    number = data.draw(st.integers(1, count))
    assert part_name(part_names(stem, count)[number - 1]) == PartName(stem=stem, number=number, count=count)
