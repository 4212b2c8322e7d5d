"""A task's log over HTTP, as server-sent events.

Decides nothing but how many streams one client may hold open. Each reader writes all that it has not sent yet in one
write, so a slow one falls behind and catches up without slowing the engine or another reader.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from aiohttp import web
from aiohttp_sse import sse_response

from contracts.config import Server
from contracts.errors import ErrorCode
from orchestratord.admission import Refusal
from orchestratord.errors import ApiError
from orchestratord.orchestrator import Orchestrator
from orchestratord.task import Task

EVENT_STREAM = "text/event-stream"
RETRY_MS = 1_000
"""What a client is told that holds too many streams: they end with their tasks, so soon is soon enough."""


class Streams:
    """The open streams of this daemon."""

    def __init__(self, orchestrator: Orchestrator, limits: Server) -> None:
        self._orchestrator = orchestrator
        self._limits = limits
        self._open = Counter[str]()

    def check_room(self, request: web.Request) -> None:
        """Whether this client may open one more stream. Raises ApiError where it may not."""
        if self._open[request.remote or ""] >= self._limits.max_streams_per_client:
            refusal = Refusal(
                code=ErrorCode.ADMISSION_REJECT,
                message=f"{self._limits.max_streams_per_client} streams of this client are open",
                hint="close some, or raise server.max_streams_per_client",
                retry_after_ms=RETRY_MS,
                policy_label="max_streams_per_client",
            )
            raise ApiError(refusal)

    async def serve(
        self, request: web.Request, task: Task, *, after: int, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        """Write the task's log, from behind token ``after``, until its terminal event is written."""
        news = asyncio.Event()
        client = request.remote or ""
        self._open[client] += 1
        try:
            with self._orchestrator.reading(task, news.set):
                async with sse_response(
                    request,
                    headers=headers,
                    sep="\n",
                    allow_all_methods=True,
                    ping_interval=self._limits.ping_interval_ms / 1000,
                ) as response:
                    await _follow(response, task, after, news)
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
        return response


async def _follow(response: web.StreamResponse, task: Task, after: int, news: asyncio.Event) -> None:
    log = task.log
    offset = log.offset_after(after)
    while True:
        news.clear()
        frames = log.read(offset)
        if log.closed:
            await response.write_eof(frames)  # the last frames and the end of the body in one write
            return
        if frames:
            offset += len(frames)
            await response.write(frames)
        else:
            await news.wait()
