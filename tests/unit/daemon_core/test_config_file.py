import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from contracts.config import Config, Mode, Profile
from daemon_core.config_file import MAX_BYTES, load, parse
from daemon_core.errors import EXIT_CONFIG, ConfigFileError

GOOD = """\
pools:
  - id: gpu0
    engine: llamacpp
    model: "hf:org/repo/file.gguf"
    devices: [0]
"""


def refused(text: str) -> ConfigFileError:
    with pytest.raises(ConfigFileError) as caught:
        parse(text, "config.yaml")
    return caught.value


def told(text: str) -> list[str]:
    return refused(text).render().splitlines()


def test_a_small_file_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    config = load(path)
    assert config.profile is Profile.HOME
    assert config.pools[0].mode is Mode.SOURCE
    assert config.server.bind == "127.0.0.1:8080"


@pytest.mark.req("HP-26")
def test_a_wrong_choice_is_told_with_its_line_its_value_and_the_choices() -> None:
    assert told(GOOD.replace("engine: llamacpp", "engine: llamacp")) == [
        "config.yaml:3: pools[0].engine: 'llamacp' is not one of: llamacpp, vllm, tgi, triton, openai"
    ]


@pytest.mark.req("HP-26")
@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param(
            GOOD + "    ctxx: 4096\n",
            ["config.yaml:6: pools[0].ctxx: unknown field 'ctxx'", "  hint: did you mean 'ctx'?"],
            id="unknown-in-a-pool",
        ),
        pytest.param(
            "sever: {}\n" + GOOD,
            ["config.yaml:1: sever: unknown field 'sever'", "  hint: did you mean 'server'?"],
            id="unknown-section",
        ),
        pytest.param(
            GOOD + "    ctx: 8k\n", ["config.yaml:6: pools[0].ctx: expected int, got str, found '8k'"], id="wrong-type"
        ),
        pytest.param(
            GOOD + "    ctx: 3\n", ["config.yaml:6: pools[0].ctx: expected int >= 16, found '3'"], id="out-of-bounds"
        ),
        pytest.param(
            GOOD + "    env:\n      HF_HOME: /x\n      THREADS: 4\n",
            [
                "config.yaml:8: pools[0].env.THREADS: expected str, got int, found '4'",
                '  hint: write it in quotes: "4"',
            ],
            id="number-where-text-belongs",
        ),
        pytest.param(
            GOOD + "    sampler_profile_version: 1.10\n",
            [
                "config.yaml:6: pools[0].sampler_profile_version: expected str, got float, found '1.10'",
                '  hint: write it in quotes: "1.10"',
            ],
            id="version-that-yaml-took-for-a-number",
        ),
        pytest.param(
            GOOD + "server: {bind: 8080}\n",
            [
                "config.yaml:6: server.bind: expected str, got int, found '8080'",
                '  hint: write it in quotes: "127.0.0.1:8080"',
            ],
            id="port-where-an-address-belongs",
        ),
        pytest.param(
            GOOD + "server: {bind: 808080}\n",
            [
                "config.yaml:6: server.bind: expected str, got int, found '808080'",
                '  hint: write it in quotes: "808080"',
            ],
            id="number-that-is-no-port",
        ),
        pytest.param(
            "pools:\n  - id: a\n    engine: vllm\n",
            ["config.yaml:2: pools[0].model: the required field 'model' is missing"],
            id="missing-field",
        ),
        pytest.param(
            "profile: home\n", ["config.yaml:1: pools: the required field 'pools' is missing"], id="no-pools-at-all"
        ),
        pytest.param("pools: []\n", ["config.yaml:1: pools: expected array of length >= 1"], id="empty-pools"),
        pytest.param("- a\n- b\n", ["config.yaml:1: expected object, got array"], id="no-mapping"),
        pytest.param("", ["config.yaml:1: the file is empty", "  hint: llama-orch init writes one"], id="empty"),
        pytest.param(
            "# only this\n", ["config.yaml:1: the file is empty", "  hint: llama-orch init writes one"], id="comment"
        ),
        pytest.param(
            "profile: home\nprofile: trial\n" + GOOD,
            ["config.yaml:2: the key 'profile' stands here and in line 1", "  hint: keep one of them"],
            id="duplicate-key",
        ),
        pytest.param(
            "server:\n\tbind: x\n",
            ["config.yaml:2: a tab where blanks belong", "  hint: YAML is indented with blanks, never with tabs"],
            id="tab",
        ),
        pytest.param(
            GOOD + "    queue: {capacity: 4\n",
            [
                "config.yaml:7: expected ',' or '}', but got '<stream end>' while parsing a flow mapping",
                "  hint: it begins in line 6",
            ],
            id="unclosed-brace",
        ),
        pytest.param(
            GOOD + "    env: !!python/name:os.system [ls]\n",
            [
                "config.yaml:6: pools[0].env: the tag 'tag:yaml.org,2002:python/name:os.system' has no place here",
                "  hint: remove it",
            ],
            id="tag",
        ),
        pytest.param(
            GOOD + "    env: &a {x: *a}\n",
            ["config.yaml:6: pools[0].env.x: an alias that contains itself", "  hint: write the value out"],
            id="recursive-alias",
        ),
        pytest.param(
            GOOD.replace("[0]", "[0, GPU-xyz]"),
            [
                "config.yaml:5: pools[0].devices[1]: 'GPU-xyz' is no GPU",
                "  hint: an index such as 0, or a UUID such as GPU-8f2c..., as nvidia-smi -L prints it",
            ],
            id="contradiction",
        ),
    ],
)
def test_what_a_person_is_told(text: str, lines: list[str]) -> None:
    assert told(text) == lines


