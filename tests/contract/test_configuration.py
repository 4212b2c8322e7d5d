"""docs/configuration.md names every field of the configuration with all that holds for it; nobody writes it by hand."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from contracts.config import END
from tools import config_reference as reference

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = pytest.mark.req("HP-26", "HP-27")


def test_every_field_says_what_it_does() -> None:
    assert reference.without_words() == []


def test_every_field_and_every_block_stands_in_the_page_once() -> None:
    page = reference.page()
    paths = [path for path, _, _ in reference.fields()]
    assert [path for path in paths if page.count(f"| `{path}` |") != 1] == []
    blocks = [path for path, _ in reference.blocks() if path]
    assert [path for path in blocks if page.count(f"\n## `{path}`\n") != 1] == []
    anchors = {path: path.translate({ord(sign): None for sign in "[]."}) for path in blocks}
    assert [path for path, anchor in anchors.items() if f"(#{anchor})" not in page] == []


def row(path: str) -> list[str]:
    line = next(line for line in reference.page().splitlines() if line.startswith(f"| `{path}` |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_has_type_bounds_default_words_and_what_a_sighup_does() -> None:
    assert row("pools[].ctx")[1:3] == ["integer, 16 to 134217728", "`8192`"]
    assert row("pools[].queue.full_policy")[1:3] == ["`reject` or `drop-lru`", '`"reject"`']
    assert row("pools[].engine")[2] == "**required**"
    assert row("pools[].model_sha256")[1:3] == ["text, 64 hexadecimal digits", "left out"]
    assert row("store.max_age_ms")[1:3] == ["milliseconds, from 1", "`2592000000` (30 days)"]
    assert row("store.max_bytes")[1:3] == ["bytes, from 1048576", "`1073741824` (1 GiB)"]
    assert row("logging.level")[1] == "text: `debug` or `info` or `warning` or `error`"
    assert all(cell for path, _, _ in reference.fields() for cell in row(path)), "no cell of a value is empty"


@pytest.mark.parametrize(
    ("path", "when"),
    [
        ("logging.level", "at once"),
        ("limits.requests_per_minute", "at once"),
        ("pools[].queue.capacity", "at once"),
        ("pools[].timeouts.wall_ms", "at once; restart pool-managerd"),
        ("server.bind", "restart orchestratord"),
        ("models.max_bytes", "restart pool-managerd"),
        ("pools[].ctx", "restart both"),
        ("profile", "restart both"),
    ],
)
def test_the_page_says_what_the_daemons_do_at_a_sighup(path: str, when: str) -> None:
    assert row(path)[4] == when
    assert set(reference.WHEN) >= {reference.when_of(each) for each, _, _ in reference.fields()}


def test_the_schema_shows_editors_the_same_words() -> None:
    words = reference.read_words()
    schema = reference.described({"$defs": {"Pool": {"properties": {"ctx": {}, "id": {"description": "short"}}}}})
    shown = schema["$defs"]["Pool"]["properties"]
    assert shown["ctx"]["description"] == words["Pool", "ctx"]
    assert shown["id"]["description"] == f"{words['Pool', 'id']} (short)"


def test_words_are_taken_from_behind_the_field_that_they_are_of() -> None:
    source = 'class A:\n    x: int\n    y: int = 1\n    """Of y."""\n    Z = "z"\n    """Of Z."""\n'
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.ClassDef)
    assert list(reference._attributes(tree)) == [("y", "Of y."), ("Z", "Of Z.")]  # noqa: SLF001 - its own small part


def test_a_pattern_that_the_page_cannot_say_is_a_fault_of_the_page() -> None:
    unsaid = [
        path
        for path, _, field in reference.fields()
        for kind in [reference._bare(field.type)]  # noqa: SLF001 - what the page is made from
        if (getattr(kind, "pattern", None) or "").endswith(END) and row(path)[1] == "text" and ":" not in row(path)[3]
    ]
    assert unsaid == []


def test_every_setting_that_a_page_names_is_one() -> None:
    known = {path.replace("[]", "") for path, _, _ in reference.fields()} | {
        path.replace("[]", "") for path, _ in reference.blocks()
    }
    known |= {path.removeprefix("pools.") for path in known}
    sections = {path.partition(".")[0] for path in known if "." in path or path in {"limits", "server"}}
    named = re.compile(rf"`((?:pools\[\]\.)?(?:{'|'.join(sorted(sections))})\.[a-z_.]+(?<!\.json))`")
    wrong = [
        f"{page.name}: {name}"
        for page in sorted(DOCS.glob("*.md"))
        for name in named.findall(page.read_text())
        if name.replace("pools[].", "") not in known
    ]
    assert wrong == []
