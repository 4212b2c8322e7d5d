"""What a GGUF head says, and that nothing in one can do harm."""

import struct
import time
import tracemalloc
from pathlib import Path

import gguf as reference
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.engines import KvLayout, WeightSizes
from model_provisioner import ggml, gguf
from model_provisioner.errors import GgufError
from model_provisioner.gguf import Facts, NeedMore, parse
from tests.unit.model_provisioner.heads import (
    ARRAY,
    BOOL,
    F32,
    FORMATS,
    I32,
    STRING,
    U32,
    array,
    head,
    key,
    number,
    tensor,
    text,
    write_model,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_model(tmp_path_factory.mktemp("model") / "haiku.gguf").read_bytes()


def facts(data: bytes) -> Facts:
    result = parse(data)
    assert isinstance(result, Facts), result
    return result


@pytest.mark.req("MP-05")
def test_a_real_file_says_what_it_is(model: bytes) -> None:
    assert facts(model) == Facts(
        version=3,
        tensor_count=3,
        parameters=300 * 64 + 64 + 64 * 64,
        min_file_size=len(model),
        arch="llama",
        name="Haiku",
        ctx_max=256,
        quant="F16",
        layers=2,
        heads=4,
        kv_heads=2,
        embedding=64,
        tokenizer="llama",
        has_chat_template=True,
        key_length=16,
        value_length=16,
        vocabulary=300,
        kv=KvLayout(key=64, value=64),
        weights=WeightSizes(layers=64 * 64 * 4, output=300 * 64 * 2 + 64 * 4, input=300 * 64 * 2),
    )


@pytest.mark.req("MP-05")
def test_it_agrees_with_the_reference_reader(tmp_path: Path) -> None:
    path = write_model(tmp_path / "haiku.gguf", template=False)
    reader = reference.GGUFReader(path)
    found = facts(path.read_bytes())
    assert found.parameters == sum(int(part.n_elements) for part in reader.tensors)
    assert found.tensor_count == len(reader.tensors)
    assert found.min_file_size >= max(int(part.data_offset + part.n_bytes) for part in reader.tensors)
    assert not found.has_chat_template


def test_the_tables_are_those_of_ggml() -> None:
    assert {int(kind): sizes for kind, sizes in reference.GGML_QUANT_SIZES.items()} == ggml.BLOCKS
    named = {
        int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for kind in reference.LlamaFileType
        if kind is not reference.LlamaFileType.GUESSED
    }
    assert named == ggml.FILE_TYPES
    assert int(reference.LlamaFileType.GUESSED) == ggml.FILE_TYPE_GUESSED


@pytest.mark.req("MP-05")
def test_only_what_is_missing_is_asked_for(model: bytes) -> None:
    asked = 0
    data = b""
    while isinstance(result := parse(data), NeedMore):
        assert len(data) < result.total <= len(model)
        data = model[: result.total]
        asked += 1
    assert result == facts(model)
    assert len(data) < len(model) // 2  # never the weights
    assert asked < 700


def test_an_array_of_strings_is_asked_for_at_once() -> None:
    start = head(key("a", ARRAY, struct.pack("<IQ", STRING, 100_000)))
    result = parse(start)
    assert isinstance(result, NeedMore)
    assert result.total == len(start) + 800_000


EVERY_KIND = [key(f"k{kind}", kind, number(kind, 1)) for kind in FORMATS] + [
    key(f"a{kind}", ARRAY, array(kind, [number(kind, 1)] * 3)) for kind in FORMATS
]


@pytest.mark.req("MP-05")
@pytest.mark.parametrize("version", [2, 3])
def test_values_of_every_type_are_passed_over(version: int) -> None:
    nested = key("nested", ARRAY, array(ARRAY, [array(STRING, [text("a"), text("")]), array(U32, [])]))
    strings = key("strings", ARRAY, array(STRING, [text("a"), text("é" * 9), text("")]))
    empty = key("empty", ARRAY, array(F32, []))
    last = key("general.architecture", STRING, text("llama"))
    found = facts(head(*EVERY_KIND, nested, strings, empty, last, version=version))
    assert (found.arch, found.version, found.tensor_count) == ("llama", version, 0)


ARCH = key("general.architecture", STRING, text("x"))


def test_an_empty_head_says_nothing() -> None:
    assert facts(head()) == Facts(version=3, tensor_count=0, parameters=0, min_file_size=24)


@pytest.mark.req("MP-05")
def test_numbers_that_differ_by_layer_give_the_largest() -> None:
    by_layer = key("x.attention.head_count", ARRAY, array(I32, [number(I32, n) for n in (8, 32, 16)]))
    found = facts(head(by_layer, ARCH))
    assert (found.heads, found.kv_heads) == (32, 32)


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 5, 10, 11])
def test_a_number_may_have_any_whole_type(kind: int) -> None:
    assert facts(head(ARCH, key("x.block_count", kind, number(kind, 100)))).layers == 100