@pytest.mark.req("HP-26")
def test_every_mistake_is_told_at_once_in_the_order_of_the_lines() -> None:
    text = """\
server: {bind: 8080}
profile: hom
pools:
  - {id: a, engine: vllm, model: x, ctx: big}
  - {id: b, engine: vlm, model: x}
logging: {level: loud}
"""
    problems = refused(text).problems
    assert [(problem.line, problem.path) for problem in problems] == [
        (1, "server.bind"),
        (2, "profile"),
        (4, "pools[0].ctx"),
        (5, "pools[1].engine"),
        (6, "logging.level"),
    ]
    assert [problem.value for problem in problems] == ["8080", "hom", "big", "vlm", "loud"]


@pytest.mark.req("HP-26")
def test_every_contradiction_is_told_at_once_with_its_line() -> None:
    pool = "  - {id: a, engine: llamacpp, model: x, devices: [0]}\n"
    problems = refused("server: {bind: nowhere}\npools:\n" + pool + pool).problems
    assert [(problem.line, problem.path) for problem in problems] == [
        (1, "server.bind"),
        (4, "pools[1].id"),
        (4, "pools[1].devices"),
    ]


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError) as caught:
        load(tmp_path / "config.yaml")
    assert caught.value.render() == f"{tmp_path}/config.yaml: there is no such file\n  hint: llama-orch init writes one"
    assert caught.value.exit_code == EXIT_CONFIG


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * (MAX_BYTES + 1), "is larger than"),
        (b"a: b\nc: \xff\n", "is no UTF-8 text"),
        (b"a: \x07\n", "is no YAML"),
    ],
    ids=["large", "binary", "control-character"],
)
def test_a_file_that_is_no_configuration(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigFileError, match=message):
        load(path)


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_aliases_and_merges_work_and_lines_point_at_what_is_written() -> None:
    text = """\
pools:
  - &base {id: a, engine: llamacpp, model: x, devices: [0]}
  - {<<: *base, id: b, devices: [1], ctx: 16}
"""
    config = parse(text, "config.yaml")
    assert [(pool.id, pool.model, pool.devices) for pool in config.pools] == [("a", "x", (0,)), ("b", "x", (1,))]


@pytest.mark.parametrize(
    "form", ["[*{0}, *{0}, *{0}, *{0}]", "{{<<: [*{0}, *{0}, *{0}, *{0}]}}"], ids=["list", "merge"]
)
def test_aliases_that_unfold_without_end_are_refused_at_once(form: str) -> None:
    lines = ["a0: &a0 {x: y}"]
    lines += [f"a{number}: &a{number} {form.format(f'a{number - 1}')}" for number in range(1, 40)]
    assert "unfolds to more than" in refused("\n".join(lines)).render()


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_nesting_without_end_is_refused(opening: str) -> None:
    assert refused(opening * 20_000).problems


def test_names_that_yaml_takes_for_something_else_stay_names() -> None:
    config = parse(GOOD + '    env: {on: "1", 7: "x", null: "y"}\n', "config.yaml")
    assert config.pools[0].env == {"on": "1", "7": "x", "null": "y"}


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(sorted(Config.__struct_fields__))


def outcome(text: str) -> list[str]:
    """What is told about a text: nothing when it is a configuration."""
    try:
        parse(text, "config.yaml")
    except ConfigFileError as error:
        return [problem.render() for problem in error.problems]
    return []


@given(st.dictionaries(FIELDS | st.text(max_size=5), JUNK, max_size=5))
def test_whatever_a_document_holds_it_is_a_configuration_or_is_explained(document: dict[str, object]) -> None:
    told = outcome(yaml.safe_dump(document, allow_unicode=True))
    assert told
    assert all(re.match(r"config\.yaml:[1-9][0-9]*: ", text) for text in told)


@given(st.text(max_size=60))
def test_whatever_the_text_it_is_a_configuration_or_is_explained(text: str) -> None:
    told = outcome(text)
    assert told
    assert all(line.startswith("config.yaml") for line in told)


def test_a_character_that_json_escapes_in_two_halves_is_one() -> None:
    config = parse(GOOD.replace("m.gguf", "x") + '    flags: ["\\ud83d\\ude00"]\n', "config.yaml")
    assert config.pools[0].flags == ("\U0001f600",)


def test_half_a_character_is_told_with_its_line() -> None:
    told = outcome(GOOD + '    flags: ["\\ud83d"]\n')
    assert len(told) == 1
    assert "half of a character" in told[0]
