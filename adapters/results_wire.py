"""Embeddings and scores: how they are asked for, and how an answer becomes texts of the stream.

Decides the shape of each text, the order (that of the inputs, whatever the engine's), how many inputs go into one
request, and that an answer which does not fit its question is none: a missing, doubled or unknown index, vectors of
different lengths, what is no finite number. Never touches a socket.

The routes are OpenAI's ``/v1/embeddings`` and the ``rerank`` of Jina and Cohere, which llama-server and vLLM share.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from adapters.base import Batch, EngineError, Failure, Finished, Generation
from adapters.body import Body, body_of
from adapters.openai_wire import UNREADABLE
from contracts.events import FinishReason
from contracts.tasks import Workload

INPUTS_PER_REQUEST = 64
"""More go one request after the other: an answer stays small, and what is done is told while the rest is computed.

So many let an engine fill its batches. One that finishes a request whose client has left is sent fewer.
"""

_encode = msgspec.json.Encoder().encode


class Usage(msgspec.Struct, frozen=True):
    """The engine's count; some say the total only, which without new tokens is the same."""

    prompt_tokens: int | None = None
    total_tokens: int | None = None


class Vector(msgspec.Struct, frozen=True):
    """One input's embedding."""

    index: int
    embedding: list[float]


class Embeddings(msgspec.Struct, frozen=True):
    """The answer of ``/v1/embeddings``."""

    data: list[Vector]
    usage: Usage | None = None


class Score(msgspec.Struct, frozen=True):
    """One document's score; ``score`` is its older name."""

    index: int
    relevance_score: float | None = None
    score: float | None = None


class Scores(msgspec.Struct, frozen=True):
    """The answer of a rerank route, best first."""

    results: list[Score]
    usage: Usage | None = None


class Scored(msgspec.Struct, frozen=True):
    """One text of the stream."""

    index: int
    score: float


_embeddings = msgspec.json.Decoder(Embeddings)
_scores = msgspec.json.Decoder(Scores)
Item = TypeVar("Item", Vector, Score)


# --- asking -----------------------------------------------------------------------------------------------------------


def bodies(generation: Generation, model: str | None = None, each: int = INPUTS_PER_REQUEST) -> Iterator[Body]:
    """The bodies of the requests with ``each`` inputs, in their order. Raises EngineError (invalid)."""
    named: dict[str, Any] = {} if model is None else {"model": model}
    inputs = generation.inputs or ()
    if not inputs:
        raise EngineError(Failure.INVALID, f"workload {generation.workload} without inputs")
    for start in range(0, len(inputs), each):
        part = inputs[start : start + each]
        if generation.workload is Workload.EMBEDDING:
            yield body_of({**named, "encoding_format": "float"}, {"input": part})
        else:
            texts = {"query": generation.prompt or "", "documents": part}
            yield body_of({**named, "top_n": len(part)}, texts)


# --- reading ----------------------------------------------------------------------------------------------------------


class ResultReader:
    """Reads the answers to one generation's requests, in their order. ``each`` as in ``bodies``."""

    def __init__(self, generation: Generation, each: int = INPUTS_PER_REQUEST) -> None:
        self._generation = generation
        self._each = each
        self._read = 0
        self._tokens_in: int | None = 0
        self._length: int | None = None

    def batch(self, answer: bytes) -> Batch:
        """One answer's texts, and the end with the last one. Raises EngineError (protocol)."""
        total = len(self._generation.inputs or ())
        due = min(self._each, total - self._read)
        try:
            if self._generation.workload is Workload.EMBEDDING:
                texts, usage = self._vectors(_embeddings.decode(answer), due)
            else:
                texts, usage = self._scores(_scores.decode(answer), due)
        except UNREADABLE as error:
            raise EngineError(Failure.PROTOCOL, f"the engine's answer cannot be read: {error}") from error
        self._read += due
        self._count(usage)
        return Batch(texts, self._finished() if self._read == total else None)

    def _vectors(self, answer: Embeddings, due: int) -> tuple[list[str], Usage | None]:
        texts = []
        for vector in _in_order(answer.data, due):
            if self._length is None:
                self._length = len(vector.embedding)
            if not vector.embedding or len(vector.embedding) != self._length:
                text = f"the engine's embeddings have {self._length} and {len(vector.embedding)} numbers"
                raise EngineError(Failure.PROTOCOL, text)
            texts.append(_encode(Vector(self._read + vector.index, vector.embedding)).decode())
        return texts, answer.usage

    def _scores(self, answer: Scores, due: int) -> tuple[list[str], Usage | None]:
        texts = []
        for found in _in_order(answer.results, due):
            score = found.score if found.relevance_score is None else found.relevance_score
            if score is None:
                raise EngineError(Failure.PROTOCOL, f"the engine gave document {found.index} no score")
            texts.append(_encode(Scored(self._read + found.index, score)).decode())
        return texts, answer.usage

    def _count(self, usage: Usage | None) -> None:
        told = None if usage is None else usage.total_tokens if usage.prompt_tokens is None else usage.prompt_tokens
        self._tokens_in = None if told is None or self._tokens_in is None else self._tokens_in + told

    def _finished(self) -> Finished:
        return Finished(reason=FinishReason.STOP, tokens_in=self._tokens_in, tokens_out=0)


def _in_order(items: list[Item], due: int) -> list[Item]:
    """The items by index: each from 0 exactly once, or the answer is not to this question."""
    if len(items) != due:
        raise EngineError(Failure.PROTOCOL, f"the engine gave {len(items)} results for {due} inputs")
    ordered = sorted(items, key=lambda item: item.index)
    if [item.index for item in ordered] != list(range(due)):
        raise EngineError(Failure.PROTOCOL, f"the engine's results are not numbered from 0 to {due - 1}, each once")
    return ordered
