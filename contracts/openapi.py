"""The HTTP API as OpenAPI 3.1, made from the very types that the server decodes and encodes.

Decides how an operation reads in the document; ``operations`` says which there are.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec

from contracts import events, examples, openapi_answers
from contracts.artifacts import Artifact
from contracts.examples.base import Example
from contracts.operations import EVENT_STREAM, OPERATIONS, Operation, Parameter, Plane
from contracts.pools import API_VERSION
from contracts.receipts import Receipt

Schema = dict[str, Any]

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
    if any(operation.media == EVENT_STREAM for operation in chosen):
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
    elif operation.media == EVENT_STREAM:
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
    return {EVENT_STREAM: {"schema": schema, "x-event-schema": openapi_answers.event_schema(EVENTS)}}
