"""An engine that somebody else runs, and may have given another model since.

Decides that nothing of an answer is handed on before the engine that gives it has said that it still serves the model
for which it was taken. It is asked when the run is on its way to it, and answers beside the run: a question that began
earlier vouches for nothing. Runs that are sent while a question is under way share the next one. An engine whose
requests name their model needs none of this, and one that pool-managerd started cannot change it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from adapters.base import Adapter, Batch, EngineError, Failure, Generation

Said = str | Exception | None
"""What an engine has said that it serves, or why it has not."""


def changed(was: str, now: str | None) -> EngineError:
    """It serves something else: as with any model that it does not know, another replica may have it."""
    text = f"its engine serves {now!r} now, and served {was!r} when the pool became ready; reload the pool"
    return EngineError(Failure.INVALID, text, status=404)


class Vouching:
    """The questions to every engine, one at a time to each. ``start`` begins work that nobody waits for."""

    def __init__(self, start: Callable[[Coroutine[None, None, None], str], object]) -> None:
        self._start = start
        self._waiting: dict[Adapter, list[asyncio.Future[Said]]] = {}
        """Those for whose runs the question has not begun."""
        self._asking: set[Adapter] = set()

    def question(self, adapter: Adapter) -> Awaitable[Said]:
        """Have the engine asked, in the next turn of the loop at the earliest."""
        answer: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(adapter, []).append(answer)
        if adapter not in self._asking:
            self._asking.add(adapter)
            self._start(self._ask(adapter), "vouching")
        return answer

    async def _ask(self, adapter: Adapter) -> None:
        try:
            while waiting := self._waiting.pop(adapter, None):
                try:
                    said = await _said(adapter)
                    for answer in waiting:
                        if not answer.done():  # whoever it was for may have left
                            answer.set_result(said)
                finally:
                    for answer in waiting:
                        answer.cancel()  # where there is none, nobody may wait for it
        finally:
            self._asking.discard(adapter)


class Vouched:
    """The generations of one engine, each of them asked about."""

    def __init__(self, adapter: Adapter, model: str, vouching: Vouching) -> None:
        self._adapter = adapter
        self._model = model
        self._vouching = vouching

    def submit(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        """See ``adapters.base.Adapter``."""
        return self._submit(generation)

    @asynccontextmanager
    async def _submit(self, generation: Generation) -> AsyncIterator[AsyncIterator[Batch]]:
        question = self._vouching.question(self._adapter)
        async with self._adapter.submit(generation) as batches:
            said = await question
            if isinstance(said, Exception):
                raise said
            if said != self._model:
                raise changed(self._model, said)
            yield batches


async def _said(adapter: Adapter) -> Said:
    try:
        return await adapter.model()
    except Exception as error:  # noqa: BLE001 - it is raised where somebody waits for the answer
        return error
