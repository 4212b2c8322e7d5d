"""What the suites of all real engines do with an adapter."""

from __future__ import annotations

from dataclasses import dataclass, field

from adapters.base import Adapter, EngineError, Finished, Generation


@dataclass
class Answer:
    """All that one generation brought: pieces of text, and either its end or its failure."""

    texts: list[str] = field(default_factory=list)
    finished: Finished | None = None
    failure: EngineError | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


async def generate(adapter: Adapter, generation: Generation) -> Answer:
    """Run one generation to its end, good or bad."""
    answer = Answer()
    try:
        async with adapter.submit(generation) as batches:
            async for batch in batches:
                answer.texts += batch.texts
                answer.finished = batch.finished
    except EngineError as error:
        answer.failure = error
    return answer
