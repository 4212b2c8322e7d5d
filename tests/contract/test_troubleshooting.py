"""docs/troubleshooting.md leaves nothing out that llama-orch can say, and says nothing of what it cannot."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest

from contracts.errors import ErrorCode
from contracts.labels import PolicyLabel
from contracts.pools import Cause, PoolState
from daemon_core import errors as of_daemons
from daemon_core import journal_entry as entry
from llama_orch import errors as of_the_command_line

pytestmark = pytest.mark.req("OP-01")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
TABLES: dict[str, type[StrEnum]] = {
    "code": ErrorCode,
    "policy_label": PolicyLabel,
    "cause": Cause,
    "state": PoolState,
}


def rows(first: str) -> dict[str, list[str]]:
    """The table whose first column has this title, by the first column."""
    lines = PAGE.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return {row[0].strip("`"): row[1:] for row in table}


@pytest.mark.parametrize("first", TABLES)
def test_every_word_has_its_row_and_no_other_has(first: str) -> None:
    assert list(rows(first)) == [member.value for member in TABLES[first]]


def test_every_row_says_all_of_it() -> None:
    whole = {first: rows(first) for first in ("code", "policy_label", "cause", "what you see")}
    assert [(first, word) for first, table in whole.items() for word, cells in table.items() if not all(cells)] == []


def test_every_exit_status_has_its_row() -> None:
    known = {
        value
        for module in (of_daemons, of_the_command_line)
        for name, value in vars(module).items()
        if name[:5] == "EXIT_"
    }
    assert {int(status) for status in rows("exit status")} == {0, *known}


def test_the_pages_name_the_journals_fields_as_they_are() -> None:
    for name in ("operations.md", "observability.md"):
        page = (ROOT / "docs" / name).read_text()
        named = set(re.findall(r"\bLLAMA_ORCH_[A-Z_]+\b", page))
        assert named == {entry.POOL, entry.TASK_ID, entry.CORRELATION_ID, entry.SOURCE, entry.TIME_MS}
        assert f"{entry.SOURCE}={entry.ENGINE_SOURCE}" in page
