import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_provisioner.sources import listing
from model_provisioner.sources.listing import Choice, NoChoiceError

pytestmark = pytest.mark.req("MP-04")

SPLIT = tuple(f"big-{number:05}-of-00003.gguf" for number in (1, 2, 3))
DIRECTORY = ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.json")


@pytest.mark.parametrize(
    ("names", "chosen", "entry"),
    [
        (("README.md", "haiku.gguf"), ("haiku.gguf",), "haiku.gguf"),
        (("mmproj-haiku.gguf", "haiku.gguf"), ("haiku.gguf",), "haiku.gguf"),
        ((*reversed(SPLIT), "LICENSE"), SPLIT, SPLIT[0]),
        ((*DIRECTORY, "README.md", "logo.png", "original/params.json"), DIRECTORY, None),
        ((*DIRECTORY, "consolidated.safetensors", "adapter_model.safetensors"), DIRECTORY, None),
        (("config.json", "haiku.gguf"), ("haiku.gguf",), "haiku.gguf"),
        (("q4/haiku.gguf",), ("q4/haiku.gguf",), "q4/haiku.gguf"),
    ],
)
def test_the_model_among_the_files(names: tuple[str, ...], chosen: tuple[str, ...], entry: str | None) -> None:
    assert listing.choose(names) == Choice(names=chosen, entry=entry)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), "holds no model: neither *.gguf nor config.json with *.safetensors"),
        (("README.md",), "holds no model: neither *.gguf nor config.json with *.safetensors; it has README.md"),
        (("a.gguf", "b.gguf"), "holds 2 models: a.gguf, b.gguf"),
        (SPLIT[::2], "lacks 1 of the 3 parts of a split model: big-00002-of-00003.gguf"),
        (("../../.bashrc.gguf",), "has files with names that are not safe on a disk: ../../.bashrc.gguf"),
        (("a/x.gguf\x1b[2J.gguf",), "has files with names that are not safe on a disk: a/x.gguf\\x1b[2J.gguf"),
        ((*DIRECTORY, "Config.json"), "has two files of one name"),
        (("x",) * 4097, "has 4097 files, more than the 4096 that a model may have"),
    ],
)
@pytest.mark.req("MP-02")
def test_what_is_no_model_or_more_than_one_is_refused(names: tuple[str, ...], reason: str) -> None:
    with pytest.raises(NoChoiceError) as caught:
        listing.choose(names)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/etc/passwd", "a//b.gguf", "a/../b.gguf", "../b.gguf", "a/", ".hidden.gguf", "a/.ssh/b.gguf"),
        *("-rf.gguf", "c:\\b.gguf", "a\\..\\b.gguf", "a\x00.gguf", "a\n.gguf", "a:b.gguf", " a.gguf", "a.gguf "),
        *("model.gguf.part", "model.gguf.part.json", "x" * 201, "/".join("abcdefghi"), "\ud800.gguf"),
    ],
)
def test_names_that_are_not_safe(name: str) -> None:
    assert not listing.safe_name(name)


@given(st.text(max_size=30))
def test_a_safe_name_stays_below_its_folder(name: str) -> None:
    if listing.safe_name(name):
        assert not name.startswith("/")
        assert all(segment not in {"", ".", ".."} for segment in name.split("/"))
        assert "\x00" not in name


@pytest.mark.parametrize("name", ["a.gguf", "a-00004-of-00003.gguf", "a-00000-of-00003.gguf", "a-1-of-3.gguf"])
def test_what_is_no_part_of_a_split_model(name: str) -> None:
    assert listing.parts_of(name) is None


def test_a_part_names_all_parts_within_reason() -> None:
    assert listing.parts_of(SPLIT[1]) == SPLIT
    assert listing.parts_of("a-00001-of-99999.gguf") is None
