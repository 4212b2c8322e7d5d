"""Reads the configuration file and says everything that is wrong with it, each with its line.

Decides what a YAML document may do here (no tags, no duplicate keys, no blow-up through aliases) and how a problem is
shown. Which values are valid is ``contracts.config``'s to decide. Keys are taken as they are written, so ``on`` and
``1`` are names; values follow YAML 1.1.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import yaml

from contracts.base import Problem, explain, type_at
from contracts.config import Config, problems, split_bind
from daemon_core.errors import ConfigFileError, LocatedProblem
from daemon_core.yaml_tree import Place, Tree, TreeError, read_tree

MAX_BYTES = 1 << 20
_NO_FILE_HINT = "llama-orch init writes one"
_BIND, _LOOPBACK = "server.bind", "127.0.0.1"


def load(path: Path) -> Config:
    """The configuration in ``path``.

    Raises ConfigFileError with every problem that can be told at once: first what is no YAML, then what has a wrong
    name or type, then what contradicts itself.
    """
    return parse(_read(path), str(path))


def parse(text: str, file: str) -> Config:
    """The configuration in a text; ``file`` is its name in what is said about it. Raises ConfigFileError."""
    try:
        tree = read_tree(text)
    except yaml.YAMLError as error:
        raise ConfigFileError((_syntax_problem(error, file),)) from None
    except TreeError as error:
        found = [
            _located(file, place, Problem(path=path, message=what, hint=hint))
            for place, path, what, hint in error.found
        ]
        raise ConfigFileError(tuple(found)) from None
    if tree.value is None:
        raise ConfigFileError((_at(file, Place(line=1, column=1), "", "the file is empty", _NO_FILE_HINT),))
    try:
        config = msgspec.convert(tree.value, Config)
    except msgspec.ValidationError as error:
        found = _typed_problems(tree, file) or [_explained(tree, file, error, Config, "")]
        raise ConfigFileError(_in_order(found)) from None
    if contradictions := problems(config):
        raise ConfigFileError(_in_order([_locate(tree, file, problem) for problem in contradictions]))
    return config


def _read(path: Path) -> str:
    file = str(path)
    try:
        with path.open("rb") as handle:
            data = handle.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigFileError((_at(file, None, "", "there is no such file", _NO_FILE_HINT),)) from None
    except OSError as error:
        raise ConfigFileError((_at(file, None, "", f"cannot be read: {error.strerror}", f"ls -ld {file}"),)) from None
    if len(data) > MAX_BYTES:
        raise ConfigFileError((_at(file, None, "", f"is larger than {MAX_BYTES} bytes", "is it the right file?"),))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = Place(line=data.count(b"\n", 0, error.start) + 1, column=1)
        raise ConfigFileError((_at(file, place, "", "is no UTF-8 text", "save it as UTF-8"),)) from None


def _syntax_problem(error: yaml.YAMLError, file: str) -> LocatedProblem:
    if not isinstance(error, yaml.MarkedYAMLError):
        position = getattr(error, "position", None)
        return _at(file, None, "", f"is no YAML: {error} (position {position})".replace("\n", " "), None)
    mark = error.problem_mark or error.context_mark
    place = Place(line=mark.line + 1, column=mark.column + 1) if mark else None
    what = " ".join(part for part in (error.problem, error.context) if part) or "is no YAML"
    if "'\\t'" in what:
        return _at(file, place, "", "a tab where blanks belong", "YAML is indented with blanks, never with tabs")
    opened = error.context_mark
    hint = f"it begins in line {opened.line + 1}" if opened and mark and opened.line != mark.line else None
    return _at(file, place, "", what, hint or "is a value with ': ' or '#' in it missing its quotes?")


def _typed_problems(tree: Tree, file: str) -> list[LocatedProblem]:
    """What is wrong in each section and each pool: msgspec stops at the first mistake of what it is given."""
    if not isinstance(tree.value, dict):
        return []
    found = []
    types = {field.name: field.type for field in msgspec.structs.fields(Config)}
    sections = {name: value for name, value in tree.value.items() if name in types}
    for name, value in sections.items():
        whole = name != "pools" or not isinstance(value, list) or not value
        parts = [(name, value)] if whole else [(f"pools[{number}]", pool) for number, pool in enumerate(value)]
        for path, part in parts:
            found += _part_problems(tree, file, path, part)
    for name in tree.value.keys() - types.keys():
        # One unknown name at a time, beside nothing but the rest that is in order.
        found += _part_problems(tree, file, "", {name: tree.value[name]})
    if "pools" not in tree.value:
        found += _part_problems(tree, file, "", {})
    return found


def _part_problems(tree: Tree, file: str, path: str, part: object) -> list[LocatedProblem]:
    kind = type_at(Config, path) if path else Config
    try:
        msgspec.convert(part, kind)
    except msgspec.ValidationError as error:
        return [_explained(tree, file, error, Config, path)]
    return []


def _explained(tree: Tree, file: str, error: msgspec.ValidationError, root: type, path: str) -> LocatedProblem:
    """A refusal of the part at ``path``, worded as one of the whole document."""
    what, at, inner = str(error).partition(" - at `$")
    inner = inner.removesuffix("`") if at else ""
    whole = (
        f"{path}{inner}" if inner.startswith("[") or not path else f"{path}.{inner.removeprefix('.')}".removesuffix(".")
    )
    whole = _first_offender(tree, whole.removeprefix("."))
    problem = explain(msgspec.ValidationError(f"{what} - at `$.{whole}`" if whole else what), root)
    return _locate(tree, file, problem)


def _first_offender(tree: Tree, path: str) -> str:
    """The path with the key in it, where msgspec only says that some value of a mapping is wrong (``env[...]``)."""
    before, dots, after = path.partition("[...]")
    if not dots:
        return path
    kind = type_at(Config, path)
    members = tree.at(before)
    for key, value in members.items() if isinstance(members, dict) else ():
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return f"{before}.{key}{after}"
    return path


def _locate(tree: Tree, file: str, problem: Problem) -> LocatedProblem:
    """A problem with its line, the value as it is written, and the mend for text that YAML took for another type."""
    if problem.field is not None:
        key = tree.place(problem.where, key=True)
        return _located(file, key or tree.nearest(problem.path), problem)
    raw = tree.raw(problem.path)
    hint = problem.hint
    if hint is None and raw is not None and problem.message.startswith("expected str, got "):
        hint = f'write it in quotes: "{_text_for(problem.path, raw)}"'
    place = tree.nearest(problem.path)
    located = _located(file, place, problem)
    return msgspec.structs.replace(located, value=raw, hint=hint)


def _text_for(path: str, raw: str) -> str:
    """What is valid there and looks like the number that was written: a port alone is no address."""
    return f"{_LOOPBACK}:{raw}" if path == _BIND and split_bind(f"{_LOOPBACK}:{raw}") else raw


def _located(file: str, place: Place | None, problem: Problem) -> LocatedProblem:
    return _at(file, place, problem.where if problem.path or problem.field else "", problem.message, problem.hint)


def _at(file: str, place: Place | None, path: str, message: str, hint: str | None) -> LocatedProblem:
    line, column = (place.line, place.column) if place else (0, 0)
    return LocatedProblem(file=file, line=line, column=column, path=path, message=message, hint=hint)


def _in_order(found: list[LocatedProblem]) -> tuple[LocatedProblem, ...]:
    return tuple(sorted(found, key=lambda problem: (problem.line, problem.column, problem.path)))
