"""A client of orchestratord's public API.

Decides when a broken connection is taken up again: a stream continues behind the last token that came, so nothing is
lost and nothing comes twice. Never submits twice: tasks carry an id of ours, and the server answers the same id alike.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import msgspec

from contracts.artifacts import Artifact, ArtifactInfo, ArtifactRequest
from contracts.base import Message, Strict
from contracts.catalog import CatalogModel, CatalogModels, RegisterModel, StateRequest
from contracts.config import is_loopback
from contracts.errors import ErrorBody, ErrorCode
from contracts.events import End, Started, StreamError, Token
from contracts.pools import Capabilities, DrainRequest, PoolHealth, PoolList, ReloadRequest
from contracts.receipts import ReceiptPage
from contracts.sessions import SessionInfo
from contracts.tasks import TaskAccepted, TaskForecast, TaskList, TaskRequest, TaskState, TaskStatus
from daemon_core.token import FILE_VARIABLE
from llama_orch.errors import UNREACHABLE, ApiError
from llama_orch.reach import START_HINT, broken_off, cause_of, unreachable
from llama_orch.sse import SseError, SseParser, StreamEvent

Answer = TypeVar("Answer", bound=Message)
Opener = Callable[[], AbstractAsyncContextManager[aiohttp.ClientResponse]]

EVENT_STREAM = "text/event-stream"
JSON = "application/json"
REQUEST_TIMEOUT = aiohttp.ClientTimeout(total=30, sock_connect=5)
# Streams are silent for at most the ping interval of the server, 15 s by default.
STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60)
# Whoever accepts and says nothing is not up; who is held up for a moment is.
HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=5)
MAX_FAILURES = 6
MAX_ANSWER_BYTES = 64 << 20
"""No answer of orchestratord's but a stream is nearly so long: whoever says more is somebody else."""
NOT_OURS = "is it orchestratord that listens there?"


def backoff_s(failures: int) -> float:
    """How long to wait after so many failures in a row, in seconds: 0.2, 0.4, ... 5."""
    return min(0.1 * 2.0**failures, 5.0)


def new_task_id() -> str:
    """An id for a task of this client."""
    return f"cli-{uuid4().hex}"


