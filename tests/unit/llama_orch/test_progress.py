"""The progress of transfers: on a terminal of any width, and in a pipe."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from llama_orch.progress import LARGE_BYTES, ROWS, Bars, Lines, shown
from model_provisioner.sources.base import Transferred

pytestmark = pytest.mark.req("MP-04")
GIB = 1 << 30


class Clock:
    """A clock that is turned by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log(io.StringIO):
    """A pipe, and what was written into it."""

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


def at(done: int, total: int | None = GIB, name: str = "m.gguf") -> Transferred:
    return Transferred(name=name, done_bytes=done, total_bytes=total)


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_pipe_gets_the_beginning_every_tenth_part_and_the_end(log: Log) -> None:
    clock = Clock()
    lines = Lines(log, clock)
    for step in range(101):
        lines.moved(at(GIB // 100 * step if step < 100 else GIB))
        clock.now += 1.0
    assert len(log.lines) == 11
    assert log.lines[0] == "m.gguf: 0.0/1.0 GiB"
    assert log.lines[2] == "m.gguf: 20 % of 1.0 GiB, 10.2 MiB/s, 1 min 19 s left"
    assert log.lines[-1] == "m.gguf: 1.0 GiB, all of it, 10.2 MiB/s"


def test_a_transfer_that_goes_on_says_where_and_its_speed_is_that_of_this_run(log: Log) -> None:
    clock = Clock()
    lines = Lines(log, clock)
    lines.moved(at(GIB // 2))
    clock.now = 512.0
    lines.moved(at(GIB))
    assert log.lines == ["m.gguf: 0.5/1.0 GiB", "m.gguf: 1.0 GiB, all of it, 1.0 MiB/s"]


def test_a_transfer_that_begins_anew_says_so(log: Log) -> None:
    lines = Lines(log, Clock())
    for done in (GIB // 2, 0, GIB):
        lines.moved(at(done))
    assert log.lines[1] == "m.gguf: 0.0/1.0 GiB"


def test_a_small_file_is_one_line(log: Log) -> None:
    lines = Lines(log, Clock())
    for done in (0, 300, 600, 1000):
        lines.moved(at(done, 1000, "config.json"))
    assert log.lines == ["config.json: 1000 B, all of it"]


def test_a_file_of_unknown_size_gets_fewer_lines_the_longer_it_takes(log: Log) -> None:
    lines = Lines(log, Clock())
    for step in range(1024):
        lines.moved(at(step << 20, None))
    assert log.lines[:2] == ["m.gguf: 0 B", "m.gguf: 16.0 MiB"]
    assert len(log.lines) == 7


def amounts() -> st.SearchStrategy[list[Transferred]]:
    totals = st.sampled_from([None, 0, 1, LARGE_BYTES - 1, LARGE_BYTES, 20 * GIB])
    files = st.lists(st.integers(0, 20 * GIB), min_size=1, max_size=300).map(sorted)
    return st.tuples(files, totals).map(
        lambda drawn: [at(done if drawn[1] is None else min(done, drawn[1]), drawn[1]) for done in drawn[0]]
    )


@given(amounts())
def test_no_file_gets_more_than_a_dozen_lines(steps: list[Transferred]) -> None:
    log = Log()
    clock = Clock()
    lines = Lines(log, clock)
    for step in steps:
        lines.moved(step)
        clock.now += 0.5
    assert len(log.lines) <= 13
    if steps[-1].total_bytes is not None and steps[-1].done_bytes == steps[-1].total_bytes:
        assert log.lines[-1].startswith(f"m.gguf: {'0 B' if not steps[-1].total_bytes else ''}")
        assert "all of it" in log.lines[-1]


def test_what_a_server_calls_its_file_drives_no_terminal(log: Log) -> None:
    lines = Lines(log, Clock())
    lines.moved(at(5, 5, "a\x1b[2J\x07b"))
    lines.say("\x1b]0;title\x07")
    assert log.lines == ["a[2Jb: 5 B, all of it", "]0;title"]
    bars, screen = on_terminal(60)
    bars.moved(at(5, 5, "a\x1b[2J\nb [red]c"))
    (row,) = drawn(bars, screen)
    assert row.startswith("a[2J b [red]c")


def on_terminal(width: int) -> tuple[Bars, Console]:
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None, legacy_windows=False)
    return Bars(screen, Clock()), screen


def drawn(bars: Bars, screen: Console) -> list[str]:
    lines = screen.render_lines(bars.display.get_renderable(), pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (80, "Llama-3.2-3B-Instruct-Q4_K_M.gguf ━━━━━╸        0.5/1.0 GiB "),
        (60, "Llama-3.…uct-Q4_K_M.gguf   0.5/1.0 GiB "),
        (40, "Llama-3…-Q4_K_M.gguf  50 %"),
    ],
)
def test_a_row_has_what_there_is_room_for(width: int, row: str) -> None:
    bars, screen = on_terminal(width)
    bars.moved(at(GIB // 2, name="Llama-3.2-3B-Instruct-Q4_K_M.gguf"))
    (line,) = drawn(bars, screen)
    assert line.startswith(row), line
    assert len(line) <= width


@settings(deadline=None)  # drawing forty rows takes its time on a busy machine
@given(
    st.lists(st.tuples(st.text(max_size=60), st.integers(0, 9), st.sampled_from([None, 9])), max_size=40),
    st.integers(20, 200),
)
def test_a_row_is_never_broken_and_the_rows_never_fill_the_terminal(
    files: list[tuple[str, int, int | None]], width: int
) -> None:
    bars, screen = on_terminal(width)
    for number, (name, done, total) in enumerate(files):
        bars.moved(at(done << 27, None if total is None else total << 27, f"{number}{name}"))
    lines = drawn(bars, screen)
    assert len(lines) <= ROWS + 1
    assert all(cell_len(line) <= width for line in lines)


def test_files_that_are_here_give_way_to_those_that_are_not() -> None:
    bars, screen = on_terminal(100)
    for number in range(ROWS + 3):
        bars.moved(at(0, name=f"part-{number:02}"))
    assert drawn(bars, screen)[0] == "3 more are on their way"
    for number in range(5):
        bars.moved(at(GIB, name=f"part-{number:02}"))
    lines = drawn(bars, screen)
    assert lines[0] == "3 more are here"
    assert lines[1].startswith("part-03")


def test_what_the_rows_show_is_not_said_again_and_other_figures_stay_in_one_place(log: Log) -> None:
    bars, screen = on_terminal(80)
    bars.moved(at(GIB // 2))
    bars.say("downloaded 50 % of 1074 MB")
    assert len(drawn(bars, screen)) == 1
    for percent in (7, 9):
        bars.say(f"computing the digest of other.gguf: {percent} %")
    beside, row = drawn(bars, screen)
    assert beside.strip() == "computing the digest of other.gguf: 9 %"
    assert row.startswith("m.gguf")
    bars.say("other.gguf is right")
    assert len(drawn(bars, screen)) == 1
    lines = Lines(log, Clock())
    lines.say("downloaded 50 % of 1074 MB")
    lines.say("going on after 4 MB that are here")
    assert log.lines == ["going on after 4 MB that are here"]


def test_the_width_is_that_of_the_moment() -> None:
    bars, screen = on_terminal(80)
    bars.moved(at(GIB // 2))
    assert "━" in drawn(bars, screen)[0]
    screen.width = 40
    assert "━" not in drawn(bars, screen)[0]


@pytest.fixture
def terminal(log: Log, monkeypatch: pytest.MonkeyPatch) -> Log:
    monkeypatch.setattr(log, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    return log


def test_a_terminal_that_cannot_be_drawn_on_gets_lines(terminal: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with shown(terminal, Clock()) as progress:
        progress.moved(at(GIB))
    assert terminal.getvalue() == "m.gguf: 1.0 GiB, all of it\n"


def test_a_terminal_gets_bars_and_keeps_the_last_of_them(terminal: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    with shown(terminal, Clock()) as progress:
        progress.say("asking")
        progress.moved(at(GIB // 2))
    assert "asking\n" in terminal.getvalue()
    assert "0.5/1.0 GiB" in terminal.lines[-2] + terminal.lines[-1]
