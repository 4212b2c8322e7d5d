"""A task's log over HTTP, as server-sent events.

Decides nothing but how many streams one client may hold open; ``sse_writer`` serves each reader by itself, so a slow
one falls behind and catches up, or is cut off, without slowing the engine or another reader.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from aiohttp import web
from aiohttp.hdrs import METH_HEAD

from contracts.config import Server
from contracts.errors import ErrorCode
from contracts.labels import PolicyLabel
from orchestratord.admission import Refusal
from orchestratord.errors import ApiError
from orchestratord.http.door import CLIENT
from orchestratord.http.edge import CORRELATION_ID, IDENTITY
from orchestratord.http.sse_writer import Patience, SseResponse, SseWriter
from orchestratord.orchestrator import Orchestrator
from orchestratord.task import Caller, Task

log = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"


class Place:
    """One of the streams that a client may have, from before there is a task to read."""

    def __init__(self) -> None:
        self.task: Task | None = None


class Streams:
    """The open streams of this daemon."""

    def __init__(self, orchestrator: Orchestrator, limits: Server) -> None:
        self._orchestrator = orchestrator
        self._limits = limits
        self._patience = Patience(ping_s=limits.ping_interval_ms / 1000, slow_s=limits.slow_reader_ms / 1000)
        self._places: dict[str, list[Place]] = {}

    @contextmanager
    def place(self, request: web.Request) -> Iterator[Place]:
        """A place for one more stream of this client, for the length of the block. Raises ApiError where it has none.

        A client that asks for many at once has no more of them: the place is taken before anything is waited for.
        """
        client = request[CLIENT]
        taken = self._places.setdefault(client, [])
        if len(taken) >= self._limits.max_streams_per_client:
            refusal = self._no_place(taken)
            self._orchestrator.held_back(refusal, Caller(request[CORRELATION_ID], request[IDENTITY]))
            raise ApiError(refusal)
        place = Place()
        taken.append(place)
        try:
            yield place
        finally:
            taken.remove(place)
            if not taken:
                del self._places[client]

    async def serve(
        self, request: web.Request, task: Task, place: Place, *, after: int, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        """Write the task's log, from behind token ``after``, until its terminal event is written."""
        place.task = task
        response = SseResponse(headers)
        writer = SseWriter(task.log, after, self._patience)
        try:
            # Who asks for the head alone reads nothing, so that nobody leaves afterwards either.
            head_alone = request.method == METH_HEAD
            with nullcontext() if head_alone else self._orchestrator.reading(task, writer.wake):
                await asyncio.sleep(0)  # what was just started is on its way to its engine before anything is written
                if not await writer.write(request, response):
                    _tell(task, request[CLIENT], self._limits.slow_reader_ms)
        except ConnectionResetError:
            pass  # the client has gone: there is nobody to answer
        return response

    def _no_place(self, taken: list[Place]) -> Refusal:
        """A place comes free with the first of their tasks that ends, unless the client leaves one before."""
        tasks = [place.task for place in taken if place.task is not None]
        return Refusal(
            code=ErrorCode.ADMISSION_REJECT,
            message=f"{self._limits.max_streams_per_client} streams of this client are open",
            hint="close some, or raise server.max_streams_per_client",
            retry_after_ms=max(1, self._orchestrator.outlook.first_end_ms(tasks)),
            policy_label=PolicyLabel.MAX_STREAMS_PER_CLIENT,
        )


def _tell(task: Task, client: str, slow_ms: int) -> None:
    log.warning(
        "a reader of task %s at %s was cut off: it took nothing for %d ms (server.slow_reader_ms)",
        task.id,
        client,
        slow_ms,
        extra=task.known_by,
    )
