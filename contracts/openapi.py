"""The HTTP API as OpenAPI 3.1, made from the very types that the server decodes and encodes.

Decides the list of operations, their parameters and their answers. A test holds the server's routes against it.
"""

from __future__ import annotations

import copy
from enum import StrEnum
from typing import Any

import msgspec

from contracts import events, examples, openapi_answers
from contracts.artifacts import Artifact, ArtifactInfo, ArtifactRequest
from contracts.base import Message
from contracts.catalog import CatalogModel, CatalogModels, RegisterModel, StateRequest
from contracts.engines import ModelState
from contracts.errors import ErrorBody
from contracts.examples.base import Example
from contracts.pools import API_VERSION, Capabilities, DrainRequest, PoolHealth, PoolList, ReloadRequest
from contracts.receipts import Receipt, ReceiptPage
from contracts.sessions import SessionInfo
from contracts.tasks import TaskAccepted, TaskForecast, TaskList, TaskRequest, TaskState, TaskStatus

Schema = dict[str, Any]


class Plane(StrEnum):
    """Which of the two documents an operation stands in."""

    DATA = "data"
    CONTROL = "control"


class Parameter(Message, frozen=True, kw_only=True):
    """A path, query or header parameter."""

    name: str
    place: str
    schema: dict[str, Any]
    text: str = ""


class Operation(Message, frozen=True, kw_only=True):
    """One route: what it takes and every answer it gives. A ``None`` type is an answer without a JSON body."""

    plane: Plane
    method: str
    path: str
    summary: str
    answers: dict[int, type[msgspec.Struct] | None]
    text: str = ""
    """More than the summary, where there is more to say."""
    body: type[msgspec.Struct] | None = None
    body_required: bool = True
    parameters: tuple[Parameter, ...] = ()
    media: str = "application/json"
    """The media type of the good answer where it is not JSON."""
    also_streams: bool = False
    """With ``Accept: text/event-stream`` the answer is 200 with the task's stream."""
    open: bool = False
    """Needs no token."""


