"""No block of a page is passed over in silence: what a reader takes for commands, the tests that play them know."""

from __future__ import annotations

import re

import pytest

from tests.contract.blocks import PAGES, ROOT, blocks, commands

pytestmark = pytest.mark.req("HP-27")
FENCE = re.compile(r"^[ >]*(```|~~~)", re.MULTILINE)
LANGUAGES = ("", "console", "json", "text", "yaml")
"""Plain text (drawings, what a program prints), commands, a message, a file's content, a configuration."""
ELSEWHERE = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")} - {*PAGES})


@pytest.mark.parametrize("name", [str(page.relative_to(ROOT)) for page in PAGES])
def test_every_block_of_a_page_is_one_that_the_tests_read(name: str) -> None:
    read = sum(block.page == name for language in LANGUAGES for block in blocks(language))
    assert 2 * read == len(FENCE.findall((ROOT / name).read_text(encoding="utf-8")))


def test_every_command_block_has_commands_and_each_of_its_lines_belongs_to_one() -> None:
    having = {command.block.id for command in commands()}
    assert [block.id for block in blocks("console") if block.id not in having] == []
    assert [block.id for block in blocks("console") if not block.text.startswith("$ ")] == []


def test_no_other_page_has_commands_that_nobody_plays() -> None:
    assert ELSEWHERE
    found = [
        page.name for page in ELSEWHERE if re.search(r"^```(console|sh|bash|shell)", page.read_text(), re.MULTILINE)
    ]
    assert found == []


def test_no_plain_block_hides_a_command() -> None:
    plain = [block for language in ("", "text") for block in blocks(language)]
    assert [block.id for block in plain if re.search(r"^\$ ", block.text, re.MULTILINE)] == []
