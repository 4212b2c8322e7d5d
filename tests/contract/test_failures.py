"""docs/failures.md names tests that are there, and is as its writer writes it."""

import ast

from tests.plugins.failures import DOCUMENT, ROOT, parse, write


def test_every_documented_failure_names_a_test_that_is_there() -> None:
    for failure in parse(DOCUMENT.read_text()).values():
        path, _, function = failure.test.partition("::")
        tree = ast.parse((ROOT / path).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        assert function.rpartition("::")[2] in functions, failure


def test_the_document_is_not_written_by_hand() -> None:
    assert write(parse(DOCUMENT.read_text()).values()) == DOCUMENT.read_text()