_TASK_ID = Parameter(name="task_id", place="path", schema={"type": "string"})
_POOL_ID = Parameter(name="pool_id", place="path", schema={"type": "string"})
_AFTER = Parameter(
    name="after", place="query", schema={"type": "integer", "minimum": 0}, text="go on behind this token number"
)
_LAST_EVENT = Parameter(
    name="Last-Event-ID",
    place="header",
    schema={"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "maxLength": 0}]},
    text="the same, as browsers send it; empty from one that has seen none",
)
_STATE = Parameter(name="state", place="query", schema={"type": "string", "enum": [state.value for state in TaskState]})
_LIMIT = Parameter(
    name="limit", place="query", schema={"type": "integer", "minimum": 1, "maximum": 1000, "default": 50}
)
_DRY_RUN = Parameter(
    name="dry_run",
    place="query",
    schema={"type": "string", "enum": ["true", "false"], "default": "false"},
    text="only say what would become of the task: 200 with a forecast, or the refusal that it would get",
)
_EVENT_STREAM = "text/event-stream"
_REFUSED = {400: ErrorBody, 401: ErrorBody}
_READ = {**_REFUSED, 413: ErrorBody}
_ADMISSION = {409: ErrorBody, 429: ErrorBody, 503: ErrorBody}
_MANAGER = {503: ErrorBody, 500: ErrorBody}
_MANAGED_POOL = {404: ErrorBody, **_MANAGER}

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        plane=Plane.DATA,
        method="post",
        path="/v1/tasks",
        summary="Submit a task",
        parameters=(_DRY_RUN,),
        body=TaskRequest,
        answers={200: TaskForecast, 202: TaskAccepted, **_READ, **_ADMISSION},
        also_streams=True,
    ),
    Operation(
        plane=Plane.DATA,
        method="get",
        path="/v1/tasks",
        summary="The newest tasks",
        parameters=(_STATE, _LIMIT),
        answers={200: TaskList, **_REFUSED},
    ),
    Operation(
        plane=Plane.DATA,
        method="get",
        path="/v1/tasks/{task_id}",
        summary="Where a task stands",
        parameters=(_TASK_ID,),
        answers={200: TaskStatus, 401: ErrorBody, 404: ErrorBody},
    ),
    Operation(
        plane=Plane.DATA,
        method="get",
        path="/v1/tasks/{task_id}/stream",
        summary="A task's events, from the start or behind a token",
        parameters=(_TASK_ID, _AFTER, _LAST_EVENT),
        answers={200: None, **_REFUSED, 404: ErrorBody, 429: ErrorBody},
        media=_EVENT_STREAM,
    ),
    Operation(
        plane=Plane.DATA,
        method="post",
        path="/v1/tasks/{task_id}/cancel",
        summary="End a task; no token follows",
        parameters=(_TASK_ID,),
        answers={204: None, 401: ErrorBody, 404: ErrorBody},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="get",
        path="/healthz",
        summary="Whether the daemon answers",
        answers={200: None},
        open=True,
    ),
    Operation(
        plane=Plane.CONTROL,
        method="get",
        path="/metrics",
        summary="Prometheus metrics",
        answers={200: None, 401: ErrorBody},
        media="text/plain",
    ),
    Operation(
        plane=Plane.CONTROL,
        method="get",
        path="/openapi.json",
        summary="This document",
        answers={200: None, 401: ErrorBody},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="get",
        path="/v1/capabilities",
        summary="What the pools can do",
        answers={200: Capabilities, 401: ErrorBody},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="get",
        path="/v1/pools",
        summary="How the pools are",
        answers={200: PoolList, 401: ErrorBody},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="get",
        path="/v1/pools/{pool_id}/health",
        summary="How a pool is",
        parameters=(_POOL_ID,),
        answers={200: PoolHealth, 401: ErrorBody, 404: ErrorBody},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="post",
        path="/v1/pools/{pool_id}/drain",
        summary="Let running work finish, then stop the pool's engine",
        parameters=(_POOL_ID,),
        body=DrainRequest,
        body_required=False,
        answers={202: PoolHealth, **_READ, **_MANAGED_POOL},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="post",
        path="/v1/pools/{pool_id}/reload",
        summary="Serve another model, or go on with the old one",
        parameters=(_POOL_ID,),
        body=ReloadRequest,
        answers={202: PoolHealth, **_READ, **_MANAGED_POOL},
    ),
)

_SESSION_ID = Parameter(name="session_id", place="path", schema={"type": "string"})

OPERATIONS += (
    Operation(
        plane=Plane.DATA,
        method="get",
        path="/v1/sessions/{session_id}",
        summary="How long a session lives, what it has used, and what an engine still has of it",
        parameters=(_SESSION_ID,),
        answers={200: SessionInfo, 401: ErrorBody, 404: ErrorBody},
    ),
    Operation(
        plane=Plane.DATA,
        method="delete",
        path="/v1/sessions/{session_id}",
        summary="End a session, and free its slot",
        text=(
            "A turn that runs or waits goes on to its end, and its slot is freed then. The next task with this "
            "`session_id` begins another session."
        ),
        parameters=(_SESSION_ID,),
        answers={204: None, 401: ErrorBody, 404: ErrorBody},
    ),
)

_MODEL_ID = Parameter(name="model_id", place="path", schema={"type": "string"})
_MODEL_STATE = Parameter(
    name="state", place="query", schema={"type": "string", "enum": [state.value for state in ModelState]}
)
_FILES = Parameter(
    name="files",
    place="query",
    schema={"type": "boolean", "default": False},
    text="also remove what was fetched; a file of the user's own is never removed",
)
_UNREADABLE = {500: ErrorBody}

