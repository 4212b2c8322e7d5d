"""docs/drills.md says what the drills hold the product to, and the drills are fit to be told."""

import re

from tests.lab.drills import book


def test_the_page_is_what_the_drills_say() -> None:
    assert book.PAGE.read_text() == book.page(), "write it anew: .venv/bin/python -m tests.lab.drills.book"


def test_every_drill_says_all_four_things_once() -> None:
    drills = [drill for family in book.families().values() for drill in family]
    names = [drill.name for drill in drills]
    assert len(set(names)) == len(names) >= 25
    for drill in drills:
        assert re.fullmatch(r"[a-z0-9-]+", drill.name)
        for text in (drill.done, drill.client, drill.left):
            assert len(text) > 20, drill.name
            assert text.endswith("."), drill.name
        assert drill.journal, drill.name
        assert not any(set(words) & set('"\\$`') for words in drill.journal), f"{drill.name}: bash would read that"
