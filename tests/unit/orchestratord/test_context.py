"""Whether a prompt and its answer fit into a context, and what is told where they do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from contracts.errors import ErrorCode
from contracts.tasks import ChatMessage, Role, TaskRequest, Workload
from orchestratord.admission import Refusal, context_refusal
from orchestratord.context import MOST_COUNTED, certainly_fits, fits, to_count
from tests.unit.orchestratord.test_admission import CHAT, embedding, rerank
from tests.unit.orchestratord.world import request


@given(
    st.text(max_size=200),
    st.lists(st.text(max_size=50), max_size=4),
    st.one_of(st.none(), st.integers(1, 300)),
    st.integers(16, 600),
)
def test_what_certainly_fits_does_fit_in_bytes(
    prompt: str, turns: list[str], max_tokens: int | None, ctx_max: int
) -> None:
    """A byte-level tokenizer without merges gives the most tokens that a text can have."""
    chat = tuple(ChatMessage(role=Role.USER, content=turn) for turn in turns)
    for task in (
        request(prompt=prompt, max_tokens=max_tokens),
        request(workload=Workload.CHAT, prompt=None, messages=chat, max_tokens=max_tokens),
    ):
        texts = [task.prompt] if task.prompt is not None else turns
        begin_of_sequence = 1
        tokens = begin_of_sequence + sum(len(text.encode()) for text in texts)
        if certainly_fits(task, ctx_max):
            assert fits(task, tokens, ctx_max)


def test_a_short_prompt_needs_no_count() -> None:
    assert certainly_fits(request(prompt="hello", max_tokens=8), 4096)
    assert not certainly_fits(request(prompt="x" * 4096, max_tokens=8), 4096)
    assert not certainly_fits(request(prompt="🙂" * 1024, max_tokens=8), 4096)


def test_the_last_token_that_fits() -> None:
    task = request(max_tokens=6)
    assert fits(task, 10, 16)
    assert not fits(task, 11, 16)
    assert fits(request(max_tokens=None), 15, 16)
    assert not fits(request(max_tokens=None), 16, 16)


def test_a_prompt_beyond_the_context_is_told_the_numbers() -> None:
    found = context_refusal(request(), 5000, 4096)
    assert found == Refusal(
        code=ErrorCode.INVALID_PARAMS,
        message="the prompt has 5000 tokens and the context holds 4096",
        field="prompt",
        hint="shorten it to at most 4095 tokens, or use a model or pool with a larger context",
    )
    chat = request(workload=Workload.CHAT, prompt=None, messages=CHAT)
    assert context_refusal(chat, 5000, 4096).field == "messages"


def test_an_answer_beyond_the_context_is_told_what_is_left() -> None:
    found = context_refusal(request(max_tokens=100), 4000, 4096)
    assert found == Refusal(
        code=ErrorCode.INVALID_PARAMS,
        message="4000 prompt tokens and max_tokens 100 exceed the context of 4096",
        field="max_tokens",
        hint="ask for at most 96, or leave max_tokens out",
    )


@given(st.integers(1, 6000), st.one_of(st.none(), st.integers(1, 6000)), st.integers(16, 5000))
def test_the_mend_that_is_named_is_one(tokens: int, max_tokens: int | None, ctx_max: int) -> None:
    task = request(max_tokens=max_tokens)
    if fits(task, tokens, ctx_max):
        return
    if context_refusal(task, tokens, ctx_max).field == "max_tokens":
        assert ctx_max - tokens >= 1
        assert fits(replace(task, max_tokens=ctx_max - tokens), tokens, ctx_max)
        assert fits(replace(task, max_tokens=None), tokens, ctx_max)
    else:
        assert fits(replace(task, max_tokens=1), ctx_max - 1, ctx_max)
        assert not fits(replace(task, max_tokens=1), tokens, ctx_max)


def test_each_input_has_to_fit_by_itself_and_none_needs_room_for_more() -> None:
    assert certainly_fits(embedding(*["a" * 30] * 1000), 128)
    assert not certainly_fits(embedding("a" * 128), 128)
    assert not certainly_fits(rerank("q" * 30, "a" * 60), 128)
    assert (fits(embedding("a"), 128, 128), fits(embedding("a"), 129, 128)) == (True, False)


def test_what_certainly_fits_is_not_counted() -> None:
    assert to_count(embedding("a", "b" * 200, "c" * 300), 256).inputs == ("c" * 300, "b" * 200)
    assert len(to_count(embedding(*["a" * 300] * 1000), 256).inputs or ()) == MOST_COUNTED
    assert to_count(request(), 16) == request()


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (embedding("a"), "an input has 300 tokens and the context holds 256"),
        (rerank("q", "a"), "query and document have 300 tokens and the context holds 256"),
    ],
)
def test_an_input_beyond_the_context_is_refused_with_both_numbers(task: TaskRequest, message: str) -> None:
    found = context_refusal(task, 300, 256)
    assert (found.field, found.message) == ("inputs", message)