OPERATIONS += (
    Operation(
        plane=Plane.CONTROL,
        method="post",
        path="/v1/catalog/models",
        summary="Have a model here, ready for a pool",
        text=(
            "A model that is here is catalogued when the answer comes. One that has to be fetched, or whose digest "
            "takes long to compute, is answered for at once as well: its `state` is null, and `job` says how far it "
            "is, there and at `Location`, until it is catalogued or its job has failed. Asking again joins the pull "
            "that runs. A Retired model is Active afterwards."
        ),
        body=RegisterModel,
        answers={201: CatalogModel, **_READ, **_MANAGER, 403: ErrorBody, 409: ErrorBody},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="get",
        path="/v1/catalog/models",
        summary="The models of this machine",
        parameters=(_MODEL_STATE,),
        answers={200: CatalogModels, **_REFUSED, **_UNREADABLE},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="get",
        path="/v1/catalog/models/{model_id}",
        summary="A model, and the latest job on it",
        parameters=(_MODEL_ID,),
        answers={200: CatalogModel, 401: ErrorBody, 404: ErrorBody, **_UNREADABLE},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="delete",
        path="/v1/catalog/models/{model_id}",
        summary="Forget a model",
        text="Refused while a pool serves it or is configured with it. A pull that runs is ended.",
        parameters=(_MODEL_ID, _FILES),
        answers={204: None, **_REFUSED, 404: ErrorBody, 409: ErrorBody, **_MANAGER},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="post",
        path="/v1/catalog/models/{model_id}/verify",
        summary="Read a model again and compare its digest",
        text=(
            "`job` says what came of it: `ok`; `warning` where nobody had said the digest; `failed`. A model whose "
            "content is wrong is Retired, and set aside if it was fetched. Engines that have it loaded go on."
        ),
        parameters=(_MODEL_ID,),
        answers={202: CatalogModel, 401: ErrorBody, 404: ErrorBody, 409: ErrorBody, **_MANAGER},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="post",
        path="/v1/catalog/models/{model_id}/state",
        summary="Take a model out of use, or bring it back",
        text=(
            "A Retired model gets no new task (MODEL_UNAVAILABLE), and no pool starts with it. What was admitted "
            "before finishes, and an engine that has it goes on until its pool is reloaded, drained or restarted."
        ),
        parameters=(_MODEL_ID,),
        body=StateRequest,
        answers={202: CatalogModel, **_READ, 404: ErrorBody, 409: ErrorBody, **_MANAGER},
    ),
)

_ARTIFACT_ID = Parameter(
    name="artifact_id",
    place="path",
    schema={"type": "string"},
    text="`sha256:` and 64 hexadecimal digits",
)

