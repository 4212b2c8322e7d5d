"""ARCHITECTURE.md names the packages that there are, and the import contract has the same order."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
NOT_OURS = {"tests", "tools", "bench", "training"}


def packages_on_disk() -> set[str]:
    return {path.parent.name for path in ROOT.glob("*/__init__.py")} - NOT_OURS


def test_the_table_names_every_package_and_no_other() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)) == packages_on_disk()


def test_the_picture_of_the_layers_is_the_contract_that_is_checked() -> None:
    block = next(
        block for block in re.findall(r"```\n(.*?)```", TEXT, re.DOTALL) if block.startswith("orchestratord |")
    )
    drawn = [{name.strip() for name in line.split("|")} for line in block.strip().splitlines()]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert drawn == [{name.strip() for name in layer.split("|")} for layer in layers]


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert [link for link in links if not (ROOT / link).exists()] == []
