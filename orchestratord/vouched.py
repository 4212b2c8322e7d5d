"""An engine that somebody else runs, and may have given another model since.

Decides that nothing of an answer is handed on before the engine that gives it has said that it still serves the model
for which it was taken. It is asked once it has accepted the run: whoever accepted it is the one that answers. An engine
whose requests name their model needs none of this, and one that pool-managerd started cannot change it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from adapters.base import Adapter, Batch, EngineError, Failure, Generation


def changed(was: str, now: str | None) -> EngineError:
    """It serves something else: as with any model that it does not know, another replica may have it."""
    text = f"its engine serves {now!r} now, and served {was!r} when the pool became ready; reload the pool"
    return EngineError(Failure.INVALID, text, status=404)


class Vouched:
    """Its generations, each of them asked about."""

    def __init__(self, adapter: Adapter, model: str) -> None:
        self._adapter = adapter
        self._model = model

    def submit(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """See ``adapters.base.Adapter``."""
        return self._submit(generation)

    @asynccontextmanager
    async def _submit(self, generation: Generation) -> AsyncIterator[AsyncIterator[Batch]]:
        async with self._adapter.submit(generation) as batches:
            said = await self._adapter.model()
            if said != self._model:
                raise changed(self._model, said)
            yield batches
