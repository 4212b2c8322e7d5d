"""What an answer in the OpenAPI documents says beyond its type: its headers and its examples.

Decides which headers which status carries. The examples are ``contracts.examples``'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from contracts.examples.base import NAMES, Example

Schema = dict[str, Any]

_COUNT = {"type": "integer", "minimum": 1}
_LEFT = {"type": "integer", "minimum": 0}
_HEADERS: dict[str, Schema] = {
    "X-Correlation-Id": {
        "description": "The client's own, where it sent a well-formed one; else a new one",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    },
    "Location": {"description": "Where what was made is found", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "How to authenticate", "schema": {"type": "string"}},
    "Retry-After": {"description": "Whole seconds, computed and never a constant", "schema": _COUNT},
    "X-Backoff-Ms": {"description": "The same in milliseconds", "schema": _COUNT},
    "X-Budget-Tokens-Remaining": {"description": "Of the session, where it has a budget", "schema": _LEFT},
    "X-Budget-Time-Remaining-Ms": {"description": "Of the session, where it has a budget", "schema": _LEFT},
}
_BUDGET = "X-Budget-"
_OF_STATUS = {401: ("WWW-Authenticate",), 429: ("Retry-After", "X-Backoff-Ms")}


def headers(status: int, examples: Sequence[Example]) -> Schema:
    """The headers that every answer with this status has."""
    located = any("Location" in example.headers for example in examples)
    always = all("Location" in example.headers for example in examples)
    names = ("X-Correlation-Id", *(("Location",) if located else ()), *_OF_STATUS.get(status, ()))
    made = {name: _HEADERS[name] | {"required": always or name != "Location"} for name in names}
    if any(name.startswith(_BUDGET) for example in examples for name in example.headers):
        made |= {name: header for name, header in _HEADERS.items() if name.startswith(_BUDGET)}
    return made


def add_examples(answer: Schema, examples: Iterable[Example]) -> None:
    """Write the examples of one answer into it; those of an answer without a body stand beside it."""
    for example in examples:
        content = answer.get("content", {}).get(example.media)
        place = answer.setdefault("x-examples", {}) if content is None else content.setdefault("examples", {})
        place[example.name] = example.document


def event_schema(kinds: Iterable[type]) -> Schema:
    """One event of a stream: ``data`` is JSON of the type that ``event`` names. OpenAPI 3.1 has no word for it."""
    return {"oneOf": [_event(kind.__name__) for kind in kinds]}


def _event(kind: str) -> Schema:
    data: Schema = {"type": "string", "contentMediaType": "application/json"}
    data |= {"contentSchema": {"$ref": f"#/components/schemas/{kind}"}}
    number = {"type": "string", "pattern": "^[0-9]+$", "description": "sent with a token; until the next one it stands"}
    properties: Schema = {"event": {"const": NAMES.get(kind, kind.lower())}, "data": data, "id": number}
    needed = ["event", "data", "id"] if kind == "Token" else ["event", "data"]
    return {"type": "object", "properties": properties, "required": needed, "additionalProperties": False}


def request_examples(examples: Iterable[Example]) -> Schema:
    """The bodies that are right, each once, so that a reader finds one where the body is explained."""
    made: Schema = {}
    for example in examples:
        body = example.document["x-request"].get("body")
        if example.status < 400 and body is not None and body not in [each["value"] for each in made.values()]:
            made[example.name] = {"summary": example.summary, "value": body}
    return made