_AFTER_RECEIPT = Parameter(
    name="after",
    place="query",
    schema={"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "default": 0},
    text="the number of the last receipt that was seen",
)
_PAGE = Parameter(
    name="limit", place="query", schema={"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
)

OPERATIONS += (
    Operation(
        plane=Plane.CONTROL,
        method="post",
        path="/v1/artifacts",
        summary="Keep a JSON value under the sha256 of its canonical form",
        text=(
            "The canonical form has its keys in order and no white space. Secrets are taken out first (`redacted`). "
            "The same content has the same id and is kept once; the answer then tells of its first time."
        ),
        body=ArtifactRequest,
        answers={201: ArtifactInfo, **_REFUSED, 413: ErrorBody, 500: ErrorBody},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="get",
        path="/v1/artifacts/{artifact_id}",
        summary="An artifact, or the record of a task",
        text="What a task left (`artifact_id` of its `end` and of its status) is of kind `trace`: a `Receipt`.",
        parameters=(_ARTIFACT_ID,),
        answers={200: Artifact, 401: ErrorBody, 404: ErrorBody, 500: ErrorBody},
    ),
    Operation(
        plane=Plane.CONTROL,
        method="get",
        path="/v1/receipts",
        summary="The receipts of tasks in their order, a page at a time",
        text=(
            "The content of each is a `Receipt`, which names the one before it. A page may be shorter than `limit`; "
            "there are more until the `number` of its last receipt is `last`."
        ),
        parameters=(_AFTER_RECEIPT, _PAGE),
        answers={200: ReceiptPage, **_REFUSED},
    ),
)

EVENTS = (events.Started, events.Token, events.Metrics, events.End, events.StreamError)
_REASONS = {
    200: "OK",
    201: "Created",
    202: "Accepted",
    204: "Done",
    400: "The request is wrong; `field` names where",
    401: "No token, or a wrong one",
    403: "Policy forbids it",
    404: "There is no such thing",
    409: "It contradicts something that exists",
    413: "The body is too large",
    429: "Not now; come back after `Retry-After`",
    500: "A mistake of ours",
    503: "No pool can serve it now",
}


def document(plane: Plane | None = None) -> Schema:
    """The OpenAPI document of one plane, or of both."""
    chosen = [operation for operation in OPERATIONS if plane in {None, operation.plane}]
    types = {kind for operation in chosen for kind in (operation.body, *operation.answers.values()) if kind is not None}
    if any(operation.media == _EVENT_STREAM for operation in chosen):
        types |= set(EVENTS)
    if any(Artifact in operation.answers.values() for operation in chosen):
        types.add(Receipt)
    ordered = sorted(types, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    paths: Schema = {}
    for operation in chosen:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    title = "llama-orch" if plane is None else f"llama-orch, {plane} plane"
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": API_VERSION, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "http://127.0.0.1:8080"}],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": dict(sorted(components.items())),
        },
    }


def _operation(operation: Operation) -> Schema:
    made: Schema = {"summary": operation.summary, "operationId": _name(operation)}
    if operation.text:
        made["description"] = operation.text
    if operation.open:
        made["security"] = []
    shown = examples_of(operation)
    if operation.parameters:
        made["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    if operation.body is not None:
        content = _json(operation.body)
        content["application/json"]["examples"] = openapi_answers.request_examples(shown)
        made["requestBody"] = {"required": operation.body_required, "content": content}
    answers = {status: _answer(operation, status, kind) for status, kind in operation.answers.items()}
    if operation.also_streams:
        answers[200]["description"] = "The forecast, for dry_run=true; the task's stream, for Accept: text/event-stream"
        answers[200]["content"] |= _stream_content()
    for status, answer in answers.items():
        here = [example for example in shown if example.status == status]
        answer["headers"] = openapi_answers.headers(status, here)
        openapi_answers.add_examples(answer, here)
    made["responses"] = {str(status): answers[status] for status in sorted(answers)}
    return made


def examples_of(operation: Operation) -> list[Example]:
    """The examples of an operation, as they stand in its document."""
    return examples.of(operation.method, operation.path, frozenset(operation.answers))


def _name(operation: Operation) -> str:
    words = [word.strip("{}") for word in operation.path.removeprefix("/v1").strip("/").replace(".", "/").split("/")]
    return "_".join([operation.method, *words])


def _parameter(parameter: Parameter) -> Schema:
    made: Schema = {"name": parameter.name, "in": parameter.place, "schema": copy.deepcopy(parameter.schema)}
    if parameter.place == "path":
        made["required"] = True
    if parameter.text:
        made["description"] = parameter.text
    return made


def _answer(operation: Operation, status: int, kind: type[msgspec.Struct] | None) -> Schema:
    made: Schema = {"description": _REASONS[status]}
    if kind is not None:
        made["content"] = _json(kind)
    elif operation.media == _EVENT_STREAM:
        made["content"] = _stream_content()
    elif status == 200:
        made["content"] = {operation.media: {"schema": {"type": "string" if "text" in operation.media else "object"}}}
    return made


def _json(kind: type[msgspec.Struct]) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def _stream_content() -> Schema:
    names = ", ".join(f"`{kind.__name__}`" for kind in EVENTS)
    text = f"Server-sent events; each `data` is one of {names}, and `id` numbers the tokens"
    schema = {"type": "string", "description": text}
    return {_EVENT_STREAM: {"schema": schema, "x-event-schema": openapi_answers.event_schema(EVENTS)}}
