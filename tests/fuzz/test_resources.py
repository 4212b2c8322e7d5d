"""What the worst files cost that anybody can make: memory, time and bytes read, in a process that may have no more."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model_provisioner import gguf_head, gguf_split, hf_config, safetensors
from tests.fuzz.conftest import Cost
from tests.fuzz.corpus import SEEDS
from tests.unit.model_provisioner.heads import (
    ARRAY,
    LLAMA_8B,
    STRING,
    U32,
    array,
    head,
    key,
    number,
    tensor,
    text,
    write_directory,
    write_model,
)

OWN_READS = 4096
"""Bytes of /proc that the child reads about itself."""
ROOT = Path(__file__).parents[2]
MIB = 1 << 20
SOME_MB = 12
"""Of address space for an ordinary model, most of it what the allocator takes at once; it resides in a few."""


def inspected(path: Path, extra_mb: int) -> dict[str, Any]:
    argv = [sys.executable, "-m", "tests.fuzz.inspect_child", str(path), str(extra_mb)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sparse(path: Path, data: bytes, size: int) -> Path:
    path.write_bytes(data)
    os.truncate(path, size)
    return path


ARCH = key("general.architecture", STRING, text("x"))
HUGE_TENSOR = tensor("w", [20 << 30], kind=24)


@pytest.mark.req("MP-05", "MP-01")
def test_twenty_gigabytes_cost_as_much_as_their_head(tmp_path: Path) -> None:
    data = head(ARCH, key("x.context_length", U32, number(U32, 8192)), tensors=(HUGE_TENSOR,))
    path = sparse(tmp_path / "large.gguf", data, (20 << 30) + 4096)
    found = inspected(path, SOME_MB)
    assert (found["ctx"], found["size"]) == (8192, (20 << 30) + 4096)
    assert found["memory"] < 4 * MIB
    assert found["read"] <= gguf_head.WINDOW + OWN_READS
    assert found["seconds"] < 0.1


@pytest.mark.req("MP-05")
def test_the_largest_vocabularies_cost_a_few_megabytes(tmp_path: Path) -> None:
    tokens = key("tokenizer.ggml.tokens", ARRAY, array(STRING, [text(f"token {n}") for n in range(262_144)]))
    scores = key("tokenizer.ggml.scores", ARRAY, struct.pack("<IQ", 6, 262_144) + b"\0" * 4 * 262_144)
    merges = key("tokenizer.ggml.merges", ARRAY, array(STRING, [text("abc def")] * 500_000))
    template = key("tokenizer.chat_template", STRING, text("x" * 20_000))
    data = head(ARCH, tokens, scores, merges, template, tensors=(HUGE_TENSOR,))
    found = inspected(sparse(tmp_path / "large.gguf", data, (20 << 30) + (32 << 20)), SOME_MB)
    assert "ctx" in found, found
    assert found["memory"] < 5 * MIB
    assert found["read"] < len(data)  # the scores are passed over
    assert found["seconds"] < 3


@pytest.mark.req("MP-05")
def test_a_hundred_shards_cost_a_few_megabytes(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "model", shards=100)
    tensors, end = {}, 0
    for each in range(400):
        tensors[f"model.layers.{each}.mlp.experts.7.down_proj.weight"] = {
            "dtype": "BF16",
            "shape": [1 << 10, 1 << 15],
            "data_offsets": [end, end + (64 << 20)],
        }
        end += 64 << 20
    encoded = json.dumps(tensors).encode()
    for shard in path.glob("*.safetensors"):
        sparse(shard, struct.pack("<Q", len(encoded)) + encoded, 8 + len(encoded) + end)
    found = inspected(path, SOME_MB)
    assert found["size"] == 100 * (8 + len(encoded) + end)
    assert found["memory"] < 5 * MIB
    assert found["read"] < 101 * (len(encoded) + 4096)
    assert found["seconds"] < 5


@pytest.mark.req("MP-04", "MP-05")
def test_a_split_of_sixty_gigabytes_costs_as_much_as_its_heads(tmp_path: Path) -> None:
    names = gguf_split.part_names("m", 3)
    for no, name in enumerate(names):
        numbers = {"split.no": no, "split.count": 3, "split.tensors.count": 3}
        keys = [key(each, 2, number(2, value)) for each, value in numbers.items()]
        sparse(tmp_path / name, head(ARCH, *keys, tensors=(HUGE_TENSOR,)), (20 << 30) + 4096)
    found = inspected(tmp_path / names[0], SOME_MB)
    assert (found["files"], found["size"]) == (3, 3 * ((20 << 30) + 4096))
    assert found["memory"] < 4 * MIB
    assert found["read"] <= 3 * gguf_head.WINDOW + OWN_READS


def _gguf_of(*keys: bytes, **fixed: Any) -> Callable[[Path], Path]:  # noqa: ANN401 - as of head
    def make(folder: Path) -> Path:
        return sparse(folder / "m.gguf", head(*keys, **fixed), 200 * MIB)

    return make


def _directory(name: str, data: bytes, *, front: bytes = b"") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = write_directory(folder / "model", shards=1)
        (path / name).write_bytes(front + data)
        return path

    return make


def _filled(start: bytes, item: bytes, end: bytes, size: int) -> bytes:
    return start + item * ((size - len(start) - len(end)) // len(item)) + end


def _config(start: bytes, item: bytes, end: bytes) -> Callable[[Path], Path]:
    return _directory("config.json", _filled(b'{"model_type":"x",' + start, item, end, hf_config.MAX_CONFIG_BYTES))


def _head(start: bytes, item: bytes, end: bytes) -> Callable[[Path], Path]:
    size = safetensors.MAX_HEAD_BYTES
    data = _filled(start, item, end, size)
    return _directory("model.safetensors", data, front=struct.pack("<Q", len(data)))


def _index(start: bytes, item: bytes, end: bytes) -> Callable[[Path], Path]:
    return _directory("model.safetensors.index.json", _filled(start, item, end, safetensors.MAX_INDEX_BYTES))


STRINGS = struct.pack("<IQ", STRING, gguf_head.MAX_ITEMS - 1)
ARRAYS = struct.pack("<IQ", ARRAY, gguf_head.MAX_NESTED)
WORST: dict[str, tuple[Callable[[Path], Path], int]] = {
    "strings without end": (_gguf_of(key("a", ARRAY, STRINGS)), SOME_MB),
    "arrays in arrays": (_gguf_of(key("a", ARRAY, ARRAYS)), SOME_MB),
    "keys without end": (_gguf_of(*(key(f"{n:0900}", 0, b"\0") for n in range(4000)), key_count=4096), 24),
    "short keys": (_gguf_of(*(key(f"{n:04}", 0, b"\0") for n in range(4000)), key_count=4096), SOME_MB),
    "tensors without end": (
        _gguf_of(*(tensor(f"{n:05}", [1], offset=32 * n) for n in range(40_000)), tensor_count=65_000, key_count=0),
        24,
    ),
    "a template of a head's size": (
        _gguf_of(key("tokenizer.chat_template", STRING, struct.pack("<Q", gguf_head.MAX_HEAD_BYTES - 99))),
        SOME_MB,
    ),
    "a config of lists": (_config(b'"a":[', b"[],", b"[]]}"), 24),
    "a config of fields": (_config(b"", b'"a":{},', b'"b":1}'), 24),
    "a config of layers": (_config(b'"layer_types":[', b"1,", b"1]}"), 24),
    "a config of names": (_config(b'"architectures":["x",', b"{},", b"1]}"), 24),
    "a config of one number": (_config(b'"hidden_size":', b"9", b"}"), 24),
    "a config of depth": (_config(b'"a":', b"[", b""), 24),
    "settings of templates": (
        _directory("tokenizer_config.json", _filled(b'{"chat_template":[', b"0,", b"0]}", 1 * MIB)),
        24,
    ),
    "settings of named templates": (
        _directory(
            "tokenizer_config.json",
            _filled(b'{"chat_template":[', b'{"name":"","template":""},', b'{"name":"","template":""}]}', 1 * MIB),
        ),
        24,
    ),
    "a vocabulary that never says its kind": (
        _directory("tokenizer.json", _filled(b'{"model" : {"', b" ", b'"}}', 50 * MIB)),
        SOME_MB,
    ),
    "a head of entries": (_head(b"{", b'"a":{},', b'"b":{}}'), 40),
    "a head of tensors": (_head(b"{", b'"a":{"data_offsets":[0,0]},', b'"b":{"data_offsets":[0,0]}}'), 40),
    "a head of one name": (_head(b'{"\xf0\x9f\x98\x80', b"a", b'":{"data_offsets":[0,0]}}'), 72),
    "a head of escapes": (_head(b'{"', b"\\n", b'":{"data_offsets":[0,0]}}'), 72),
    "a head of metadata": (_head(b'{"__metadata__":{"a":"', b"{", b'"}}'), 72),
    "a head of spaces": (_head(b"{", b" ", b"}"), 40),
    "an index of entries": (_index(b'{"weight_map":{', b'"a":"",', b'"b":""}}'), 80),
    "an index of files": (_index(b'{"weight_map":{', b'"a":"\\u0041.safetensors",', b'"b":"b.safetensors"}}'), 80),
    "an index of one name": (_index(b'{"weight_map":{"a":"', b"a", b'.safetensors"}}'), 80),
}


@pytest.mark.req("MP-05")
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("make", "extra_mb"), WORST.values(), ids=WORST)
def test_the_worst_that_can_be_made_costs_what_is_said(
    tmp_path: Path, make: Callable[[Path], Path], extra_mb: int, cost: Cost, request: pytest.FixtureRequest
) -> None:
    found = inspected(make(tmp_path), extra_mb)
    cost(request.node.callspec.id, found["memory"], found["seconds"])
    assert found.get("message") != "it needed more memory than it may have"
    assert found["memory"] <= extra_mb * MIB
    assert found["seconds"] < 10
    assert found["read"] <= gguf_head.MAX_HEAD_BYTES + gguf_head.WINDOW


@pytest.mark.req("MP-05")
@pytest.mark.slow
def test_twice_the_size_takes_no_more_than_twice_the_time(tmp_path: Path) -> None:
    def seconds(items: int) -> float:
        data = key("a", ARRAY, struct.pack("<IQ", STRING, items) + text("ab") * items)
        path = tmp_path / f"{items}.gguf"
        path.write_bytes(head(data, ARCH))
        return min(float(inspected(path, SOME_MB)["seconds"]) for _ in range(3))

    assert seconds(2_000_000) < 5 * seconds(1_000_000)  # were it the square of it, 4 times and what is constant


@pytest.mark.req("MP-02")
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "loop", "link to a fifo", "link to nothing", "empty"])
@pytest.mark.parametrize("where", ["alone", "part", "config.json", "model.safetensors", "tokenizer_config.json"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str, where: str) -> None:
    path = given = tmp_path / "m.gguf"
    if where == "part":
        write_model(tmp_path / "m.gguf", split=2)
        given, path = (tmp_path / name for name in gguf_split.part_names("m", 2))
    elif where != "alone":
        given = write_directory(tmp_path / "model", LLAMA_8B, shards=1)
        path = given / where
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(os.path.relpath(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "link to a fifo":
        os.mkfifo(path.parent / "pipe")
        path.symlink_to("pipe")
    elif kind == "link to nothing":
        path.symlink_to("nothing")
    else:
        path.touch()
    found = inspected(given, SOME_MB)
    assert found["cause"] in {"model_missing", "model_invalid"}
    assert str(path) in found["message"]
    assert found["seconds"] < 1


def test_the_limit_is_one(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(SEEDS["gguf_head"][0] + b"\0" * 4096)
    assert inspected(path, SOME_MB)["ctx"] == 4096
    worst, _ = WORST["an index of entries"]
    assert inspected(worst(tmp_path), 8)["message"] == "it needed more memory than it may have"