@pytest.mark.parametrize(
    ("file_type", "name"), [(0, "F32"), (15, "Q4_K_M"), (15 + 1024, "Q4_K_M"), (32, "BF16"), (999, None)]
)
def test_the_quantization_has_the_name_that_people_know(file_type: int, name: str | None) -> None:
    assert facts(head(key("general.file_type", U32, number(U32, file_type)))).quant == name


def test_a_name_cannot_talk_to_a_terminal() -> None:
    assert facts(head(key("general.name", STRING, text("Hai\x1b[2Jku \xff")))).name == "Hai?[2Jku \xff"
    assert facts(head(key("general.name", STRING, text(b"\xff\n")))).name == "\ufffd?"


def test_a_part_of_a_split_model_says_so() -> None:
    assert facts(head(key("split.count", 2, number(2, 3)))).split_count == 3


def test_where_the_tensors_end() -> None:
    shape = tensor("w", [256, 2], kind=12, offset=64)  # Q4_K: 144 bytes for 256 weights
    found = facts(head(tensors=(shape,)))
    data_at = -(-len(head(tensors=(shape,))) // 32) * 32
    assert found.min_file_size == data_at + 64 + 2 * 144
    assert found.parameters == 512
    aligned = facts(head(key("general.alignment", U32, number(U32, 4096)), tensors=(shape,)))
    assert aligned.min_file_size == 4096 + 64 + 2 * 144
    newer = facts(head(tensors=(tensor("w", [256], kind=4711, offset=64),)))
    assert newer.min_file_size == 64 + 64


HUGE = (1 << 64) - 1
HOSTILE: dict[str, tuple[bytes, str]] = {
    "not a GGUF": (b"\x80\x02}q\x00" * 9, "this is no GGUF file: it begins with b'\\x80\\x02}q' instead of b'GGUF'"),
    "version 1": (head(version=1), "GGUF version 1 is not one of: 2, 3"),
    "version 4": (head(version=4), "GGUF version 4 is not one of: 2, 3"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3), "this GGUF file is big-endian"),
    "tensors": (head(tensor_count=HUGE), f"{HUGE} tensors are more than a head can hold"),
    "keys": (head(key_count=HUGE), f"{HUGE} keys are more than a head can hold"),
    "key length": (
        head(struct.pack("<Q", HUGE)),
        "key 1 of 1 has a string of 18446744073709551615 bytes, more than 65535",
    ),
    "value length": (
        head(key("a", STRING, struct.pack("<Q", HUGE))),
        "the value of 'a' has a string of 18446744073709551615 bytes",
    ),
    "value past the limit": (
        head(key("a", STRING, struct.pack("<Q", gguf.MAX_HEAD_BYTES))),
        "the value of 'a' would end past the 128 MiB",
    ),
    "items": (head(key("a", ARRAY, struct.pack("<IQ", U32, HUGE))), "items in the value of 'a' are more than a head"),
    "items past the limit": (
        head(key("a", ARRAY, struct.pack("<IQ", 0, gguf.MAX_ITEMS + 1))),
        "items in the value of 'a' are more than a head",
    ),
    "nesting": (
        head(key("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 10 + b"\0" * 99)),
        "the value of 'a' nests arrays deeper than 4",
    ),
    "type": (head(key("a", 13, b"\0" * 9)), "the value of 'a' has the unknown type 13"),
    "item type": (head(key("a", ARRAY, struct.pack("<IQ", 13, 1) + b"\0" * 9)), "an array of the unknown type 13"),
    "twice": (head(ARCH, ARCH), "the key 'general.architecture' is there twice"),
    "arch type": (head(key("general.architecture", U32, number(U32, 1))), "general.architecture is no string"),
    "arch array": (head(key("general.architecture", ARRAY, array(STRING, [text("x")]))), "is no string"),
    "arch length": (head(key("general.architecture", STRING, text("x" * 5000))), "is longer than 4096 bytes"),
    "arch name": (head(key("general.architecture", STRING, text("\x1b[2J"))), "is no name of an architecture"),
    "layers type": (head(ARCH, key("x.block_count", F32, number(F32, 1.5))), "x.block_count is no whole number"),
    "layers strings": (head(ARCH, key("x.block_count", ARRAY, array(STRING, [text("1")]))), "is no whole number"),
    "negative layers": (head(ARCH, key("x.block_count", I32, number(I32, -1))), "x.block_count is -1"),
    "many layers": (head(ARCH, key("x.block_count", 10, number(10, HUGE))), "x.block_count is 18446744073709551615"),
    "alignment 0": (head(key("general.alignment", U32, number(U32, 0))), "general.alignment is 0"),
    "alignment 48": (head(key("general.alignment", U32, number(U32, 48))), "general.alignment is 48"),
    "dimensions": (head(tensors=(text("w") + struct.pack("<I", 1 << 31) + b"\0" * 99,)), "has 2147483648 dimensions"),
    "tensor size": (head(tensors=(tensor("w", [HUGE, HUGE]),)), "tensor 1 of 1 is larger than any disk"),
    "tensor offset": (head(tensors=(tensor("w", [1], offset=HUGE),)), "tensor 1 of 1 is larger than any disk"),
    "tensor name": (head(tensors=(struct.pack("<Q", 1 << 40),)), "tensor 1 of 1 has a string of"),
}


@pytest.mark.req("MP-05")
@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_head_is_refused_with_the_place(data: bytes, message: str) -> None:
    with pytest.raises(GgufError) as caught:
        parse(data)
    assert message in caught.value.message
    assert 0 <= caught.value.offset <= len(data)
    assert str(caught.value) == f"{caught.value.message} (at byte {caught.value.offset})"


@pytest.mark.req("MP-05")
@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"", "the header"),
        (b"GGUF\x03\0\0", "the header"),
        (head(ARCH, key_count=2), "key 2 of 2"),
        (head(ARCH)[:-1], "the value of 'general.architecture'"),
        (head(tensors=(tensor("w", [1]),))[:-1], "tensor 1 of 1"),
    ],
    ids=range(5),
)
def test_a_head_that_goes_on_says_what_is_missing(data: bytes, where: str) -> None:
    result = parse(data)
    assert isinstance(result, NeedMore)
    assert result.total > len(data)
    assert result.where == where


