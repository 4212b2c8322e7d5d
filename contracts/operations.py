"""The operations of the HTTP API: where each is, what it takes and every answer it gives.

Decides the list. A test holds the server's routes against it; ``openapi`` makes documents of it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from contracts.artifacts import Artifact, ArtifactInfo, ArtifactRequest
from contracts.base import Message
from contracts.catalog import CatalogModel, CatalogModels, RegisterModel, StateRequest
from contracts.engines import ModelState
from contracts.errors import ErrorBody
from contracts.pools import Capabilities, DrainRequest, PoolHealth, PoolList, ReloadRequest
from contracts.receipts import ReceiptPage
from contracts.sessions import SessionInfo
from contracts.tasks import TaskAccepted, TaskForecast, TaskList, TaskRequest, TaskState, TaskStatus


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


EVENT_STREAM = "text/event-stream"
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
_SESSION_ID = Parameter(name="session_id", place="path", schema={"type": "string"})
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
_REFUSED = {400: ErrorBody, 401: ErrorBody}
_READ = {**_REFUSED, 413: ErrorBody}
_ADMISSION = {409: ErrorBody, 429: ErrorBody, 503: ErrorBody}
_MANAGER = {503: ErrorBody, 500: ErrorBody}
_MANAGED_POOL = {404: ErrorBody, **_MANAGER}
_UNREADABLE = {500: ErrorBody}

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
        media=EVENT_STREAM,
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
