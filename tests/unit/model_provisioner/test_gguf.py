"""What a GGUF head says, and that nothing in one can do harm."""

import hashlib
import itertools
import struct
import time
import tracemalloc
from pathlib import Path

import gguf as reference
import pytest

from contracts.engines import KvLayout, WeightSizes
from model_provisioner import ggml, gguf, gguf_head
from model_provisioner.errors import GgufError
from model_provisioner.gguf import Facts
from model_provisioner.gguf_head import Wanted
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
    parse,
    tensor,
    text,
    write_model,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_model(tmp_path_factory.mktemp("model") / "haiku.gguf").read_bytes()


@pytest.mark.req("MP-05")
def test_a_real_file_says_what_it_is(model: bytes) -> None:
    assert parse(model) == Facts(
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
        chat_template="default",
        chat_template_sha256=hashlib.sha256(b"{{ messages }}").hexdigest(),
        chat_templates=("default",),
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
    found = parse(path.read_bytes())
    assert found.parameters == sum(int(part.n_elements) for part in reader.tensors)
    assert found.tensor_count == len(reader.tensors)
    assert found.min_file_size >= max(int(part.data_offset + part.n_bytes) for part in reader.tensors)
    assert found.chat_template_sha256 is None


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
def test_the_file_is_read_forwards_a_window_at_a_time_and_never_its_weights(model: bytes) -> None:
    asked: list[Wanted] = []
    long = key("long", ARRAY, array(F32, [number(F32, 1.0)] * 200_000))  # passed over without being read
    data = head(long, ARCH, tensors=(tensor("w", [100_000_000]),))
    assert parse(data, asked).arch == "x"
    assert [(each.at, each.size) for each in asked] == [
        (0, gguf_head.WINDOW),
        (len(long) + 24, len(data) - len(long) - 24),
    ]
    asked.clear()
    parse(model + b"\0" * (1 << 20), asked)
    assert [(each.at, each.size) for each in asked] == [(0, gguf_head.WINDOW)]


def test_a_vocabulary_longer_than_the_window_is_passed_over(model: bytes) -> None:
    tokens = [text(f"token {number}") for number in range(100_000)]
    merges = [text("") for number in range(100_000)]
    data = head(
        key("tokenizer.ggml.tokens", ARRAY, array(STRING, tokens)), key("m", ARRAY, array(STRING, merges)), ARCH
    )
    asked: list[Wanted] = []
    found = parse(data, asked)
    assert (found.vocabulary, found.arch) == (100_000, "x")
    assert len(asked) <= len(data) // gguf_head.WINDOW + 2
    assert all(before.at < after.at for before, after in itertools.pairwise(asked))


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
    found = parse(head(*EVERY_KIND, nested, strings, empty, last, version=version))
    assert (found.arch, found.version, found.tensor_count) == ("llama", version, 0)


ARCH = key("general.architecture", STRING, text("x"))


def test_an_empty_head_says_nothing() -> None:
    assert parse(head()) == Facts(version=3, tensor_count=0, parameters=0, min_file_size=24)


@pytest.mark.req("MP-05")
def test_numbers_that_differ_by_layer_give_the_largest() -> None:
    by_layer = key("x.attention.head_count", ARRAY, array(I32, [number(I32, n) for n in (8, 32, 16)]))
    found = parse(head(by_layer, ARCH))
    assert (found.heads, found.kv_heads) == (32, 32)


@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 5, 10, 11])
def test_a_number_may_have_any_whole_type(kind: int) -> None:
    assert parse(head(ARCH, key("x.block_count", kind, number(kind, 100)))).layers == 100


@pytest.mark.parametrize(
    ("file_type", "name"), [(0, "F32"), (15, "Q4_K_M"), (15 + 1024, "Q4_K_M"), (32, "BF16"), (999, None)]
)
def test_the_quantization_has_the_name_that_people_know(file_type: int, name: str | None) -> None:
    assert parse(head(key("general.file_type", U32, number(U32, file_type)))).quant == name


