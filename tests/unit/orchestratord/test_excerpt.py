"""How much of a text is counted to know that all of it is too long."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import ErrorCode
from contracts.tasks import ChatMessage, Role, TaskRequest, Workload
from orchestratord.excerpt import CHARACTERS_PER_TOKEN, SEAM, excerpt, refusal, too_long

CTX = 16
ROOM = CHARACTERS_PER_TOKEN * (CTX + SEAM)


def prompt(text: str) -> TaskRequest:
    return TaskRequest(model_ref="m", prompt=text)


def chat(*texts: str) -> TaskRequest:
    said = tuple(ChatMessage(role=Role.USER, content=text) for text in texts)
    return TaskRequest(model_ref="m", workload=Workload.CHAT, messages=said)


def inputs(*texts: str) -> TaskRequest:
    return TaskRequest(model_ref="m", workload=Workload.RERANK, prompt="q", inputs=texts)


def words(task: TaskRequest) -> int:
    """What a tokenizer with a token for each word would count."""
    texts = [task.prompt or "", *(message.content for message in task.messages or ())]
    return sum(len(text.split()) for text in texts) + max((len(each.split()) for each in task.inputs or ()), default=0)


@pytest.mark.req("HP-05")
@pytest.mark.parametrize("task", [prompt("moon " * 99_999), chat("sun", "moon " * 99_999), inputs("m " * 9_999)])
def test_of_what_is_far_too_long_a_small_part_says_so(task: TaskRequest) -> None:
    part = excerpt(task, CTX)
    assert part is not None
    assert too_long(words(part), CTX)
    said = [part.prompt or "", *(message.content for message in part.messages or ()), *(part.inputs or ())]
    assert sum(map(len, said)) <= ROOM + 1


def test_what_is_short_is_counted_whole() -> None:
    for task in (prompt("x" * ROOM), prompt(""), chat("x" * ROOM), inputs("x" * ROOM, "y" * ROOM)):
        assert excerpt(task, CTX) is None


def test_of_a_chat_only_the_last_question_counts_by_itself() -> None:
    """A template may leave out what came before it, and then the chat fits."""
    long, short = "x" * (ROOM + 1), "and now?"
    assert excerpt(chat(long, short), CTX) is None
    assert excerpt(chat(short, long), CTX) == chat(long[:ROOM])
    answered = msgspec.structs.replace(
        chat("q"), messages=(ChatMessage(role=Role.USER, content="q"), ChatMessage(role=Role.ASSISTANT, content=long))
    )
    assert excerpt(answered, CTX) is None


@given(st.text(alphabet="ab ", max_size=3 * ROOM), st.integers(1, 64))
def test_nothing_that_fits_is_called_too_long(text: str, ctx_max: int) -> None:
    """Whatever the cut does to the word that it goes through."""
    whole = prompt(text)
    part = excerpt(whole, ctx_max)
    if part is not None and words(whole) < ctx_max:
        assert not too_long(words(part) + SEAM, ctx_max)


@pytest.mark.parametrize(("task", "field"), [(prompt("x"), "prompt"), (chat("x"), "messages"), (inputs("x"), "inputs")])
def test_the_refusal_names_the_field_and_the_bound(task: TaskRequest, field: str) -> None:
    found = refusal(task, 512)
    assert (found.code, found.field) == (ErrorCode.INVALID_PARAMS, field)
    assert "more than the 512 tokens that the context holds" in found.message
    assert found.hint is not None
    assert "at most 511 tokens" in found.hint
