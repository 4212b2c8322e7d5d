"""Embeddings and scores: what is asked for, and what an answer must be to be one."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Batch, EngineError, Failure, Finished, Generation
from adapters.results_wire import INPUTS_PER_REQUEST, ResultReader, bodies
from contracts.events import FinishReason
from contracts.tasks import Workload

pytestmark = pytest.mark.req("AD-05")


def embedding(*inputs: str) -> Generation:
    return Generation(workload=Workload.EMBEDDING, inputs=inputs)


def rerank(query: str, *documents: str) -> Generation:
    return Generation(workload=Workload.RERANK, prompt=query, inputs=documents)


def vectors(*numbers: list[float], usage: object = None, indices: list[int] | None = None) -> bytes:
    order = range(len(numbers)) if indices is None else indices
    data = [{"object": "embedding", "index": at, "embedding": each} for at, each in zip(order, numbers, strict=True)]
    return msgspec.json.encode({"object": "list", "data": data, "usage": usage})


def scores(*found: tuple[int, float], name: str = "relevance_score") -> bytes:
    results = [{"index": at, "document": {"text": "d"}, name: score} for at, score in found]
    return msgspec.json.encode({"results": results, "usage": {"total_tokens": 7}})


def failure(generation: Generation, answer: bytes) -> str:
    with pytest.raises(EngineError) as caught:
        ResultReader(generation).batch(answer)
    assert caught.value.failure is Failure.PROTOCOL
    return caught.value.message


# --- asking -----------------------------------------------------------------------------------------------------------


def test_what_is_asked_for() -> None:
    (body,) = bodies(embedding("a", "b"), "m")
    assert json.loads(body.whole) == {"model": "m", "input": ["a", "b"], "encoding_format": "float"}
    (body,) = bodies(rerank("q", "a", "b"))
    assert json.loads(body.whole) == {"query": "q", "documents": ["a", "b"], "top_n": 2}


@given(st.lists(st.text(max_size=3), min_size=1, max_size=3 * INPUTS_PER_REQUEST))
def test_each_input_is_asked_for_once_and_in_order(inputs: list[str]) -> None:
    asked = [json.loads(body.whole)["input"] for body in bodies(embedding(*inputs))]
    assert [text for part in asked for text in part] == inputs
    assert max(map(len, asked)) <= INPUTS_PER_REQUEST


def test_nothing_to_embed_is_no_question() -> None:
    with pytest.raises(EngineError, match="workload embedding without inputs"):
        list(bodies(embedding()))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_an_embedding_is_one_text_in_the_order_of_the_inputs() -> None:
    answer = vectors([0.5, -1], [2, 1e-7], usage={"prompt_tokens": 5, "total_tokens": 5}, indices=[1, 0])
    ended = Finished(reason=FinishReason.STOP, tokens_in=5, tokens_out=0)
    assert ResultReader(embedding("a", "b")).batch(answer) == Batch(
        ['{"index":0,"embedding":[2.0,1e-7]}', '{"index":1,"embedding":[0.5,-1.0]}'], ended
    )


@pytest.mark.parametrize("name", ["relevance_score", "score"])
def test_a_score_is_one_text_in_the_order_of_the_documents(name: str) -> None:
    answer = scores((1, 0.9), (0, -3.5), name=name)
    ended = Finished(reason=FinishReason.STOP, tokens_in=7, tokens_out=0)
    assert ResultReader(rerank("q", "a", "b")).batch(answer) == Batch(
        ['{"index":0,"score":-3.5}', '{"index":1,"score":0.9}'], ended
    )


@given(
    st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1, max_size=150
    )
)
def test_every_number_comes_through_as_it_was(numbers: list[list[float]]) -> None:
    reader = ResultReader(embedding(*["a"] * len(numbers)))
    starts = range(0, len(numbers), INPUTS_PER_REQUEST)
    batches = [
        reader.batch(vectors(*numbers[start : start + INPUTS_PER_REQUEST], usage={"prompt_tokens": 2}))
        for start in starts
    ]
    found = [json.loads(text) for batch in batches for text in batch.texts]
    assert [each["embedding"] for each in found] == numbers
    assert [each["index"] for each in found] == list(range(len(numbers)))
    ended = Finished(reason=FinishReason.STOP, tokens_in=2 * len(starts), tokens_out=0)
    assert [batch.finished for batch in batches] == [None] * (len(starts) - 1) + [ended]


def test_a_count_that_one_answer_does_not_give_is_not_made_up() -> None:
    reader = ResultReader(embedding(*["a"] * (INPUTS_PER_REQUEST + 1)))
    reader.batch(vectors(*[[1.0]] * INPUTS_PER_REQUEST, usage={"prompt_tokens": 5}))
    finished = reader.batch(vectors([1.0])).finished
    assert finished is not None
    assert finished.tokens_in is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (vectors([1.0]), "the engine gave 1 results for 2 inputs"),
        (vectors([1.0], [1.0], [1.0]), "the engine gave 3 results for 2 inputs"),
        (vectors([1.0], [1.0], indices=[0, 0]), "not numbered from 0 to 1, each once"),
        (vectors([1.0], [1.0], indices=[1, 2]), "not numbered from 0 to 1, each once"),
        (vectors([1.0], [1.0], indices=[-1, 0]), "not numbered from 0 to 1, each once"),
        (vectors([1.0], [1.0, 2.0]), "the engine's embeddings have 1 and 2 numbers"),
        (vectors([], []), "the engine's embeddings have 0 and 0 numbers"),
        (b'{"data":[{"index":0,"embedding":[null]},{"index":1,"embedding":[1]}]}', "cannot be read"),
        (b'{"data":[{"index":0,"embedding":[NaN]},{"index":1,"embedding":[1]}]}', "cannot be read"),
        (b'{"data":[{"index":0,"embedding":[1e999]},{"index":1,"embedding":[1]}]}', "cannot be read"),
        (b'{"data":[{"index":0,"embedding":["1"]},{"index":1,"embedding":[1]}]}', "cannot be read"),
        (b'{"data":[{"index":0.5,"embedding":[1]},{"index":1,"embedding":[1]}]}', "cannot be read"),
        (b'{"data":[{"index":0,"embedding":"AACAPw=="},{"index":1,"embedding":"AACAPw=="}]}', "cannot be read"),
        (b'{"results":[]}', "cannot be read"),
        (b"", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
    ],
)
def test_an_answer_that_does_not_fit_its_question_is_none(answer: bytes, message: str) -> None:
    assert message in failure(embedding("a", "b"), answer)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (scores((0, 1.0)), "the engine gave 1 results for 2 inputs"),
        (scores((0, 1.0), (0, 2.0)), "not numbered from 0 to 1, each once"),
        (b'{"results":[{"index":0,"relevance_score":1},{"index":1}]}', "the engine gave document 1 no score"),
        (b'{"results":[{"index":0,"relevance_score":"high"},{"index":1}]}', "cannot be read"),
    ],
)
def test_a_score_that_does_not_fit_its_question_is_none(answer: bytes, message: str) -> None:
    assert message in failure(rerank("q", "a", "b"), answer)


@given(st.binary(max_size=60))
def test_no_answer_is_too_strange(answer: bytes) -> None:
    assert failure(embedding("a"), answer)