class ApiClient:
    """One connection pool to one orchestratord. An asynchronous context manager."""

    def __init__(
        self,
        base_url: str,
        token: str | None,
        *,
        backoff: Callable[[int], float] = backoff_s,
        trusted: ssl.SSLContext | None = None,
        start: str = START_HINT,
    ) -> None:
        """``trusted`` decides who is believed over TLS; without it the authorities of the system do.

        ``start`` is what starts the daemons of this machine.
        """
        self.base_url = base_url.rstrip("/")
        self._trusted = trusted
        self._start = start
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._backoff = backoff
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = None if self._trusted is None else aiohttp.TCPConnector(ssl=self._trusted)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=REQUEST_TIMEOUT, connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    # --- control plane ------------------------------------------------------------------------------------------------

    async def is_up(self) -> bool:
        """Whether anything answers ``GET /healthz`` with 200. Never raises ApiError."""
        try:
            async with self._request("GET", "/healthz", limits=HEALTH_TIMEOUT):
                return True
        except ApiError:
            return False

    async def capabilities(self) -> Capabilities:
        """What the pools can do."""
        return await self._get("/v1/capabilities", Capabilities)

    async def pools(self) -> PoolList:
        """How the pools are."""
        return await self._get("/v1/pools", PoolList)

    async def metrics(self) -> str:
        """What Prometheus is told."""
        async with self._request("GET", "/metrics", accept="text/plain") as response:
            return (await _whole(response)).decode(errors="replace")

    async def pool_health(self, pool_id: str) -> PoolHealth:
        """How one pool is."""
        return await self._get(f"/v1/pools/{_segment(pool_id)}/health", PoolHealth)

    async def drain(self, pool_id: str, deadline_ms: int) -> PoolHealth:
        """Let running work finish until the deadline, then stop the engine; returns at once."""
        request = DrainRequest(deadline_ms=deadline_ms)
        return await self._post(f"/v1/pools/{_segment(pool_id)}/drain", request, PoolHealth)

    async def reload(self, pool_id: str, model_ref: str, deadline_ms: int) -> PoolHealth:
        """Serve this model, with the old one serving until then, and its work until the deadline; returns at once."""
        request = ReloadRequest(new_model_ref=model_ref, deadline_ms=deadline_ms)
        return await self._post(f"/v1/pools/{_segment(pool_id)}/reload", request, PoolHealth)

    async def models(self) -> CatalogModels:
        """The models of the daemon's machine, those that are being pulled among them."""
        return await self._get("/v1/catalog/models", CatalogModels)

    async def model(self, model_id: str) -> CatalogModel:
        """One model."""
        return await self._get(f"/v1/catalog/models/{_segment(model_id)}", CatalogModel)

    async def register_model(self, request: RegisterModel) -> CatalogModel:
        """Have a model there; one that has to be fetched comes later, as its job says."""
        return await self._post("/v1/catalog/models", request, CatalogModel)

    async def verify_model(self, model_id: str) -> CatalogModel:
        """Have a model read again; its job says what came of it."""
        return await self._post(f"/v1/catalog/models/{_segment(model_id)}/verify", None, CatalogModel)

    async def set_model_state(self, model_id: str, request: StateRequest) -> CatalogModel:
        """Make a model Active or Retired."""
        return await self._post(f"/v1/catalog/models/{_segment(model_id)}/state", request, CatalogModel)

    async def delete_model(self, model_id: str, *, files: bool) -> None:
        """Forget a model; with ``files`` what was fetched for it leaves the disk, too."""
        query = {"files": "true" if files else "false"}
        async with self._request("DELETE", f"/v1/catalog/models/{_segment(model_id)}", query=query):
            pass

    # --- data plane ---------------------------------------------------------------------------------------------------

    async def submit(self, request: TaskRequest) -> TaskAccepted:
        """Put a task into the queue without reading its stream."""
        async with self._request("POST", "/v1/tasks", body=msgspec.json.encode(request)) as response:
            return await _decoded(response, TaskAccepted)

    async def forecast(self, request: TaskRequest) -> TaskForecast:
        """What would become of a task; nothing is queued. Raises ApiError with the refusal that it would get."""
        body, query = msgspec.json.encode(request), {"dry_run": "true"}
        async with self._request("POST", "/v1/tasks", query=query, body=body) as response:
            return await _decoded(response, TaskForecast)

    async def task(self, task_id: str) -> TaskStatus:
        """Where a task is."""
        return await self._get(f"/v1/tasks/{_segment(task_id)}", TaskStatus)

    async def tasks(self, state: TaskState | None = None, limit: int = 20) -> TaskList:
        """The most recent tasks, newest first."""
        query = {"limit": str(limit)} | ({} if state is None else {"state": str(state)})
        return await self._get("/v1/tasks", TaskList, query)

    async def cancel(self, task_id: str) -> None:
        """Cancel a task; idempotent."""
        async with self._request("POST", f"/v1/tasks/{_segment(task_id)}/cancel"):
            pass

    async def receipts(self, after: int, limit: int) -> ReceiptPage:
        """A stretch of the chain of receipts, behind this number."""
        return await self._get("/v1/receipts", ReceiptPage, {"after": str(after), "limit": str(limit)})

    async def artifact(self, artifact_id: str) -> Artifact:
        """What is kept under this id."""
        return await self._get(f"/v1/artifacts/{_segment(artifact_id)}", Artifact)

    async def put_artifact(self, request: ArtifactRequest) -> ArtifactInfo:
        """Have a JSON value kept under the hash of what it says."""
        return await self._post("/v1/artifacts", request, ArtifactInfo)

    async def stream_bytes(self, task_id: str, limit: int) -> bytes | None:
        """The stream of a task that has ended, as it is sent; None where it is longer than ``limit`` bytes."""
        data = bytearray()
        async with self._open_stream(task_id, -1) as response:
            try:
                async for chunk in response.content.iter_any():
                    data += chunk
                    if len(data) > limit:
                        return None
            except aiohttp.ClientError as error:
                raise ApiError(UNREACHABLE, f"the connection broke: {cause_of(error)}", retriable=True) from error
        return bytes(data)

    async def session(self, session_id: str) -> SessionInfo:
        """How long a session lives, and what it has left."""
        return await self._get(f"/v1/sessions/{_segment(session_id)}", SessionInfo)

    async def delete_session(self, session_id: str) -> None:
        """End a session, and free its slot."""
        async with self._request("DELETE", f"/v1/sessions/{_segment(session_id)}"):
            pass

    def run(self, request: TaskRequest) -> AsyncGenerator[StreamEvent]:
        """Submit a task and read its stream, both in one round trip. The request must carry a task id.

        Ends after the one terminal event. Raises ApiError when the task is refused or the connection stays broken.
        """
        if request.task_id is None:
            raise ValueError("a task that is to be streamed needs an id of the client's")
        body = msgspec.json.encode(request)
        opener = partial(self._request, "POST", "/v1/tasks", body=body, accept=EVENT_STREAM, limits=STREAM_TIMEOUT)
        return self._follow(request.task_id, opener)

    def stream(self, task_id: str, after: int = -1) -> AsyncGenerator[StreamEvent]:
        """Read the stream of a task that was submitted before, behind token ``after``."""
        return self._follow(task_id, partial(self._open_stream, task_id, after), after)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _follow(self, task_id: str, opener: Opener, after: int = -1) -> AsyncGenerator[StreamEvent]:
        seen = _Seen(after)
        opened = False
        while True:
            try:
                async with opener() as response:
                    opened = True
                    async for event in _events(response):
                        if seen.is_new(event):
                            yield event
                        if isinstance(event, (End, StreamError)):
                            return
                cause = "the stream ended before the task did"
            except aiohttp.ClientError as error:
                cause = f"the connection broke: {cause_of(error)}"
            except ApiError as error:
                # What never answered is told at once; what did and went away may be restarting.
                if error.code != UNREACHABLE or not error.retriable or not opened:
                    raise
                cause = error.message
            seen.failures += 1
            if seen.failures > MAX_FAILURES:
                hint = f"llama-orch tasks shows what became of {task_id}"
                raise ApiError(UNREACHABLE, f"{cause} ({seen.failures} times in a row)", hint=hint, retriable=True)
            await asyncio.sleep(self._backoff(seen.failures))
            opener = partial(self._open_stream, task_id, seen.last)

    def _open_stream(self, task_id: str, after: int) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        last_seen = {} if after < 0 else {"Last-Event-ID": str(after)}
        path = f"/v1/tasks/{_segment(task_id)}/stream"
        return self._request("GET", path, accept=EVENT_STREAM, headers=last_seen, limits=STREAM_TIMEOUT)

    async def _get(self, path: str, kind: type[Answer], query: dict[str, str] | None = None) -> Answer:
        async with self._request("GET", path, query=query) as response:
            return await _decoded(response, kind)

    async def _post(self, path: str, body: Strict | None, kind: type[Answer]) -> Answer:
        sent = None if body is None else msgspec.json.encode(body)
        async with self._request("POST", path, body=sent) as response:
            return await _decoded(response, kind)

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
        accept: str = JSON,
        headers: dict[str, str] | None = None,
        limits: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One exchange; the response is good. Raises ApiError where it is not, or where there is none."""
        if self._session is None:
            raise RuntimeError("ApiClient is used outside of its async with block")
        streams = accept == EVENT_STREAM
        sent = {"Accept": accept, "Content-Type": JSON} | (headers or {})
        url = self.base_url + path
        try:
            response = await self._session.request(
                method,
                url,
                params=query,
                data=body,
                headers=sent,
                timeout=limits or REQUEST_TIMEOUT,
                allow_redirects=False,
            )
        except aiohttp.InvalidURL:
            raise ApiError(UNREACHABLE, f"{self.base_url!r} is no URL", hint="http://127.0.0.1:8080") from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise unreachable(self.base_url, error, self._start) from error
        async with response:
            try:
                if response.status >= 300:
                    raise _refusal(response, await _whole(response))
                if streams and response.content_type != EVENT_STREAM:
                    text = f"{url} answered {response.content_type} instead of a stream"
                    raise ApiError(UNREACHABLE, text, hint=NOT_OURS)
                yield response
            except (aiohttp.ClientError, TimeoutError) as error:
                if streams:
                    raise  # who follows it takes it up again
                raise broken_off(self.base_url, error, self._start) from error


class _Seen:
    """How far a stream was read, over all its connections."""

    def __init__(self, after: int) -> None:
        self.last = after
        self.failures = 0
        """Broken connections in a row that brought no token."""
        self._announced = False

    def is_new(self, event: StreamEvent) -> bool:
        """Whether the event did not come before, over a connection that broke."""
        match event:
            case Started():
                new, self._announced = not self._announced, True
                return new
            case Token(i=i) if i <= self.last:
                return False
            case Token(i=i):
                self.last, self.failures = i, 0
                return True
            case _:
                return True


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[StreamEvent]:
    """The events of a response as they arrive."""
    parser = SseParser()
    try:
        async for chunk in response.content.iter_any():
            for event in parser.feed(chunk):
                yield event
    except SseError as error:
        raise ApiError(UNREACHABLE, str(error), hint=NOT_OURS) from error


def _segment(text: str) -> str:
    """What somebody typed, as one segment of a path."""
    return quote(text, safe="")


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """All of an answer that is no stream. Raises ApiError for one that has no end."""
    data = bytearray()
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise ApiError(UNREACHABLE, f"an answer of more than {MAX_ANSWER_BYTES} bytes", hint=NOT_OURS)
    return bytes(data)


async def _decoded(response: aiohttp.ClientResponse, kind: type[Answer]) -> Answer:
    body = await _whole(response)
    if response.content_type != JSON:
        text = f"{response.url.origin()} answered {response.content_type} instead of JSON"
        raise ApiError(UNREACHABLE, text, hint=NOT_OURS)
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text = f"the answer cannot be read: {error}"
        raise ApiError(UNREACHABLE, text, hint="do the daemons and this program have the same version?") from error


def _token_hint(code: str, host: str) -> str | None:
    """Where the token of another machine is. This one knows none, and what would make one makes another."""
    if code not in {ErrorCode.MISSING_TOKEN, ErrorCode.BAD_TOKEN} or is_loopback(host):
        return None
    where = f"put it into a file of mode 0600, and name that: --token-file PATH or {FILE_VARIABLE}"
    return f"the token is that of {host}: {where}"


def _refusal(response: aiohttp.ClientResponse, body: bytes) -> ApiError:
    """The error that a response carries; one that is not ours (a proxy's) is told by its status."""
    try:
        error = msgspec.json.decode(body, type=ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        retriable = response.status in {502, 503, 504}
        return ApiError(
            f"HTTP_{response.status}",
            response.reason or "no reason given",
            hint="that is no answer of orchestratord: what listens there, or stands in front of it?",
            retriable=retriable,
        )
    return ApiError(
        error.code,
        error.message,
        hint=_token_hint(error.code, response.url.host or "") or error.hint or None,
        retriable=error.retriable,
        retry_after_ms=None if error.retry_after_ms is msgspec.UNSET else error.retry_after_ms,
        correlation_id=error.correlation_id,
    )
