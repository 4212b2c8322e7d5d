import pytest

from llama_orch.cli import COMMANDS
from llama_orch.completion.complete import candidates, split
from llama_orch.completion.grammar import Argument, Grammar, Kind, Option, wanted
from llama_orch.completion.reading import grammar

LINE = Grammar(
    commands={
        "go": Grammar(
            options=(
                Option(names=("--pool", "-p"), kind=Kind.POOL),
                Option(names=("--fast",), flag=True),
                Option(names=("--how",), choices=("far", "fast")),
            ),
            arguments=(Argument(kind=Kind.MODEL), Argument(kind=Kind.TASK, many=True)),
        ),
        "list": Grammar(),
    },
    options=(Option(names=("--version",), flag=True),),
)


def words(*typed: str) -> list[str]:
    return [candidate.word for candidate in wanted(LINE, typed).words]


def test_commands_and_options_fit_by_their_beginning() -> None:
    assert words("") == ["go", "list"]
    assert words("l") == ["list"]
    assert words("--v") == ["--version"]
    assert words("go", "--") == ["--pool", "--fast", "--how"]
    assert words("go", "--fast", "--f") == []
    assert words("go", "--how", "f") == ["far", "fast"]
    assert words("go", "--how=fas") == ["--how=fast"]
    assert words("gone", "") == []


@pytest.mark.parametrize(
    ("typed", "kind"),
    [
        (("go", ""), Kind.MODEL),
        (("go", "m", ""), Kind.TASK),
        (("go", "m", "t", "t2", ""), Kind.TASK),
        (("go", "--pool", ""), Kind.POOL),
        (("go", "-p", ""), Kind.POOL),
        (("go", "-p", "gpu0", ""), Kind.MODEL),
        (("go", "--pool=gpu0", "m", ""), Kind.TASK),
        (("go", "--fast", ""), Kind.MODEL),
        (("go", "--", "--pool", ""), Kind.TASK),
        (("list", ""), None),
        ((), None),
    ],
)
def test_a_name_is_of_the_kind_that_its_place_has(typed: tuple[str, ...], kind: Kind | None) -> None:
    assert wanted(LINE, typed).kind is kind


def test_a_value_behind_a_sign_of_equality_keeps_its_option() -> None:
    found = wanted(LINE, ["go", "--pool=gp"])
    assert (found.kind, found.prefix, found.start) == (Kind.POOL, "--pool=", "gp")
    assert wanted(LINE, ["go", "--pool", "a", "--how", ""]).given == {"--pool": "a"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("llama-orch", [""]),
        ("llama-orch ", [""]),
        ("llama-orch ru", ["ru"]),
        ("llama-orch run 'a b", ["run", "a b"]),
        ('llama-orch run "a b" --po', ["run", "a b", "--po"]),
        ("llama-orch run x ", ["run", "x", ""]),
        ("llama-orch models show hf:a/b", ["models", "show", "hf:a/b"]),
    ],
)
def test_a_line_is_taken_apart_while_it_is_typed(line: str, expected: list[str]) -> None:
    assert split(line) == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_read_and_knows_its_options(name: str) -> None:
    found = grammar(name).commands[name]
    ways = found.commands or {name: found}
    for way in ways.values():
        names = [each for option in way.options for each in option.names]
        assert "--json" in names, "every command has --json"
        assert "--as-json" not in names
        assert len(names) == len(set(names))
    assert all(candidate.help for candidate in candidates([name, ""]) if found.commands)


def test_the_first_word_completes_every_command_with_its_meaning() -> None:
    assert {each.word: each.help for each in candidates([""])} == {
        name: command.summary for name, command in COMMANDS.items()
    }


def test_choices_come_from_the_commands_themselves() -> None:
    assert [each.word for each in candidates(["run", "--priority", "b"])] == ["batch"]
    assert [each.word for each in candidates(["completion", ""])] == ["bash", "zsh", "fish"]
    assert {each.word for each in candidates(["tasks", "--state="])} >= {"--state=queued", "--state=running"}
