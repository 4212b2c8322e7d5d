from typing import Any

import pytest

from llama_orch.replay.compare import Difference, Grade, Sameness, Unit
from llama_orch.replay.facts import Change
from llama_orch.replay.report import Answer, Report, change_text, lines

pytestmark = pytest.mark.req("HP-21")


def answer(task_id: str, **more: Any) -> Answer:  # noqa: ANN401 - any field
    known = {"task_id": task_id, "artifact_id": None, "pieces": 3, "stream_sha256": "ab", "ended": "stop"}
    return Answer(**(known | more))


def report(same: Sameness, grade: Grade, **more: Any) -> Report:  # noqa: ANN401 - any field
    known: dict[str, Any] = {
        "difference": None,
        "why": None,
        "changes": (),
        "unknown": (),
        "recorded": answer("poem-1"),
        "now": answer("cli-1"),
        "seed": 7,
        "pool_id": "trial",
    }
    return Report(same=same, grade=grade, **(known | more))


def test_the_same_answer_on_the_same_engine() -> None:
    assert lines(report(Sameness.IDENTICAL, Grade.BIT_EXACT)) == [
        "asked again as cli-1, seed 7, pool trial",
        "identical: 3 tokens, sha256 ab",
        "nothing of what the receipt tells of the engine has changed",
        "class: bit-exact (every byte that was recorded is there again)",
    ]


def test_another_answer_with_what_has_changed_and_what_is_not_known() -> None:
    place = Difference(unit=Unit.TOKEN, number=2, character=7, before="My mind", recorded=" is\n", now="")
    changes = (
        Change(fact="model_digest", recorded="sha256:1", now="sha256:2"),
        Change(fact="devices", recorded=[], now=["GPU-1", "GPU-2"]),
        Change(fact="cache_prompt", recorded=True, now=False),
        Change(fact="sent.top_k", recorded=None, now=4),
    )
    shown = report(
        Sameness.DIFFERENT,
        Grade.BEST_EFFORT,
        difference=place,
        changes=changes,
        unknown=("engine_digest",),
        notes=("it was a turn",),
        pool_id=None,
    )
    assert lines(shown) == [
        "asked again as cli-1, seed 7",
        "the first differing token is number 2, as the recorded stream counts from 0",
        '  before    "...My mind"',
        '  recorded  " is\\n"',
        "  now       (it ended here)",
        "changed since:",
        "  model digest   sha256:1 -> sha256:2",
        "  GPUs           none -> GPU-1, GPU-2",
        "  cache allowed  true -> false",
        "  sent.top_k     none -> 4",
        "not known of one of the two: engine digest",
        "note: it was a turn",
        "class: best effort (engine, model or sampler profile are not the same, or that cannot be told)",
    ]


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        (Unit.CHARACTER, "the first differing character is number 0, counted from 0; where tokens begin is not known"),
        (Unit.RESULT, "the first differing result is number 0, counted from 0 as the inputs are"),
    ],
)
def test_what_is_counted_is_said(unit: Unit, text: str) -> None:
    place = Difference(unit=unit, number=0, character=0, before="", recorded="", now="x")
    said = lines(report(Sameness.DIFFERENT, Grade.SAME_ENGINE, difference=place))
    assert said[1].startswith(text)
    assert said[2:5] == ["  before    (it is the beginning)", "  recorded  (it ended here)", '  now       "x"']


def test_what_could_not_be_compared_as_a_whole_is_said() -> None:
    far = report(Sameness.AS_FAR, Grade.BIT_EXACT, recorded=answer("p", pieces=1, ended="canceled"))
    assert lines(far)[1] == "identical as far as it was recorded: 1 token, then it ended: canceled"
    lost = report(Sameness.UNKNOWN, Grade.BEST_EFFORT, why="nothing had come")
    assert lines(lost)[1] == "it cannot be compared: nothing had come"
    somewhere = report(Sameness.DIFFERENT, Grade.SAME_ENGINE, why="it was too long")
    assert lines(somewhere)[1] == "it differs, and where is not known: it was too long"


def test_of_how_an_engine_was_started_only_what_changed_is_shown() -> None:
    then = ["CUDA_VISIBLE_DEVICES=", "llama-server", "--ctx-size", "512", "--slots"]
    now = ["CUDA_VISIBLE_DEVICES=0", "llama-server", "--ctx-size", "512", "--slots", "--alias", "a b"]
    text = change_text(Change(fact="argv", recorded=then, now=now))
    assert text == "CUDA_VISIBLE_DEVICES= -> CUDA_VISIBLE_DEVICES=0; nothing -> --alias 'a b'"
