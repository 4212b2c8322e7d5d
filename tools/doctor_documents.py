"""What is told about the doctor: the table of docs/doctor.md, and the schema of `llama-orch doctor --json`.

Both are made from the code: the kinds of the checks, and the type of the report. Above its mark the page is written by
hand.
"""

import json
from pathlib import Path

import msgspec

from llama_orch.doctor.catalog import table
from llama_orch.doctor.checks import CHECKS
from llama_orch.doctor.report import Report

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/doctor.md"
SCHEMA = ROOT / "llama_orch/doctor/report.schema.json"
MARK = "<!-- What follows is made from the code by `make generate`; change that. -->\n"


def page(before: str) -> str:
    """The page with its table, from the page as it was: what stands before the mark is written by hand."""
    return before.partition(MARK)[0] + MARK + "\n" + table([(check.name, check.about, check.kinds) for check in CHECKS])


def schema() -> str:
    """The JSON schema of the report."""
    return json.dumps(msgspec.json.schema(Report), indent=2) + "\n"


def documents() -> dict[Path, str]:
    """The two files with their texts."""
    return {PAGE: page(PAGE.read_text(encoding="utf-8")), SCHEMA: schema()}
