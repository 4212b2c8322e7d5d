"""Writes the documents that are generated from the code, or checks that the committed ones still fit.

Decides where they are and how they are laid out. What they say is ``contracts``'s, and of engines the adapters'.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import yaml

from contracts import openapi
from contracts.config import Config
from contracts.operations import Plane
from tools import config_reference, doctor_documents, engine_tables, grafana_dashboard, reference_pages

ROOT = Path(__file__).resolve().parent.parent
NOTE = "Generated from the types in contracts/ by `make generate`; do not edit."


def documents() -> dict[Path, str]:
    """Every generated file with its text."""
    folder = ROOT / "contracts"
    return {
        folder / "openapi" / "data.yaml": _yaml(openapi.document(Plane.DATA)),
        folder / "openapi" / "control.yaml": _yaml(openapi.document(Plane.CONTROL)),
        folder / "config.schema.json": json.dumps(config_schema(), indent=2) + "\n",
        **config_reference.documents(),
        **doctor_documents.documents(),
        **engine_tables.documents(),
        **grafana_dashboard.documents(),
        **reference_pages.documents(),
    }


def config_schema() -> dict[str, Any]:
    """The JSON Schema of the configuration file, for editors and for people."""
    schema = config_reference.described(msgspec.json.schema(Config))
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "llama-orch configuration",
        "$comment": NOTE,
    }
    return head | schema


def stale(made: dict[Path, str]) -> list[Path]:
    """The committed files that are not what the types say now."""
    return [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main() -> int:
    """Write, or with ``--check`` only compare: exit status 1 and the names of what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    made = documents()
    if parser.parse_args().check:
        wrong = stale(made)
        for path in wrong:
            sys.stderr.write(f"{path.relative_to(ROOT)} is not what the code says; run: make generate\n")
        return 1 if wrong else 0
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


class _Readable(yaml.SafeDumper):
    """Repeats what stands in several places, and writes a text of several lines as such."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the name is PyYAML's
        """Nothing is written as a reference."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Readable.add_representer(str, _text)


def _yaml(document: dict[str, Any]) -> str:
    made: str = yaml.dump(document, Dumper=_Readable, sort_keys=False, allow_unicode=True, width=120)
    return f"# {NOTE}\n{made}"


if __name__ == "__main__":
    raise SystemExit(main())
