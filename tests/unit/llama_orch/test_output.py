import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from llama_orch.output import Output, columns_that_fit

COLUMNS = ("TASK", "STATE", "POOL", "MODEL", "TOKENS")
ROWS = (
    ("cli-b30d41d1d3d1416c9dc15fbda1f88223", "done", "trial", "hf:org/a-rather-long-name-of-a-model/file.gguf", 16),
    ("さくら", "running", "日本語のプール", "m\x1b[2J", None),
)


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(width: int, monkeypatch: pytest.MonkeyPatch, rows: object = ROWS) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    Output(as_json=False, stdout=screen).table(COLUMNS, rows, "nothing")  # type: ignore[arg-type]
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in screen.getvalue().splitlines()]


def test_where_there_is_room_rows_stand_below_their_headings(monkeypatch: pytest.MonkeyPatch) -> None:
    heading, first, second = shown(160, monkeypatch)
    assert heading.split() == list(COLUMNS)
    assert first.index("done") == heading.index("STATE")
    assert second.startswith("さくら ")


def test_a_long_column_gets_a_second_line_and_a_short_one_is_never_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(112, monkeypatch)
    assert len(lines) == 4
    assert lines[1].split()[:3] == ["cli-b30d41d1d3d1416c9dc15fbda1f88223", "done", "trial"]


def test_where_there_is_none_each_row_is_a_paragraph(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(50, monkeypatch) == [
        "cli-b30d41d1d3d1416c9dc15fbda1f88223",
        "  state done, pool trial,",
        "  model",
        "  hf:org/a-rather-long-name-of-a-model/file.gguf,",
        "  tokens 16",
        "さくら",
        "  state running, pool 日本語のプール, model m[2J",
    ]


@settings(max_examples=60)
@given(widths=st.lists(st.integers(1, 80), min_size=1, max_size=9), room=st.integers(1, 250))
def test_columns_that_fit_do_fit_and_names_are_whole(widths: list[int], room: int) -> None:
    found = columns_that_fit(widths, room)
    if found is None:
        assert sum(widths) + 2 * (len(widths) - 1) > room
        return
    assert sum(found) + 2 * (len(found) - 1) <= room
    assert found[0] == widths[0]
    assert all(given == wanted for given, wanted in zip(found, widths, strict=True) if wanted <= 16)
    assert min(found) > 0


@pytest.mark.parametrize("width", [10, 25, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(map(cell_len, shown(width, monkeypatch))) <= width


def test_nothing_is_said_where_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(80, monkeypatch, rows=()) == ["nothing"]
