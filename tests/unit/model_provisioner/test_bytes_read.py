"""How many bytes of a model are read, by the kernel's own count: all of them once, and never again."""

import os
from pathlib import Path

import pytest

from model_provisioner.gguf_split import part_names
from tests.unit.model_provisioner.heads import safetensors, write_directory, write_model
from tests.unit.model_provisioner.place import Place

LARGE = 24 << 20


def bytes_read() -> int:
    """By this process, from whatever, since it began."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("rchar:"))


def write(place: Place, kind: str) -> Path:
    """A model with some tens of megabytes of weights."""
    if kind == "directory":
        path = write_directory(place.models / "llama", shards=1)
        (path / "model.safetensors").write_bytes(safetensors(LARGE))
        return path
    if kind == "split":
        write_model(place.models / "m.gguf", split=2)
        paths = [place.models / name for name in part_names("m", 2)]
    else:
        paths = [write_model(place.models / "m.gguf")]
    for path in paths:
        with path.open("ab") as file:
            file.write(os.urandom(LARGE // len(paths)))
    return paths[0]


@pytest.mark.req("MP-01")
@pytest.mark.parametrize("kind", ["file", "split", "directory"])
async def test_a_model_is_read_once_and_not_at_the_next_start(place: Place, kind: str) -> None:
    path = write(place, kind)
    start = bytes_read()
    first = await place.ensure(str(path))
    once = bytes_read() - start
    assert LARGE <= once < LARGE + (2 << 20)

    start = bytes_read()
    assert await place.ensure(str(path)) == first  # a new provisioner, as at the next start
    assert bytes_read() - start < 1 << 20


@pytest.mark.req("MP-01")
async def test_of_a_split_model_only_the_part_that_changed_is_read_again(place: Place) -> None:
    path = write(place, "split")
    first = await place.ensure(str(path))
    os.utime(place.models / part_names("m", 2)[1], ns=(1, 1))
    start = bytes_read()
    assert (await place.ensure(str(path))).digest == first.digest
    assert LARGE // 2 <= bytes_read() - start < LARGE // 2 + (2 << 20)
