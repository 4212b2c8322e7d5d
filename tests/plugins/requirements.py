"""Connects tests to requirements: `@pytest.mark.req("HP-01")` says which line of docs/requirements.yaml a test proves.

An unknown id stops the collection. A run of the whole suite writes .cache/trace.json, which tools/trace.py reads:
{requirement id: {"passed": [test ids], "failed": [test ids]}}. A skipped test proves nothing.
"""

import json
from pathlib import Path

import pytest

from tools import trace


def required_by(item: pytest.Item) -> list[str]:
    """The requirement ids in the test's marks."""
    return [identifier for mark in item.iter_markers("req") for identifier in mark.args]


def is_whole_suite(config: pytest.Config) -> bool:
    """Whether nothing on the command line selects a part of the tests."""
    option = config.option
    chosen = (option.file_or_dir, option.keyword, option.markexpr, option.deselect, option.collectonly)
    return not any(chosen) and not getattr(option, "lf", False)


class Requirements:
    """Checks the ids of the collected tests and remembers how they ended."""

    def __init__(self, known: frozenset[str], target: Path | None) -> None:
        self.known = known
        self.target = target
        self.ids: dict[str, list[str]] = {}
        self.outcomes: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.ids = {item.nodeid: ids for item in items if (ids := required_by(item))}
        unknown = [
            f"{node}: no requirement {identifier!r} in docs/requirements.yaml"
            for node, ids in self.ids.items()
            for identifier in ids
            if identifier not in self.known
        ]
        if unknown:
            raise pytest.UsageError("\n".join(unknown))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.outcomes[report.nodeid] = "failed"
        elif report.when == "call" and report.passed:
            self.outcomes.setdefault(report.nodeid, "passed")

    def pytest_sessionfinish(self) -> None:
        if self.target is None:
            return
        proofs: dict[str, dict[str, list[str]]] = {}
        for node, outcome in sorted(self.outcomes.items()):
            for identifier in self.ids.get(node, []):
                proofs.setdefault(identifier, {"passed": [], "failed": []})[outcome].append(node)
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self.target.write_text(json.dumps(proofs, indent=1, sort_keys=True) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    known = frozenset(requirement.id for requirement in trace.load_requirements())
    target = trace.TRACE_PATH if is_whole_suite(config) else None
    config.pluginmanager.register(Requirements(known, target), "llama_orch_requirements")