def test_no_number_in_a_file_costs_memory_or_time() -> None:
    worst = [
        head(tensor_count=gguf.MAX_TENSORS, key_count=gguf.MAX_KEYS),
        head(key("a", ARRAY, struct.pack("<IQ", STRING, gguf.MAX_ITEMS))),
        head(key("a", ARRAY, struct.pack("<IQ", 0, gguf.MAX_ITEMS))),
        head(key("a", STRING, struct.pack("<Q", gguf.MAX_HEAD_BYTES - 200))),
    ]
    tracemalloc.start()
    try:
        started = time.process_time()
        for data in worst:
            assert isinstance(parse(data), NeedMore)
        assert time.process_time() - started < 1
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_longest_loop_is_bounded() -> None:
    # Two arrays of empty strings, each allowed by itself; only so many strings and arrays are read in all.
    many = struct.pack("<IQ", STRING, gguf.MAX_ITEMS // 2 + 1) + b"\0" * 8 * (gguf.MAX_ITEMS // 2 + 1)
    with pytest.raises(GgufError, match="more than 4194304 strings and arrays"):
        parse(head(key("a", ARRAY, many), key("b", ARRAY, many)))


def ends_well(data: bytes) -> Facts | NeedMore | GgufError:
    result: Facts | NeedMore | GgufError
    try:
        result = parse(data)
    except GgufError as error:
        result = error
    match result:
        case GgufError():
            assert 0 <= result.offset <= len(data)
            assert len(result.message) < 500
        case NeedMore():
            assert len(data) < result.total <= gguf.MAX_HEAD_BYTES
        case Facts():
            assert result.tensor_count <= gguf.MAX_TENSORS
    return result


@pytest.mark.req("MP-05")
@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"GGUF", b"GGUF\x03\0\0\0", head(key_count=3), head(tensor_count=3)])
)
@example(b"", b"")
def test_any_bytes_end_well(data: bytes, start: bytes) -> None:
    ends_well(start + data)


@pytest.mark.req("MP-05")
def test_every_truncation_asks_for_more(model: bytes) -> None:
    end = len(model)
    while isinstance(parse(model[: end // 2]), Facts):
        end //= 2
    for size in range(0, end // 2, 7):
        result = ends_well(model[:size])
        assert isinstance(result, NeedMore)


@pytest.mark.req("MP-05")
@settings(max_examples=400, deadline=None)
@given(st.data())
def test_every_flipped_bit_ends_well(model: bytes, data: st.DataObject) -> None:
    damaged = bytearray(model[:8192])
    for _ in range(data.draw(st.integers(1, 8))):
        # mostly where the keys are, whose lengths and types are all within the first 600 bytes
        place = data.draw(st.one_of(st.integers(0, 600), st.integers(0, len(damaged) - 1)))
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    ends_well(bytes(damaged))


keys = st.lists(
    st.tuples(
        st.sampled_from(["general.architecture", "general.file_type", "x.block_count", "split.count", "other"]),
        st.integers(0, 13),
        st.one_of(
            st.binary(max_size=24),
            st.integers(0, HUGE).map(lambda value: struct.pack("<Q", value)),
            st.tuples(st.integers(0, 13), st.integers(0, 6), st.binary(max_size=60)).map(
                lambda parts: struct.pack("<IQ", parts[0], parts[1]) + parts[2]
            ),
        ),
    ),
    max_size=6,
)


@pytest.mark.req("MP-05")
@settings(max_examples=300, deadline=None)
@given(keys, st.binary(max_size=40))
def test_heads_of_the_right_shape_and_the_wrong_content_end_well(
    parts: list[tuple[str, int, bytes]], rest: bytes
) -> None:
    ends_well(head(*(key(*part) for part in parts)) + rest)


def test_a_long_key_makes_no_long_message() -> None:
    with pytest.raises(GgufError) as caught:
        parse(head(key("k" * 60_000, 13, b"\0" * 9)))
    assert len(caught.value.message) < 200


def test_a_boolean_is_no_number() -> None:
    with pytest.raises(GgufError, match=r"x\.block_count is no whole number"):
        parse(head(ARCH, key("x.block_count", BOOL, b"\x01")))