def test_a_name_cannot_talk_to_a_terminal() -> None:
    assert parse(head(key("general.name", STRING, text("Hai\x1b[2Jku \xff")))).name == "Hai?[2Jku \xff"
    assert parse(head(key("general.name", STRING, text(b"\xff\n")))).name == "\ufffd?"


def test_a_part_of_a_split_model_says_so() -> None:
    parts = {"split.no": 2, "split.count": 3, "split.tensors.count": 291}
    found = parse(head(*(key(name, 2, number(2, value)) for name, value in parts.items())))
    assert (found.split_no, found.split_count, found.split_tensors) == (2, 3, 291)


@pytest.mark.req("MP-05")
def test_the_tokenizer_has_its_kind_and_how_it_cuts_text_up() -> None:
    kind, cut = key("tokenizer.ggml.model", STRING, text("gpt2")), key("tokenizer.ggml.pre", STRING, text("qwen2"))
    assert parse(head(kind, cut)).tokenizer == "gpt2/qwen2"
    assert parse(head(kind)).tokenizer == "gpt2"
    assert parse(head(cut)).tokenizer is None


def sha256(data: str) -> str:
    return hashlib.sha256(data.encode()).hexdigest()


@pytest.mark.req("MP-05")
@pytest.mark.parametrize(
    ("templates", "default", "names"),
    [
        ({}, (None, None), ()),
        ({"": ""}, (None, None), ()),
        ({"": "a"}, ("default", "a"), ("default",)),
        ({".rag": "r", "": "a", ".tool_use": "t"}, ("default", "a"), ("default", "rag", "tool_use")),
        ({".rag": "r", ".tool_use": "t"}, ("tool_use", "t"), ("rag", "tool_use")),
        ({".rag": "r"}, (None, None), ("rag",)),
        ({"": "é" * 400_000}, ("default", "é" * 400_000), ("default",)),
    ],
    ids=range(7),
)
def test_the_chat_template_that_llama_cpp_uses_by_itself_is_the_default(
    templates: dict[str, str], default: tuple[str | None, str | None], names: tuple[str, ...]
) -> None:
    keys = [key(f"tokenizer.chat_template{name}", STRING, text(value)) for name, value in templates.items()]
    listed = key("tokenizer.chat_templates", ARRAY, array(STRING, [text(name) for name in names]))
    found = parse(head(listed, *keys, ARCH))
    assert (found.chat_template, found.chat_templates, found.arch) == (default[0], names, "x")
    assert found.chat_template_sha256 == (None if default[1] is None else sha256(default[1]))


