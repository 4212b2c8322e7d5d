"""Keeps docs/failures.md true: the texts that operators see when something fails, as the tests provoke them.

A test that provokes a failure hands over what an operator reads then, whole, under the name of the failure:

    def test_a_missing_compiler_is_found(operator_sees: OperatorSees, ...) -> None:
        ...
        operator_sees("source/no-compiler", error.render())

The name is ``<area>/<failure>``; AREAS lists the areas. The document has a section for each name: the text, and the
test that proves it. A text that is not the documented one fails its test, and so does one that is not in the document;
``.venv/bin/python -m pytest --update-failures TESTS`` writes what those tests show. A run of the whole suite also fails
when a documented failure is shown by no test any more.

What differs from run to run is written as ``<path>``, ``<port>``, ``<pid>``, ``<uuid>``, ``<duration>``, ``<digest>``
or ``<id>``. What else differs from machine to machine, the test names:
``operator_sees("gpu/too-small", text, free="11.2 GiB")`` writes ``<free>`` for it.
"""

import difflib
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from tests.plugins.requirements import is_whole_suite

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs/failures.md"
UPDATE = "--update-failures"
AREAS = {
    "config": "Configuration",
    "gpu": "GPUs and their driver",
    "source": "Engines built from source",
    "container": "Engines in containers",
    "package": "Engines from packages",
    "binary": "Engines that are a binary",
    "external": "External engines",
    "model": "Models",
    "supervision": "Engines that run",
    "admission": "Tasks that are not let in",
    "session": "Sessions",
    "artifact": "Artifacts and records",
    "cli": "The command line",
}
HEAD = """\
# What failures look like

What an operator reads when something fails: on the terminal, in the journal, and as `last_error` of a pool. Each text
comes from the test that is named beside it, and `.venv/bin/python -m pytest --update-failures` writes this page: change
the code, not the page. `<path>`, `<port>` and the like stand for what differs from run to run.
"""

