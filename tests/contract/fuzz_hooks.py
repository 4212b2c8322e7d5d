"""Loaded by Schemathesis in its own process: leads many requests to what the house really has.

Three quarters of the ids in paths are those of ``LLAMA_ORCH_FUZZ_PLACES``, and most tasks name the house's own model.
A made-up ``model_ref`` is refused before anything else is looked at; with the house's own model the request reaches the
engine, and with it the stream.
"""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis

PLACES: dict[str, list[str]] = json.loads(os.environ.get("LLAMA_ORCH_FUZZ_PLACES", "{}"))


@schemathesis.hook
def map_path_parameters(context: schemathesis.HookContext, path_parameters: Any) -> Any:  # noqa: ANN401 - as below
    """An id that there is, or one that is nearly one, in place of most."""
    if not isinstance(path_parameters, dict):
        return path_parameters
    changed = dict(path_parameters)
    for name, value in path_parameters.items():
        known = PLACES.get(name, [])
        if known and isinstance(value, str) and (chosen := sum(value.encode("utf-8", "surrogatepass")) % 4) < 3:
            changed[name] = known[chosen % len(known)]
    return changed


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:  # noqa: ANN401 - any JSON
    """The house's model where the document asks for some model, and no answer longer than a few tokens."""
    if not isinstance(body, dict) or not isinstance(body.get("model_ref"), str) or len(body["model_ref"]) % 4 == 0:
        return body
    if context.operation is None or context.operation.path != "/v1/tasks":
        return body
    changed = body | {"model_ref": "haiku"}
    if isinstance(body.get("max_tokens"), int) and body["max_tokens"] > 64:
        changed["max_tokens"] = 64
    return changed
