"""Writes what is told about the doctor: the table of docs/doctor.md, and the schema of `llama-orch doctor --json`.

Both are made from the code: the kinds of the checks, and the type of the report. With --check nothing is written, and
the exit status is 1 where something would change.
"""

import json
import sys
from pathlib import Path

import msgspec

from llama_orch.doctor.catalog import table
from llama_orch.doctor.checks import CHECKS
from llama_orch.doctor.report import Report

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/doctor.md"
SCHEMA = ROOT / "llama_orch/doctor/report.schema.json"
MARK = "<!-- What follows is made by tools/doctor_documents.py from the code; change that. -->\n"


def page(before: str) -> str:
    """The page with its table, from the page as it was: what stands before the mark is written by hand."""
    return before.partition(MARK)[0] + MARK + "\n" + table([(check.name, check.about) for check in CHECKS])


def schema() -> str:
    """The JSON schema of the report."""
    return json.dumps(msgspec.json.schema(Report), indent=2) + "\n"


def main(argv: list[str]) -> int:
    """Write both documents, or say whether they are as they should be."""
    wanted = {PAGE: page(PAGE.read_text(encoding="utf-8")), SCHEMA: schema()}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        print(f"{path.relative_to(ROOT)} {'is out of date' if argv == ['--check'] else 'is written anew'}")
        if argv != ["--check"]:
            path.write_text(wanted[path], encoding="utf-8")
    return 1 if stale and argv == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
