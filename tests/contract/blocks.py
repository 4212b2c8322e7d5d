"""The code blocks of the documentation, and what of them can be played.

A console block is commands (``$ ...``, with continuation lines) and what they print; a yaml block is a configuration or
a part of one. What cannot be played here stands in ``CANNOT``, with its reason, or its block has a mark behind the
language, one of ``MARKS``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import yaml

ROOT = Path(__file__).parents[2]
GENERATED = {"configuration.md", "errors.md", "failures.md", "rpc.md"}
"""Made from tests or contracts, and compared with them elsewhere."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted(page for page in (ROOT / "docs").glob("*.md") if page.name not in GENERATED)

CANNOT = {
    r"^make demo": "tests/e2e/test_haiku.py plays it",
    r"^make test": "it is the run that this test is part of",
    r"^llama-orch init --trial": "tests/integration/llama_orch/test_product.py plays it and the next one",
    r"^llama-orch up": "it runs until Ctrl-C: this test's own house stands in for it",
    r"^llama-orch models pull hf:": "needs the hub: tests/integration/model_provisioner has one of its own",
}

MARKS = {
    "root": "needs root, and a distribution's package manager",
    "gpu": "needs an NVIDIA GPU",
    "later": "is another program's, or changes what other blocks need",
    "lab": "tests/lab/test_documents.py plays it in a service manager of its own",
    "backup": "tests/contract/test_backup.py plays it, on two machines",
}
"""Why a whole block is not played here, by what stands behind its language."""


class Block(msgspec.Struct, frozen=True):
    """One fenced block."""

    page: str
    number: int
    language: str
    text: str
    mark: str = ""

    @property
    def id(self) -> str:
        """For people."""
        return f"{self.page}-{self.number}"


class Command(msgspec.Struct, frozen=True):
    """One command, without its comment, and what it prints according to the document."""

    block: Block
    text: str
    printed: list[str]

    @property
    def reason(self) -> str | None:
        """Why it cannot be played here, if it cannot."""
        if self.block.mark:
            return MARKS[self.block.mark]
        return next((why for pattern, why in CANNOT.items() if re.search(pattern, self.text)), None)


def blocks(language: str) -> list[Block]:
    """Every block in this language."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        matches = re.finditer(r"^```(\w*)(?: (\w+))?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        for number, match in enumerate(matches):
            found.append(Block(str(page.relative_to(ROOT)), number, match[1], match[3], match[2] or ""))
    return [block for block in found if block.language == language]


def commands() -> list[Command]:
    """Every command of every console block, in order."""
    return [command for block in blocks("console") for command in _commands(block)]


def _commands(block: Block) -> list[Command]:
    made: list[Command] = []
    lines = iter(block.text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            text = line[2:]
            while text.endswith("\\"):
                text = f"{text[:-1]} {next(lines).strip()}"
            made.append(Command(block, re.sub(r"\s+# .*$", "", text), []))
        elif line.startswith("> ") and made and not made[-1].printed:
            made[-1] = Command(block, f"{made[-1].text}\n{line[2:]}", [])
        elif line and made:
            made[-1].printed.append(line)
    return made


BASE: dict[str, Any] = {
    "profile": "home",
    "pools": [{"id": "gpu0", "engine": "llamacpp", "model": "m", "devices": [0]}],
}


def configurations() -> list[tuple[Block, dict[str, Any]]]:
    """Every yaml block as a whole configuration: a part of one is completed."""
    made = []
    for block in blocks("yaml"):
        part = yaml.safe_load(block.text)
        whole = {"pools": part} if isinstance(part, list) else part
        made.append((block, BASE | whole))
    return made
