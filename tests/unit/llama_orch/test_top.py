import io
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console

from contracts.config import Profile
from contracts.pools import Capabilities, PolicyInfo, PoolList, PoolState
from contracts.tasks import TaskState
from llama_orch.top.screen import View, plain, screen
from llama_orch.top.snapshot import Answers, Snapshot, short_model, snapshot
from tests.unit.llama_orch import busy

CAPABILITIES = Capabilities(
    api_version="1.0",
    profile=Profile.HOME,
    policies=PolicyInfo(outbound_default="allow", allow_package_installs=False, allow_binary_downloads=False),
    pools=(),
)


def answers(tokens: int = 100, now_ms: int = busy.NOW_MS, count: int = 1000) -> Answers:
    tasks = busy.tasks(count, now_ms, tokens)
    return Answers(
        pools=PoolList(pools=busy.pools(max(count - 4, 0)), managed=True),
        capabilities=CAPABILITIES,
        running=tuple(task for task in tasks if task.state is TaskState.RUNNING),
        queued=tuple(task for task in tasks if task.state is TaskState.QUEUED),
        failed=(replace(busy.task(1), state=TaskState.FAILED, error_code="WORKER_RESET"),),
        metrics=busy.SERIES,
    )


def drawn(shown: Snapshot | None, width: int, height: int, trouble: str | None = None, **console: object) -> list[str]:
    out = io.StringIO()
    view = View(url="http://127.0.0.1:8080", clock="12:00:00", snapshot=shown, trouble=trouble)
    with patch.dict("os.environ", {}, clear=True):
        terminal = Console(file=out, width=width, height=height, highlight=False, **console)  # type: ignore[arg-type]
    terminal.print(screen(view, width, height))
    return out.getvalue().splitlines()


def test_a_snapshot_counts_what_waits_runs_and_went_wrong() -> None:
    shown = snapshot(answers(), busy.NOW_MS)
    assert (shown.ready, len(shown.running), len(shown.queued), shown.queue_depth) == (1, 4, 996, 996)
    assert shown.counts.refused == {"queue_full": 15, "deadline": 2}
    assert shown.counts.canceled == {"client": 4}
    assert shown.counts.engine_restarts == {"engine_exit": 2}
    assert shown.counts.failed == {"WORKER_RESET": 1}
    assert [stream.position for stream in shown.queued[:3]] == [0, 1, 2]
    assert [(gpu.pools, gpu.utilization) for gpu in shown.gpus] == [(("gpu0",), 0.97), (("gpu1",), 0.04)]


def test_a_figure_that_is_none_counts_as_nothing() -> None:
    with pytest.raises(ValueError, match="NaN"):  # what round() would do with it
        round(float("nan"))
    assert snapshot(answers(), busy.NOW_MS).counts.tokens_out == 123_456


def test_a_stream_is_as_fast_as_since_its_first_token_and_then_as_since_the_last_look() -> None:
    first = snapshot(answers(tokens=100), busy.NOW_MS)
    # 60 s old, the first token after 10 s: three times a hundred tokens in 50 s.
    assert {stream.task_id[-1]: round(stream.tokens_per_s or 0, 1) for stream in first.running}["3"] == 6.0
    later = snapshot(answers(tokens=110, now_ms=busy.NOW_MS), busy.NOW_MS + 2_000, first)
    assert {stream.task_id[-1]: stream.tokens_per_s for stream in later.running}["3"] == 15.0
    assert later.tokens_per_s == 30.0


def test_what_has_no_token_yet_has_no_speed_and_a_clock_that_is_behind_makes_no_age() -> None:
    waiting = replace(busy.task(2), first_token_ms=None, tokens_out=None)
    shown = snapshot(replace(answers(), running=(waiting,)), busy.NOW_MS - 3_600_000)
    assert (shown.running[0].tokens_per_s, shown.running[0].age_ms) == (None, 0)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(10, 240), height=st.integers(4, 80), count=st.integers(0, 60))
def test_whatever_the_size_nothing_is_broken_into_two_lines_and_the_counts_are_on_the_screen(
    width: int, height: int, count: int
) -> None:
    lines = drawn(snapshot(answers(count=count), busy.NOW_MS), width, height)
    assert max(map(cell_len, lines)) <= width
    assert len(lines) <= max(height, 4)
    assert lines[-1].startswith("tokens"[:width])


def test_names_do_not_drive_the_terminal() -> None:
    text = "\n".join(drawn(snapshot(answers(count=20), busy.NOW_MS), 120, 40, force_terminal=True, no_color=True))
    assert "\x1b[31m" not in text
    assert "\x1b]0" not in text
    assert "\x1b[2J" not in text
    assert "gpu1: engine_exit: status 1[2J bad" in text


def test_a_large_terminal_shows_all_there_is() -> None:
    text = "\n".join(drawn(snapshot(answers(count=6), busy.NOW_MS), 200, 50))
    for words in ("21.5/24.0 GiB", "97 %", "日本語のプール", "次のモデル", "ensuring_engine", "queued 1", "refused 17"):
        assert words in text
    assert "more" not in text


def test_what_has_no_room_is_counted() -> None:
    assert any("... and 9" in line for line in drawn(snapshot(answers(), busy.NOW_MS), 80, 24))


def test_a_daemon_that_is_away_is_said_beside_what_it_said_last() -> None:
    lines = drawn(snapshot(answers(), busy.NOW_MS), 100, 30, trouble="no answer")
    assert lines[1] == "no answer"
    assert "21.5/24.0 GiB" in "\n".join(lines)
    assert drawn(None, 80, 24)[1] == "asking..."


def test_a_pipe_gets_columns_with_tabs_and_every_name_whole() -> None:
    lines = list(plain(snapshot(answers(count=6), busy.NOW_MS)))
    pools = [line.split("\t") for line in lines if line.startswith(("POOL\t", "gpu0\t", "a-pool"))]
    assert [row[0] for row in pools] == ["POOL", "gpu0", "a-pool-with-a-name-that-is-rather-long-for-a-terminal"]
    assert [row[1] for row in pools] == ["STATE", PoolState.READY, PoolState.ENSURING_ENGINE]
    assert lines[-1].startswith("tokens 123456  refused 17 (queue_full 15, deadline 2)  failed 1 (WORKER_RESET 1)")


@pytest.mark.parametrize(
    ("ref", "short"),
    [
        ("hf:org/repo/Model-Q4.gguf", "Model-Q4"),
        ("/srv/models/a.gguf", "a"),
        ("https://host/m.gguf?token=x", "m"),
        ("haiku", "haiku"),
        ("", ""),
    ],
)
def test_a_model_is_called_by_the_end_of_its_reference(ref: str, short: str) -> None:
    assert short_model(ref) == short
