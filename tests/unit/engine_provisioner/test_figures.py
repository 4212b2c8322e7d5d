import io

import pytest

from contracts.engines import Plan, PlanStep
from engine_provisioner.display import shown
from engine_provisioner.figures import Meter


@pytest.mark.parametrize(
    ("lines", "share"),
    [
        (["37 % built"], 0.37),
        (["[ 45%] Building CXX object"], 0.45),
        (["[12/48] CXX a.o"], 0.25),
        (["Receiving objects:  61% (610/1000)"], 0.61),
        (["downloaded 12 % of 4.4 MB"], 0.12),
        (["downloaded 4 MB"], None),
        (["999 % of nothing"], 1.0),
        (["[5/0] x"], 1.0),
        (["aaaaaaaaaaaa: Pulling fs layer", "bbbbbbbbbbbb: Pulling fs layer", "aaaaaaaaaaaa: Pull complete"], 0.5),
        (["aaaaaaaaaaaa: Already exists"], 1.0),
        (["Copying blob aaaaaaaaaaaa done", "Copying config sha256:bbbbbbbbbbbbcc"], 0.5),
        (["aaaaaaaaaaaa: Pull complete", "aaaaaaaaaaaa: Verifying Checksum"], 1.0),
    ],
)
def test_what_programs_print_is_a_share_of_the_step(lines: list[str], share: float | None) -> None:
    meter = Meter()
    assert [meter.take(line) for line in lines] == [True] * len(lines)
    assert meter.share == share


@pytest.mark.parametrize("line", ["the log is /x/build.log", "builds with 4 jobs at a time", "b6123 is abcdef012", ""])
def test_news_is_no_figure(line: str) -> None:
    meter = Meter()
    assert not meter.take(line)
    assert meter.share is None


def test_a_log_gets_a_line_for_each_step_and_each_tenth_of_it() -> None:
    plan = Plan(pool_id="a", steps=(PlanStep(kind="f", detail="fetch it"), PlanStep(kind="b", detail="build it")))
    out = io.StringIO()
    with shown("a", plan, out) as progress:
        progress.say("fetch it")
        for done in range(5):
            progress.say(f"downloaded {done} MB")
        progress.say("build it")
        for percent in range(101):
            progress.say(f"{percent} % built")
        progress.say("a note")
    tenths = [f"a: {percent} % built" for percent in range(0, 101, 10)]
    assert out.getvalue().splitlines() == ["a: fetch it", "a: downloaded 0 MB", "a: build it", *tenths, "a: a note"]


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "dumb")
    out = Screen()
    plan = Plan(pool_id="a", steps=(PlanStep(kind="f", detail="fetch it"),))
    with shown("a", plan, out) as progress:
        progress.say("fetch it")
        progress.say("50 % done")
    assert out.getvalue() == "a: fetch it\na: 50 % done\n"
