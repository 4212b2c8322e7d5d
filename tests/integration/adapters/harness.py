"""Running one generation of a subject against its stand-in, and all that it brought."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from adapters.base import Adapter, Batch, EngineError, Failure, Finished
from adapters.http import EngineHttp
from tests.integration.adapters.subjects import Subject
from tests.standin.knobs import Knobs
from tests.standin.server import StandIn

WORDS = Knobs().words
FOR_EVER_MS = 1e9


def text_of(count: int) -> str:
    """What a stand-in says in so many tokens."""
    return "".join(WORDS[i % len(WORDS)] for i in range(count))


def names(subjects: Iterable[Subject]) -> list[str]:
    """The ids of a test's parameters."""
    return [subject.name for subject in subjects]


class Answer:
    """All that one generation brought."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.error: EngineError | None = None

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.batches for text in batch.texts]

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def finished(self) -> Finished | None:
        return self.batches[-1].finished if self.batches else None

    @property
    def failure(self) -> Failure | None:
        return None if self.error is None else self.error.failure


async def generate(adapter: Adapter, subject: Subject, answer: Answer | None = None) -> Answer:
    """Run one generation to its end, good or bad."""
    answer = answer or Answer()
    try:
        async with adapter.submit(subject.generation) as batches:
            async for batch in batches:
                assert answer.finished is None, "a batch came after the end"
                answer.batches.append(batch)
    except EngineError as error:
        answer.error = error
    assert (answer.finished is None) != (answer.error is None), "exactly one of an end and an error"
    return answer


@asynccontextmanager
async def facing(subject: Subject, http: EngineHttp, knobs: Knobs) -> AsyncIterator[tuple[StandIn, Adapter]]:
    async with subject.serve(knobs) as engine:
        yield engine, subject.adapter(engine.url, http)


async def drain(batches: AsyncIterator[Batch]) -> None:
    async for _ in batches:
        pass


async def outcome(subject: Subject, http: EngineHttp, knobs: Knobs) -> Answer:
    async with facing(subject, http, knobs) as (_, adapter):
        return await generate(adapter, subject)
