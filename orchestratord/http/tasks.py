"""The routes of the data plane: submit, read, list, cancel.

Decides how a request is decoded and which of the two answers (202 or a stream) the client wants.
"""

from __future__ import annotations

from aiohttp import web

from contracts.base import nearest
from contracts.errors import ErrorCode
from contracts.tasks import TaskList, TaskRequest, TaskState
from daemon_core.redaction import Redactor
from daemon_core.steps import Steps
from orchestratord.errors import api_error
from orchestratord.http.edge import CORRELATION_ID, IDENTITY, json_response, refuse_secrets
from orchestratord.http.errors import decode
from orchestratord.http.queries import number
from orchestratord.http.sessions import SESSION
from orchestratord.http.stream import EVENT_STREAM, Streams
from orchestratord.orchestrator import Orchestrator
from orchestratord.taking_turns import in_turns
from orchestratord.task import Caller, Task

AT_ONCE = 64
"""So many are told of in one step."""


class TaskRoutes:
    """Handlers over one orchestrator."""

    def __init__(self, orchestrator: Orchestrator, streams: Streams, redactor: Redactor) -> None:
        self._redactor = redactor
        self._orchestrator = orchestrator
        self._streams = streams

    def table(self) -> list[web.RouteDef]:
        """Where each handler is found."""
        return [
            web.post("/v1/tasks", self.submit),
            web.get("/v1/tasks", self.list),
            web.get("/v1/tasks/{task_id}", self.status),
            web.get("/v1/tasks/{task_id}/stream", self.stream),
            web.post("/v1/tasks/{task_id}/cancel", self.cancel),
        ]

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """``POST /v1/tasks``: 202, or the stream itself for a client that accepts one; with ``dry_run`` a forecast."""
        dry_run = asks_for_dry_run(request)
        wanted = decode(await request.read(), TaskRequest)
        refuse_secrets(self._redactor, task_id=wanted.task_id, session_id=wanted.session_id)
        if wanted.session_id is not None:
            request[SESSION] = wanted.session_id
        caller = Caller(request[CORRELATION_ID], request[IDENTITY])
        if dry_run:
            return json_response(await self._orchestrator.foretell(wanted, caller))
        if EVENT_STREAM in request.headers.get("Accept", ""):
            with self._streams.place(request) as place:
                task = await self._orchestrator.submit(wanted, caller)
                return await self._streams.serve(request, task, place, after=-1, headers=_located(task))
        task = await self._orchestrator.submit(wanted, caller)
        return json_response(task.accepted, 202, _located(task))

    async def list(self, request: web.Request) -> web.Response:
        """``GET /v1/tasks?state=&limit=``."""
        state = request.query.get("state")
        known = [each.value for each in TaskState]
        if state is not None and state not in known:
            hint = nearest(state, known)
            raise api_error(ErrorCode.INVALID_PARAMS, f"{state!r} is no task state", hint, field="state")
        count = number(request, "limit", 50, least=1, most=1000)
        found = await in_turns(self._list(TaskState(state) if state else None, count))
        await self._orchestrator.settled()
        return json_response(found)

    def _list(self, state: TaskState | None, count: int) -> Steps[TaskList]:
        told = []
        for task in (yield from self._orchestrator.select(state, count)):
            told.append(task.status)
            if len(told) % AT_ONCE == 0:
                yield
        return TaskList(tasks=tuple(told))

    async def status(self, request: web.Request) -> web.Response:
        """``GET /v1/tasks/{id}``."""
        task = self._orchestrator.get(request.match_info["task_id"])
        await self._orchestrator.settled()
        return json_response(task.status)

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """``GET /v1/tasks/{id}/stream``, from the start or after ``Last-Event-ID``."""
        task = self._orchestrator.get(request.match_info["task_id"])
        after = last_event_id(request)
        with self._streams.place(request) as place:
            return await self._streams.serve(request, task, place, after=after)

    async def cancel(self, request: web.Request) -> web.Response:
        """``POST /v1/tasks/{id}/cancel``: 204, however often."""
        self._orchestrator.cancel(self._orchestrator.get(request.match_info["task_id"]), "client")
        await self._orchestrator.settled()
        return web.Response(status=204)


def _located(task: Task) -> dict[str, str]:
    return {"Location": f"/v1/tasks/{task.id}"}


def asks_for_dry_run(request: web.Request) -> bool:
    """Whether the client wants to know what would become of its task. Raises ApiError where it does not say clearly."""
    given = request.query.get("dry_run", "false")
    if given not in {"true", "false"}:
        text = f"dry_run {given!r} is neither true nor false"
        raise api_error(ErrorCode.INVALID_PARAMS, text, "dry_run=true asks for a forecast", field="dry_run")
    return given == "true"


def last_event_id(request: web.Request) -> int:
    """The number of the last token that a returning client has seen; -1 for one that has seen none.

    ``after`` counts where both are given. Raises ApiError where one is no number.
    """
    after, header = request.query.get("after"), request.headers.get("Last-Event-ID")
    numbers = [
        _position(name, given)
        for name, given in (("after", after), ("Last-Event-ID", header or None))  # an empty header: none seen yet
        if given is not None
    ]
    return numbers[0] if numbers else -1


def _position(name: str, given: str) -> int:
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        text = f"{name} {given!r} is no token number"
        raise api_error(ErrorCode.INVALID_PARAMS, text, "send the id of the last event you saw", field=name)
    return int(given)
