"""Which requirements are proved by a passing test, and which are not yet.

Reads docs/requirements.yaml, the ids in the tests' marks, and .cache/trace.json from the last run of the whole suite.
`python -m tools.trace` lists what is not proved; `--check` prints the count only. Both fail on a mark with an id that
does not exist and on a malformed requirement.
"""

import argparse
import ast
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
REQUIREMENTS_PATH = ROOT / "docs/requirements.yaml"
TRACE_PATH = ROOT / ".cache/trace.json"
LEVELS = ("MUST", "SHOULD", "MAY")


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One line of docs/requirements.yaml, without its origin."""

    id: str
    level: str
    text: str


def load_requirements(path: Path = REQUIREMENTS_PATH) -> list[Requirement]:
    """All requirements in the order of the file; a repeated id or an unknown level is a ValueError."""
    requirements: dict[str, Requirement] = {}
    for entry in yaml.safe_load(path.read_text()):
        requirement = Requirement(id=entry["id"], level=entry["level"], text=entry["text"])
        if requirement.id in requirements:
            raise ValueError(f"{path.name}: {requirement.id} stands there twice")
        if requirement.level not in LEVELS:
            raise ValueError(f"{path.name}: {requirement.id}: level {requirement.level!r} is none of {LEVELS}")
        requirements[requirement.id] = requirement
    return list(requirements.values())


def ids_in_marks(source: str) -> Iterator[tuple[int, str]]:
    """Line and id of every literal argument of a `pytest.mark.req(...)` in the source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.req":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.lineno, argument.value


def unknown_ids(requirements: list[Requirement], tests: Path) -> list[str]:
    """One line per mark that names no requirement."""
    known = {requirement.id for requirement in requirements}
    return [
        f"{path.relative_to(ROOT)}:{line}: no requirement {identifier!r} in docs/requirements.yaml"
        for path in sorted(tests.rglob("*.py"))
        for line, identifier in ids_in_marks(path.read_text())
        if identifier not in known
    ]


def not_proved(requirements: list[Requirement], trace: dict[str, dict[str, list[str]]]) -> list[Requirement]:
    """Every MUST and SHOULD without a passing test, or with a failing one."""
    return [
        requirement
        for requirement in requirements
        if requirement.level != "MAY"
        and not (trace.get(requirement.id, {}).get("passed") and not trace[requirement.id]["failed"])
    ]


def main(arguments: list[str] | None = None) -> int:
    """Print the trace; the result is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.trace", description=__doc__)
    parser.add_argument("--check", action="store_true", help="print the count only")
    check = parser.parse_args(arguments).check
    requirements = load_requirements()
    if unknown := unknown_ids(requirements, ROOT / "tests"):
        print("\n".join(unknown))
        return 1
    if not TRACE_PATH.exists():
        print("requirements: no trace yet; `make test` writes it")
        return 0
    missing = not_proved(requirements, json.loads(TRACE_PATH.read_text()))
    if not check:
        for requirement in missing:
            print(f"{requirement.id:<10} {requirement.level:<6} {requirement.text}")
    wanted = [requirement for requirement in requirements if requirement.level != "MAY"]
    print(f"requirements: {len(wanted) - len(missing)} of {len(wanted)} proved by passing tests")
    return 0


if __name__ == "__main__":
    sys.exit(main())
