"""A text that was sent already and has to come again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.continuation import Continuation, DiffersError

texts = st.lists(st.text("abé", max_size=3), max_size=8)


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [piece for piece in (text[a:b] for a, b in zip([0, *ends], ends, strict=False)) if piece]


@given(texts, st.text("ab", max_size=6), st.lists(st.integers(0, 50), max_size=6))
def test_what_was_sent_is_swallowed_however_it_is_cut(sent: list[str], more: str, places: list[int]) -> None:
    continued = Continuation(sent)
    new = continued.take(cut("".join(sent) + more, places))
    assert "".join(new) == more
    assert continued.over
    continued.end()


@given(texts, texts, st.integers(0, 16))
def test_the_very_same_pieces_leave_the_very_same_pieces(sent: list[str], more: list[str], at: int) -> None:
    continued, again = Continuation(sent), [*sent, *more]
    assert continued.take(again[:at]) + continued.take(again[at:]) == more


@given(texts.filter(lambda sent: "".join(sent) != ""), st.data())
def test_the_first_token_that_differs_is_named(sent: list[str], data: st.DataObject) -> None:
    text = "".join(sent)
    at = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(DiffersError) as caught:
        Continuation(sent).take([text[:at] + "x" + text[at + 1 :]])
    token, seen = 0, 0
    while seen + len(sent[token]) <= at:
        seen += len(sent[token])
        token += 1
    assert caught.value.number == token
    assert f"token {token}" in str(caught.value)


def test_a_text_that_ends_too_early_differs_as_well() -> None:
    continued = Continuation(["one ", "two"])
    assert continued.take(["one t"]) == []
    assert not continued.over
    with pytest.raises(DiffersError) as caught:
        continued.end()
    assert caught.value.number == 1
