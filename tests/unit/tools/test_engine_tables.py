"""The tables of docs/engines.md: made from the code, and put between their markers."""

import pytest

from adapters.parameters import TABLES, Unable
from contracts.config import Engine
from tools.engine_tables import PAGE, filled, tables
from tools.generate_contracts import documents, stale

pytestmark = pytest.mark.req("AD-06")


def test_the_committed_page_is_what_the_code_says() -> None:
    assert stale({PAGE: documents()[PAGE]}) == []


def test_every_engine_has_its_column_and_its_chapter() -> None:
    head = tables()["completion"].splitlines()[0]
    page = PAGE.read_text(encoding="utf-8")
    for engine in Engine:
        assert f" {engine} " in head
        assert f"\n## {engine}: " in page


def test_every_reason_is_told() -> None:
    told = tables()["reasons"]
    for engine, by_workload in TABLES.items():
        for table in by_workload.values():
            for parameter, verdict in table.items():
                if isinstance(verdict, Unable):
                    lines = [line for line in told.splitlines() if line.startswith(f"- **{engine}**")]
                    assert any(f"`{parameter}`" in line and verdict.why in line for line in lines)


def test_what_is_written_by_hand_stays() -> None:
    piece = "before {0}\n<!-- begin: {0} -->\nwas here\n<!-- end: {0} -->\nafter\n"
    page = "".join(piece.format(name) for name in tables())
    made = filled(page)
    assert filled(made) == made
    assert "was here" not in made
    for name in tables():
        assert f"before {name}\n" in made
    assert made.count("after\n") == len(tables())


def test_a_page_without_a_marker_is_no_page() -> None:
    with pytest.raises(ValueError, match="has no <!-- begin: workloads -->"):
        filled("nothing")
