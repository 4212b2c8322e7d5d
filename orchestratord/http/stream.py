"""A task's log over HTTP, as server-sent events.

Decides nothing but how many streams one client may hold open; ``sse_writer`` serves each reader by itself, so a slow
one falls behind and catches up, or is cut off, without slowing the engine or another reader.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import nullcontext

from aiohttp import web
from aiohttp.hdrs import METH_HEAD

from contracts.config import Server
from contracts.errors import ErrorCode
from contracts.labels import PolicyLabel
from orchestratord.admission import Refusal
from orchestratord.errors import ApiError
from orchestratord.http.sse_writer import Patience, SseResponse, SseWriter
from orchestratord.orchestrator import Orchestrator
from orchestratord.task import Task

log = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"
RETRY_MS = 1_000
"""What a client is told that holds too many streams: they end with their tasks, so soon is soon enough."""


class Streams:
    """The open streams of this daemon."""

    def __init__(self, orchestrator: Orchestrator, limits: Server) -> None:
        self._orchestrator = orchestrator
        self._limits = limits
        self._patience = Patience(ping_s=limits.ping_interval_ms / 1000, slow_s=limits.slow_reader_ms / 1000)
        self._open = Counter[str]()

    def check_room(self, request: web.Request) -> None:
        """Whether this client may open one more stream. Raises ApiError where it may not."""
        if self._open[request.remote or ""] >= self._limits.max_streams_per_client:
            refusal = Refusal(
                code=ErrorCode.ADMISSION_REJECT,
                message=f"{self._limits.max_streams_per_client} streams of this client are open",
                hint="close some, or raise server.max_streams_per_client",
                retry_after_ms=RETRY_MS,
                policy_label=PolicyLabel.MAX_STREAMS_PER_CLIENT,
            )
            raise ApiError(refusal)

    async def serve(
        self, request: web.Request, task: Task, *, after: int, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        """Write the task's log, from behind token ``after``, until its terminal event is written."""
        client = request.remote or ""
        response = SseResponse(headers)
        writer = SseWriter(task.log, after, self._patience)
        self._open[client] += 1
        try:
            # Who asks for the head alone reads nothing, so that nobody leaves afterwards either.
            head_alone = request.method == METH_HEAD
            with nullcontext() if head_alone else self._orchestrator.reading(task, writer.wake):
                await asyncio.sleep(0)  # what was just started is on its way to its engine before anything is written
                if not await writer.write(request, response):
                    _tell(task, client, self._limits.slow_reader_ms)
        except ConnectionResetError:
            pass  # the client has gone: there is nobody to answer
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
        return response


def _tell(task: Task, client: str, slow_ms: int) -> None:
    log.warning(
        "a reader of task %s at %s was cut off: it took nothing for %d ms (server.slow_reader_ms)",
        task.id,
        client,
        slow_ms,
        extra={"task_id": task.id, "correlation_id": task.admission.caller.correlation_id},
    )
