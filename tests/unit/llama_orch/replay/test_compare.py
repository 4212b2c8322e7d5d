import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_orch.replay.compare import (
    AFTER,
    BEFORE,
    Grade,
    Outcome,
    Run,
    Sameness,
    Unit,
    compare,
    first_difference,
    grade,
    sha256_of,
    split_results,
)

pytestmark = pytest.mark.req("HP-21", "HP-12")

PIECES = st.lists(st.text(alphabet="abé\n🌙", min_size=1, max_size=4), max_size=12).map(tuple)
TEXTS = PIECES.map("".join)


def run(*pieces: str, whole: bool = True) -> Run:
    text = "".join(pieces)
    return Run(sha256=sha256_of(text), text=text, pieces=pieces, whole=whole)


def unkept(text: str, *, whole: bool = True) -> Run:
    return Run(sha256=sha256_of(text), text=text, whole=whole)


# --- texts that are the same ------------------------------------------------------------------------------------------


@given(TEXTS, PIECES)
def test_the_same_text_is_identical_however_it_was_cut(text: str, cut: tuple[str, ...]) -> None:
    assert compare(run(*text), run(text)) == Outcome(same=Sameness.IDENTICAL)
    assert compare(run(*cut), run("".join(cut))) == Outcome(same=Sameness.IDENTICAL)


def test_identical_is_decided_by_the_hash_where_the_text_was_not_kept_or_not_all_of_it() -> None:
    text = "the moon, the moon"
    for known in (None, "the ***"):
        recorded = Run(sha256=sha256_of(text), text=known, masked=known is not None)
        assert compare(recorded, run(text)).same is Sameness.IDENTICAL


@given(PIECES.filter(bool), PIECES)
def test_what_broke_off_is_compared_as_far_as_it_goes(recorded: tuple[str, ...], more: tuple[str, ...]) -> None:
    now = run(*recorded, *more)
    assert compare(run(*recorded, whole=False), now) == Outcome(same=Sameness.AS_FAR)
    long = Run(sha256=sha256_of("".join(recorded)), text=None, whole=False)
    assert compare(long, now) == Outcome(same=Sameness.AS_FAR)


def test_what_broke_off_before_anything_came_cannot_be_compared() -> None:
    found = compare(run(whole=False), run("moon"))
    assert found == Outcome(same=Sameness.UNKNOWN, why="nothing had come when it broke off")
    assert grade(found, same_identity=True) is Grade.BEST_EFFORT


# --- texts that differ ------------------------------------------------------------------------------------------------


@given(TEXTS, TEXTS)
def test_two_texts_part_where_their_common_beginning_ends(one: str, other: str) -> None:
    at = first_difference(one, other)
    common = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
    assert at == (None if one == other else common)


@given(PIECES, TEXTS, st.booleans())
def test_the_first_differing_token_is_the_recorded_one_that_has_the_first_differing_character(
    pieces: tuple[str, ...], other: str, whole: bool
) -> None:
    text = "".join(pieces)
    found = compare(run(*pieces, whole=whole), run(*other))
    if text == other or (not whole and other.startswith(text)):
        assert found.difference is None
        return
    assert found.same is Sameness.DIFFERENT
    place = found.difference
    assert place is not None
    assert (place.unit, place.character) == (Unit.TOKEN, first_difference(text, other))
    begin = len("".join(pieces[: place.number]))
    assert begin <= place.character
    if place.number < len(pieces):
        assert place.character < begin + len(pieces[place.number])
        assert place.recorded.startswith(pieces[place.number][:AFTER])
    else:  # it ended there, and the new one goes on
        assert (place.character, place.recorded) == (len(text), "")
    assert place.before == text[:begin][-BEFORE:] == other[:begin][-BEFORE:]
    assert place.recorded != place.now


@given(TEXTS, TEXTS)
def test_without_the_stream_characters_are_counted(one: str, other: str) -> None:
    found = compare(unkept(one), run(other)).difference
    if one == other:
        assert found is None
    else:
        assert found is not None
        assert (found.unit, found.number) == (Unit.CHARACTER, first_difference(one, other))