_ENTRY = re.compile(
    r"^### (?P<name>\S+)\n\nShown by `(?P<test>[^`]+)`\.\n\n```text\n(?P<text>.*?)\n```$", re.MULTILINE | re.DOTALL
)
_END = r"[^\s'\",;:()\]]*"
_VOLATILE = (
    (re.compile(r"/run/user/\d+"), "<path>"),
    (re.compile(rf"(?:/var)?/tmp/{_END}"), "<path>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<uuid>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<digest>"),
    # Some ids in a thousand have digits alone, as numbers have: these do not stand behind a - or a ~.
    (re.compile(r"(?<=[-~])[0-9a-f]{12,40}\b"), "<id>"),
    (re.compile(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{12,40}\b"), "<id>"),
    (re.compile(r"(?<=[\w\]]:)[1-9]\d{4}\b"), "<port>"),
    (re.compile(r"(?<=\bport )[1-9]\d{4}\b"), "<port>"),
    (re.compile(r"(?<=\bpid )\d+\b|(?<=\bprocess )\d+\b"), "<pid>"),
    (re.compile(r"\b\d+(?:\.\d+)? (?=(?:ms|s|min|seconds?|minutes?)\b)"), "<duration> "),
)


class OperatorSees(Protocol):
    """The fixture ``operator_sees``."""

    def __call__(self, name: str, text: str, **volatile: str) -> None:
        """Compare a text with the documented one; ``volatile`` names parts of it that differ between machines."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One section of the document."""

    name: str
    test: str
    """The test's id, without its parameters."""
    text: str


def normalized(text: str, places: Mapping[str, str]) -> str:
    """The text without what differs from run to run. ``places`` maps literal texts to what stands for them."""
    for literal, shown in sorted(places.items(), key=lambda pair: len(pair[0]), reverse=True):
        text = text.replace(literal, shown)
    for pattern, shown in _VOLATILE:
        text = pattern.sub(shown, text)
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def parse(document: str) -> dict[str, Failure]:
    """The sections of the document by their names."""
    found = (Failure(**match.groupdict()) for match in _ENTRY.finditer(document))
    return {failure.name: failure for failure in found}


def write(failures: Iterable[Failure]) -> str:
    """The document with these sections."""
    parts = [HEAD]
    known = sorted(failures, key=lambda failure: failure.name)
    for area, title in AREAS.items():
        here = [failure for failure in known if failure.name.startswith(f"{area}/")]
        if here:
            parts.append(f"\n## {title}\n")
        parts += [f"\n### {each.name}\n\nShown by `{each.test}`.\n\n```text\n{each.text}\n```\n" for each in here]
    return "".join(parts)


def is_there(test: str) -> bool:
    """Whether a test is where its id says."""
    path, _, function = test.partition("::")
    try:
        source = (ROOT / path).read_text()
    except OSError:
        return False
    return (
        re.search(rf"^\s*(?:async )?def {re.escape(function.rpartition('::')[2])}\(", source, re.MULTILINE) is not None
    )


class Failures:
    """Compares what tests show with the document, or collects it for the document."""

    def __init__(self, *, update: bool, whole: bool) -> None:
        self.update = update
        self.whole = whole
        self.shown: dict[str, Failure] = {}
        self.inconclusive: set[str] = set()
        """Tests that were skipped or failed: nothing is known about what they show."""
        self.passed: set[str] = set()
        """Tests that have shown all that they show. One with parameters may have run with some of them."""
        self.stale: list[Failure] = []
        self._documented: dict[str, Failure] | None = None

    @property
    def documented(self) -> dict[str, Failure]:
        """The document as it was when the first test asked."""
        if self._documented is None:
            self._documented = parse(DOCUMENT.read_text()) if DOCUMENT.exists() else {}
        return self._documented

    def see(self, failure: Failure) -> str | None:
        """Take note of a failure; the answer is what is wrong with it."""
        if failure.name.partition("/")[0] not in AREAS or not re.fullmatch(r"[a-z]+/[a-z0-9-]+", failure.name):
            return f"{failure.name!r} is no name of the form <area>/<failure>; areas: {', '.join(AREAS)}"
        if not failure.text or "```" in failure.text:
            return f"{failure.name}: the text is empty, or ends the code block that it stands in"
        other = self.shown.setdefault(failure.name, failure)
        if other != failure:
            return f"{failure.name} is shown by {other.test} already, or with another text:\n{_diff(other, failure)}"
        known = self.documented.get(failure.name)
        if self.update or known == failure:
            return None
        command = f".venv/bin/python -m pytest {UPDATE} {failure.test}"
        if known is None:
            return f"{DOCUMENT.name} lacks {failure.name}:\n{failure.text}\nwrite it with: {command}"
        return f"{failure.name} is not as {DOCUMENT.name} has it:\n{_diff(known, failure)}\nwrite it with: {command}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped or report.failed:
            self.inconclusive.add(_without_parameters(report.nodeid))
        elif report.when == "call" and "[" not in report.nodeid:
            self.passed.add(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        # Read again: another run may have written meanwhile.
        documented = parse(DOCUMENT.read_text()) if DOCUMENT.exists() else {}
        gone = [documented[name] for name in sorted(documented.keys() - self.shown.keys())]
        if self.whole:
            self.stale = [failure for failure in gone if failure.test not in self.inconclusive]
        if self.update:
            dropped = {each.name for each in gone if each.test in self.passed or not is_there(each.test)}
            dropped |= {failure.name for failure in self.stale}
            kept = {name: failure for name, failure in documented.items() if name not in dropped}
            DOCUMENT.write_text(write((kept | self.shown).values()))
            self.stale = []
        if self.stale and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.stale:
            terminalreporter.section(f"{DOCUMENT.name} has failures that no test shows any more", red=True)
            for failure in self.stale:
                terminalreporter.write_line(f"{failure.name}: {failure.test}")
            terminalreporter.write_line(f"remove them with: .venv/bin/python -m pytest {UPDATE}")


@pytest.fixture
def operator_sees(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> OperatorSees:
    """Compare a failure's text with docs/failures.md; see the module's docstring."""
    plugin = request.config.pluginmanager.get_plugin("llama_orch_failures")
    assert isinstance(plugin, Failures)
    test = _without_parameters(request.node.nodeid)
    base = tmp_path_factory.getbasetemp()
    fixed = {str(base): "<path>", sys.prefix: "<venv>", str(ROOT): "<checkout>", str(Path.home()): "~"}

    def see(name: str, text: str, **volatile: str) -> None:
        places = fixed | {str(path): "<path>" for path in base.iterdir()}
        shown = normalized(text, {**places, **{value: f"<{label}>" for label, value in volatile.items()}})
        wrong = plugin.see(Failure(name=name, test=test, text=shown))
        if wrong is not None:
            pytest.fail(wrong, pytrace=False)

    return see


def _without_parameters(test: str) -> str:
    return test.partition("[")[0]


def _diff(old: Failure, new: Failure) -> str:
    before, after = ([f"Shown by {each.test}", *each.text.splitlines()] for each in (old, new))
    return "\n".join(difflib.unified_diff(before, after, "the document", "this test", lineterm=""))


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "write what the tests show to docs/failures.md, in place of comparing it"
    parser.addoption(UPDATE, action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    plugin = Failures(update=config.getoption(UPDATE), whole=is_whole_suite(config))
    config.pluginmanager.register(plugin, "llama_orch_failures")
