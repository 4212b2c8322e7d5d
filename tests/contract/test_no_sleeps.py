"""No test sleeps: it waits for an event, or turns a clock of its own. `sleep(0)` gives way and is fine."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SLEEPS = {"time.sleep", "asyncio.sleep"}


def sleeps_in(source: str) -> Iterator[int]:
    """The lines with a call of time.sleep or asyncio.sleep whose delay is not the number 0."""
    tree = ast.parse(source)
    names = dict.fromkeys(SLEEPS)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {
                alias.asname or alias.name: None for alias in node.names if f"{node.module}.{alias.name}" in SLEEPS
            }
        elif isinstance(node, ast.Import):
            names |= {
                f"{alias.asname}.sleep": None
                for alias in node.names
                if alias.asname and f"{alias.name}.sleep" in SLEEPS
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            delay = [*node.args, *(keyword.value for keyword in node.keywords)][0]
            if not (isinstance(delay, ast.Constant) and delay.value == 0):
                yield node.lineno


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import asyncio\nawait asyncio.sleep(0)", []),
        ("import asyncio\nawait asyncio.sleep(0.1)", [2]),
        ("import asyncio as a\nawait a.sleep(delay)", [2]),
        ("from time import sleep as doze\ndoze(secs=1)", [2]),
        ("child = [python, '-c', 'import time; time.sleep(9)']", []),
        ("clock.sleep(5)", []),
    ],
)
def test_sleeps_are_found(source: str, lines: list[int]) -> None:
    assert list(sleeps_in(source)) == lines


def test_no_test_sleeps() -> None:
    # The stand-in engine is no test but a program, and how slowly it speaks is what tests ask of it.
    tests = [path for path in TESTS.rglob("*.py") if TESTS / "standin" not in path.parents]
    assert [f"{path.relative_to(TESTS)}:{line}" for path in tests for line in sleeps_in(path.read_text())] == []
