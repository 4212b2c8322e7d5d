"""What `make fuzz` makes of a campaign, and that a campaign finds what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import fuzz

SAID = """
INFO: Running with entropic power schedule (0xFF, 100).
#2\tINITED cov: 14 ft: 14 corp: 1/1b exec/s: 0 rss: 62Mb
#44\tNEW    cov: 26 ft: 45 corp: 5/8b lim: 4 exec/s: 0 rss: 62Mb L: 2/2 MS: 2 ShuffleBytes-InsertByte-
stat::number_of_executed_units: 2529
stat::average_exec_per_sec:     0
stat::peak_rss_mb:              63
"""
WRONG = "#9 noise\n === Uncaught Python exception: ===\nWrongError: a step backwards\nSUMMARY: exited\n0x7b\n"

RUNS = 10_000


def test_a_campaign_is_summed_up() -> None:
    found = fuzz.outcome(SAID, 0)
    assert found == fuzz.Outcome(runs=2529, edges=26, corpus=5, memory_mb=63, wrong=None)
    assert fuzz.outcome("", 0).runs == 0


def test_what_went_wrong_is_shown_without_the_noise() -> None:
    assert fuzz.outcome(SAID + WRONG, 77).wrong == "=== Uncaught Python exception: ===\nWrongError: a step backwards\n"
    assert fuzz.outcome("Killed", 137).wrong == "Killed"


def test_without_the_fuzzer_nothing_is_run_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fuzz"])
    monkeypatch.setitem(sys.modules, "atheris", None)
    assert fuzz.main() == 0
    assert capsys.readouterr().out == f"{fuzz.NOT_RUN}\n"


@pytest.mark.req("MP-05")
@pytest.mark.slow
def test_a_short_campaign_finds_nothing_wrong(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="coverage-guided fuzzing needs atheris")
    # The same inputs each time, as many as they are, and however long one of them takes.
    found = fuzz.campaign("gguf_head", "bytes", tmp_path, runs=RUNS, seed=1, timeout=50)
    assert found.wrong is None, found.wrong
    assert found.runs == RUNS
    assert found.edges > 100