@pytest.mark.req("MP-05")
def test_what_the_reference_writer_makes_of_named_templates(tmp_path: Path) -> None:
    writer = reference.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_chat_template([{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    found = parse((tmp_path / "x.gguf").read_bytes())
    assert (found.chat_templates, found.chat_template_sha256) == (("default", "tool_use"), sha256("a"))


@pytest.mark.req("MP-05")
def test_scaled_positions_and_a_window_do_not_change_the_context() -> None:
    numbers = {
        "context_length": 131_072,
        "rope.scaling.original_context_length": 32_768,
        "attention.sliding_window": 512,
    }
    keys = [key(f"x.{name}", U32, number(U32, value)) for name, value in numbers.items()]
    scaling = key("x.rope.scaling.type", STRING, text("yarn")), key("x.rope.scaling.factor", F32, number(F32, 4.0))
    assert parse(head(ARCH, *keys, *scaling)).ctx_max == 131_072


def test_where_the_tensors_end() -> None:
    shape = tensor("w", [256, 2], kind=12, offset=64)  # Q4_K: 144 bytes for 256 weights
    found = parse(head(tensors=(shape,)))
    data_at = -(-len(head(tensors=(shape,))) // 32) * 32
    assert found.min_file_size == data_at + 64 + 2 * 144
    assert found.parameters == 512
    shape = tensor("w", [256, 2], kind=12, offset=8192)
    aligned = parse(head(key("general.alignment", U32, number(U32, 4096)), tensors=(shape,)))
    assert aligned.min_file_size == 4096 + 8192 + 2 * 144
    newer = parse(head(tensors=(tensor("w", [256], kind=4711, offset=64),)))
    assert newer.min_file_size == 64 + 64


HUGE = (1 << 64) - 1
HOSTILE: dict[str, tuple[bytes, str]] = {
    "not a GGUF": (b"\x80\x02}q\x00" * 9, "this is no GGUF file: it does not begin with GGUF"),
    "version 1": (head(version=1), "GGUF version 1 is not one of: 2, 3"),
    "version 4": (head(version=4), "GGUF version 4 is not one of: 2, 3"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3), "this GGUF file is big-endian"),
    "tensors": (head(tensor_count=HUGE), f"{HUGE} tensors are more than a head can hold"),
    "keys": (head(key_count=HUGE), f"{HUGE} keys are more than a head can hold"),
    "key length": (
        head(struct.pack("<Q", HUGE) + b"\0" * 9),
        "key 1 of 1 has a string of 18446744073709551615 bytes, more than 65535",
    ),
    "value length": (
        head(key("a", STRING, struct.pack("<Q", HUGE))),
        "the value of 'a' has a string of 18446744073709551615 bytes",
    ),
    "value past the limit": (
        head(key("a", STRING, struct.pack("<Q", gguf_head.MAX_HEAD_BYTES))),
        "the file ends in the middle of the value of 'a'",
    ),
    "items": (head(key("a", ARRAY, struct.pack("<IQ", U32, HUGE))), "items in the value of 'a' are more than a head"),
    "items past the limit": (
        head(key("a", ARRAY, struct.pack("<IQ", 0, gguf_head.MAX_ITEMS + 1))),
        "items in the value of 'a' are more than a head",
    ),
    "nesting": (
        head(key("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 10 + b"\0" * 99)),
        "the value of 'a' nests arrays deeper than 4",
    ),
    "type": (head(key("a", 13, b"\0" * 9)), "the value of 'a' has the unknown type 13"),
    "item type": (head(key("a", ARRAY, struct.pack("<IQ", 13, 1) + b"\0" * 9)), "an array of the unknown type 13"),
    "template type": (head(key("tokenizer.chat_template.a", U32, number(U32, 1))), "chat_template is no string"),
    "layers too many": (
        head(ARCH, key("x.block_count", ARRAY, array(0, [b"\1"] * 5000))),
        "x.block_count has 5000 numbers, and no model has more than 4096 layers",
    ),
    "keys in a small file": (head(key_count=99), "the file ends in the middle of the header"),
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
    "tensor size": (head(tensors=(tensor("w", [HUGE, HUGE]),)), "tensor 1 is larger than any disk"),
    "tensor offset": (head(tensors=(tensor("w", [1], offset=HUGE),)), "tensor 1 is larger than any disk"),
    "tensor twice": (
        head(tensors=(tensor("w", [1]), tensor("w", [1], offset=32))),
        "tensor 2 of 2 has the name of another",
    ),
    "tensors overlap": (
        head(tensors=(tensor("v", [9]), tensor("w", [1], offset=32))),
        "tensor 2 begins at 32, inside of the one before",
    ),
    "tensor alignment": (head(tensors=(tensor("w", [1], offset=33),)), "tensor 1 begins at 33, which is no multiple"),
    "tensor name": (head(tensors=(struct.pack("<Q", 1 << 40) + b"\0" * 24,)), "tensor 1 of 1 has a string of"),
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
        (head(ARCH)[:-1], "the value of 'general.architecture'"),
        (head(ARCH, key("other", ARRAY, array(STRING, [text("a"), text("bcd")])))[:-1], "the value of 'other'"),
        (head(ARCH, key("tokenizer.chat_template", STRING, text("x" * 300)))[:-1], "the value of 'tokenizer.chat_t"),
        (head(ARCH, key("other", ARRAY, array(U32, [number(U32, 1)] * 9999)))[:-1], "the value of 'other'"),
        (head(tensors=(tensor("w" * 99, [1]),))[:-1], "tensor 1 of 1"),
    ],
    ids=range(7),
)
def test_a_head_that_ends_too_early_says_where(data: bytes, where: str) -> None:
    with pytest.raises(GgufError) as caught:
        parse(data)
    assert caught.value.message.startswith(f"the file ends in the middle of {where}")
    assert caught.value.offset <= len(data)


def test_a_head_ends_within_its_limit_however_long_the_file_is() -> None:
    reading = gguf.read(1 << 40)
    next(reading)
    with pytest.raises(GgufError, match=r"the value of 'a' would end past the 128 MiB that a head may have"):
        reading.send(head(key("a", STRING, struct.pack("<Q", gguf_head.MAX_HEAD_BYTES))).ljust(gguf_head.WINDOW))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_file_that_shrinks_while_it_is_read_is_cut_off(after: int) -> None:
    tokens = key("tokenizer.ggml.tokens", ARRAY, array(STRING, [text("token")] * 100_000))
    data = head(tokens, key("tokenizer.chat_template", STRING, text("x" * 1_000_000)), ARCH)
    reading = gguf.read(len(data))
    wanted = next(reading)
    for _ in range(after):
        wanted = reading.send(data[wanted.at : wanted.at + wanted.size])
    with pytest.raises(GgufError, match="the file ends in the middle of"):
        reading.send(b"")


@pytest.mark.req("MP-05")
def test_no_number_in_a_file_costs_memory_or_time() -> None:
    rest = b"\0" * (1 << 20)
    worst = [
        head(tensor_count=gguf_head.MAX_TENSORS, key_count=gguf_head.MAX_KEYS),
        head(key("a", ARRAY, struct.pack("<IQ", STRING, gguf_head.MAX_ITEMS))),
        head(key("a", ARRAY, struct.pack("<IQ", 0, gguf_head.MAX_ITEMS))),
        head(key("a", STRING, struct.pack("<Q", gguf_head.MAX_HEAD_BYTES - 200))),
        head(key("tokenizer.chat_template", STRING, struct.pack("<Q", 1 << 26))),
    ]
    tracemalloc.start()
    try:
        started = time.process_time()
        for data in worst:
            with pytest.raises(GgufError):
                parse(data)
            with pytest.raises(GgufError):
                parse(data + rest)
        assert time.process_time() - started < 1
        assert tracemalloc.get_traced_memory()[1] < 3 << 20  # of which the files themselves are a third
    finally:
        tracemalloc.stop()


def test_the_longest_loop_is_bounded() -> None:
    # Two arrays of empty strings, each allowed by itself; only so many strings and arrays are read in all.
    items = gguf_head.MAX_ITEMS // 2 + 1
    many = struct.pack("<IQ", STRING, items) + b"\0" * 8 * items
    with pytest.raises(GgufError, match="more than 4194304 strings and arrays"):
        parse(head(key("a", ARRAY, many), key("b", ARRAY, many)))
    items = gguf_head.MAX_NESTED + 1
    with pytest.raises(GgufError, match="more than 65536 arrays in arrays"):
        parse(head(key("a", ARRAY, struct.pack("<IQ", ARRAY, items) + array(U32, []) * items)))


def test_what_is_kept_is_bounded() -> None:
    long = [
        key(f"{number:04}" + "k" * 60_000, U32, number_bytes) for number, number_bytes in enumerate([b"\0" * 4] * 80)
    ]
    with pytest.raises(GgufError, match="keys and names have more than 4 MiB"):
        parse(head(*long))
    names = tuple(tensor(f"{each:05}" + "n" * 900, [1], offset=32 * each) for each in range(5000))
    with pytest.raises(GgufError, match="keys and names have more than 4 MiB"):
        parse(head(tensors=names))


@pytest.mark.req("MP-05")
def test_every_truncation_is_an_error(model: bytes) -> None:
    end = len(model) - 300 * 64 * 2 - 64 * 4 - 64 * 64 * 4
    for size in range(0, end - 64, 7):
        with pytest.raises(GgufError):
            parse(model[:size])


def test_a_long_key_makes_no_long_message() -> None:
    with pytest.raises(GgufError) as caught:
        parse(head(key("k" * 60_000, 13, b"\0" * 9)))
    assert len(caught.value.message) < 200


def test_a_boolean_is_no_number() -> None:
    with pytest.raises(GgufError, match=r"x\.block_count is no whole number"):
        parse(head(ARCH, key("x.block_count", BOOL, b"\x01")))
