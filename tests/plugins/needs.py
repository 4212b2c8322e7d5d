"""Tests that need more of the machine than Python: said in one line when they cannot run, an error in CI.

`@pytest.mark.needs("podman", "nginx")` names commands, and `@pytest.mark.engine("vllm")` a real engine, which `make
engines` puts below .cache/engines. Every test in tests/lab also gets the mark `lab`, every one in tests/e2e the mark
`e2e`. A test with the mark `gpu` needs an NVIDIA GPU, which CI has not.
"""

import os
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CHECKOUT = TESTS.parent
GPU = "an NVIDIA GPU"
MARKED_SUITES = ("lab", "e2e")


def suite_of(path: Path) -> str:
    """The folder below tests/ that holds the test."""
    return path.relative_to(TESTS).parts[0] if path.is_relative_to(TESTS) else path.name


def has_engine(name: str, checkout: Path = CHECKOUT) -> bool:
    """Whether `make engines` has made this engine's environment, from the requirements as they are now."""
    pinned, made = checkout / f"requirements/engines/{name}.txt", checkout / f".cache/engines/{name}/requirements.txt"
    return made.exists() and made.read_bytes() == pinned.read_bytes()


def missing_for(item: pytest.Item) -> list[str]:
    """What the test needs and this machine lacks."""
    commands = {command for mark in item.iter_markers("needs") for command in mark.args}
    missing = sorted(command for command in commands if shutil.which(command) is None)
    engines = {engine for mark in item.iter_markers("engine") for engine in mark.args}
    missing += sorted(f"a real {engine} from `make engines`" for engine in engines if not has_engine(engine))
    if item.get_closest_marker("gpu") and not Path("/dev/nvidiactl").exists():
        missing.append(GPU)
    return missing


class Needs:
    """Skips what cannot run and remembers it for the summary."""

    def __init__(self, *, ci: bool) -> None:
        self.ci = ci
        self.not_run: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            suite = suite_of(item.path)
            if suite in MARKED_SUITES:
                item.add_marker(suite)
            missing = missing_for(item)
            if not missing:
                continue
            if self.ci and missing != [GPU]:
                message = f"{item.nodeid}: CI lacks {', '.join(missing)}: .ci/run must install it"
                raise pytest.UsageError(message)
            item.add_marker(pytest.mark.skip(reason=f"missing: {', '.join(missing)}"))
            self.not_run[tuple(missing)].append("gpu" if missing == [GPU] else suite)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for missing, suites in sorted(self.not_run.items()):
            names = ", ".join(sorted(set(suites)))
            terminalreporter.write_line(f"not run: {names} ({len(suites)} tests; missing: {', '.join(missing)})")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Needs(ci=os.environ.get("CI") == "true"), "llama_orch_needs")
