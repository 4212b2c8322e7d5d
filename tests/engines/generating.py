"""What the suites of all real engines do with an adapter."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from adapters.base import Adapter, EngineError, Finished, Generation
from adapters.drawing import drawing
from contracts.config import Engine
from contracts.sampler_profiles import PROFILES


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


async def under_profile(adapter: Adapter, engine: Engine, generation: Generation) -> Generation:
    """The same as the product asks for it: tokens drawn by the usual sampler profile, as far as the engine takes it."""
    features = (await adapter.props()).features
    drawn = drawing(PROFILES["v1"], engine, generation.workload, generation.sampling, features)
    return msgspec.structs.replace(generation, sampling=drawn.sampling, further=drawn.further)
