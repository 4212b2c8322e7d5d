"""The heads of safetensors files and their index: where tensors end, and which files there have to be."""

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_provisioner.json_fields import ConfigError
from model_provisioner.safetensors import MAX_FILES, files_in, tensors_end


def head(*offsets: tuple[int, int], **more: object) -> bytes:
    tensors = {f"w{n}": {"dtype": "U8", "shape": [1], "data_offsets": each} for n, each in enumerate(offsets)}
    return json.dumps({**tensors, **more}).encode()


@pytest.mark.req("MP-05")
@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"{}", 0),
        (b" { } \n", 0),
        (head((0, 4)), 4),
        (head((4, 10), (0, 4), (10, 10)), 10),
        (head((0, 4), __metadata__={"format": "pt", "{": '}"{\\'}), 4),
        (head((0, 4)).ljust(200), 4),
        (json.dumps({'é"\\{}': {"data_offsets": [0, 7]}}, indent=4).encode(), 7),
    ],
    ids=range(7),
)
def test_where_the_tensors_end(data: bytes, end: int) -> None:
    assert tensors_end(data) == end


@pytest.mark.req("MP-05")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is no JSON"),
        (b"[]", "it is no JSON object"),
        (b'"a"', "it is no JSON object"),
        (b"[" * 100_000, "it is no JSON"),
        (b"\xff" * 99, "it is no JSON"),
        (b'{"w": 7}', "it has something else at byte 1"),
        (b'{"w": {"data_offsets": {}}}', "it has something else at byte 1"),
        (b'{"w": {"a": [[1]]}}', "a tensor is not described"),
        (b'{"w": {}}', "a tensor is not described"),
        (b'{"w": {"data_offsets": [1]}}', "a tensor is not described"),
        (b'{"w": {"data_offsets": ["0", 1]}}', "a tensor is not described"),
        (b'{"w": {"data_offsets": [0, 1e400]}}', "a tensor is not described"),
        (b'{"w": {"data_offsets": [0, %s]}}' % (b"9" * 99_999), "a tensor is not described"),
        (head((-1, 4)), "a tensor goes from -1 to 4"),
        (head((4, 0)), "a tensor goes from 4 to 0"),
        (head((0, 4), (2, 6)), "its tensors have 8 bytes and end at 6, so they overlap or leave gaps"),
        (head((4, 8)), "its tensors have 4 bytes and end at 8, so they overlap or leave gaps"),
    ],
    ids=range(17),
)
def test_a_hostile_head_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tensors_end(data)


@pytest.mark.req("MP-04", "MP-05")
def test_the_index_names_files_once() -> None:
    weight_map = {"a": "model-2.safetensors", "b": "model-1.safetensors", 'c\\"': "model-2.safetensors"}
    index = json.dumps({"metadata": {"total_size": 9}, "weight_map": weight_map}, indent=2).encode()
    assert files_in(index) == ("model-1.safetensors", "model-2.safetensors")
    assert files_in(b'{"weight_map": {"a": "\\u0041.safetensors"}}') == ("A.safetensors",)


@pytest.mark.req("MP-02", "MP-05")
@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "../w.safetensors",
        "/w.safetensors",
        "a/w.safetensors",
        "\\u002e\\u002e\\u002fw.safetensors",
        "",
        ".",
        "w.bin",
        "w.safetensors\\u0000",
        "\\u001b[2J.safetensors",
        "a\\nb.safetensors",
    ],
)
def test_an_index_leads_nowhere_else(name: str) -> None:
    with pytest.raises(ConfigError, match="its weight_map does not name files of this directory"):
        files_in(b'{"weight_map": {"a": "w.safetensors", "b": "%s"}}' % name.encode())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it is no JSON object with a weight_map"),
        (b"{}", "it is no JSON object with a weight_map"),
        (b"[]", "it is no JSON object with a weight_map"),
        (b'{"weight_map": 1}', "it is no JSON object"),
        (b'{"weight_map": {}}', "does not name files"),
        (b'{"weight_map": {"a": 1}}', "something else at byte 1"),
        (b'{"weight_map": {"a": {"b": "c"}}}', "something else at byte 1"),
        (b'{"weight_map": {"a": "\xff"}}', "it is no UTF-8"),
        (b'{"weight_map": {"a": "%s.safetensors"}}' % (b"a" * 2000), "a name without end"),
        (b'{"weight_map": {"a": "\\ud800.safetensors"}}', "names files that nobody can have|is no JSON"),
        (
            json.dumps({"weight_map": {str(n): f"{n}.safetensors" for n in range(MAX_FILES + 1)}}).encode(),
            f"its weight_map names more than {MAX_FILES} files",
        ),
    ],
    ids=range(11),
)
def test_a_hostile_index_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        files_in(data)


def test_a_hundred_thousand_entries_cost_no_more_than_their_bytes() -> None:
    entries = b",".join(b'"%06d":{"data_offsets":[%d,%d]}' % (n, n, n + 1) for n in range(100_000))
    data = b"{" + entries + b"}"
    index = b'{"weight_map": {' + b",".join(b'"%07d":"w.safetensors"' % n for n in range(100_000)) + b"}}"
    del entries
    tracemalloc.start()
    try:
        assert tensors_end(data) == 100_000
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        assert files_in(index) == ("w.safetensors",)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


names = st.text(min_size=1, max_size=9).map(lambda text: text.encode("utf-8", "ignore").decode())


@given(st.dictionaries(names, st.integers(0, 99)), st.booleans())
def test_whatever_the_names_are_the_sum_is_right(sizes: dict[str, int], escaped: bool) -> None:
    document, end = {}, 0
    for name, size in sizes.items():
        document[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    expected = end - sizes.get("__metadata__", 0)
    data = json.dumps(document, ensure_ascii=escaped).encode()
    if expected == end:
        assert tensors_end(data) == end