def test_a_new_answer_that_ended_earlier_differs_at_its_end() -> None:
    found = compare(run("the ", "old ", "moon"), run("the ", "old "))
    assert found.difference is not None
    assert (found.difference.number, found.difference.recorded, found.difference.now) == (2, "moon", "")


def test_results_are_counted_by_their_inputs_with_and_without_the_stream() -> None:
    then = [json.dumps({"index": n, "embedding": [0.5, n]}, separators=(",", ":")) for n in range(3)]
    now = [*then[:2], then[2].replace("0.5", "0.25")]
    for recorded in (run(*then), unkept("".join(then))):
        found = compare(recorded, run(*now), results=True).difference
        assert found is not None
        assert (found.unit, found.number) == (Unit.RESULT, 2)
        assert (found.recorded, found.now) == ("5,2]}", "25,2]}")
        assert found.before.endswith('{"index":2,"embedding":[0.')


@given(st.lists(st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=3), max_size=5))
def test_results_in_a_row_are_told_apart(values: list[dict[str, float]]) -> None:
    texts = tuple(json.dumps(value) for value in values)
    assert split_results("".join(texts)) == texts


@pytest.mark.parametrize("text", ["no JSON", '{"a":1} {"b":2}', '{"a":', "[" * 100_000])
def test_a_text_that_is_no_row_of_results_has_none(text: str) -> None:
    assert split_results(text) is None
    assert compare(unkept(text), run("x"), results=True).same is Sameness.DIFFERENT


# --- what is not all known --------------------------------------------------------------------------------------------


def test_without_the_recorded_text_another_hash_is_a_difference_without_a_place() -> None:
    for whole in (True, False):
        found = compare(Run(sha256=sha256_of("moon"), text=None, whole=whole), run("m", "aan"))
        assert (found.same, found.difference) == (Sameness.DIFFERENT, None)
        assert found.why is not None
        assert "too long to be kept" in found.why


def test_before_a_secret_that_was_taken_out_a_difference_has_its_place() -> None:
    recorded = Run(sha256=sha256_of("my key is abc and more"), text="my key is *** and more", masked=True)
    early = compare(recorded, run("my ", "cat"))
    assert early.difference is not None
    assert early.difference.character == 3
    late = compare(recorded, run("my key is abc and less"))
    assert (late.same, late.difference) == (Sameness.DIFFERENT, None)
    assert late.why is not None
    assert "a secret was taken out" in late.why
    short = Run(sha256="0", text="my key is ***", masked=True, whole=False)
    assert compare(short, run("my key is abc")).same is Sameness.UNKNOWN


def test_a_text_that_does_not_have_its_hash_is_not_believed() -> None:
    found = compare(Run(sha256="0" * 64, text="moon"), run("moon"))
    assert (found.same, grade(found, same_identity=True)) == (Sameness.UNKNOWN, Grade.BEST_EFFORT)


def test_a_new_text_that_is_not_known_cannot_be_compared() -> None:
    assert compare(run("moon"), Run(sha256="0", text=None)).same is Sameness.UNKNOWN


# --- the class --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("same", "same_identity", "expected"),
    [
        (Sameness.IDENTICAL, True, Grade.BIT_EXACT),
        (Sameness.IDENTICAL, False, Grade.BIT_EXACT),
        (Sameness.AS_FAR, False, Grade.BIT_EXACT),
        (Sameness.DIFFERENT, True, Grade.SAME_ENGINE),
        (Sameness.DIFFERENT, False, Grade.BEST_EFFORT),
        (Sameness.UNKNOWN, True, Grade.BEST_EFFORT),
    ],
)
def test_the_class_is_one_of_three(same: Sameness, same_identity: bool, expected: Grade) -> None:
    assert grade(Outcome(same=same), same_identity=same_identity) is expected
