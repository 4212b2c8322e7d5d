"""How a completion or a chat is asked for in the OpenAI protocol.

Decides the body; what differs between the servers that speak it comes as an argument or from ``parameters``. Never
touches a socket, and never sends ``priority``: vLLM refuses or ignores it, and the order is orchestratord's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from adapters.base import Generation
from adapters.body import Body, as_it_is, body_of
from adapters.openai_discovery import CHAT, COMPLETIONS
from adapters.parameters import fields
from contracts.config import Engine

_encode = msgspec.json.Encoder().encode
DRAWN = ("cache_salt",)
"""What is another one in each request."""
SCHEMA_NAME = "answer"
"""The protocol wants a name for a schema; nothing comes of it."""


def request(
    engine: Engine, generation: Generation, *, model: str | None, max_tokens: int | None, more: dict[str, Any]
) -> tuple[str, Body]:
    """The path and the body that start a generation.

    ``max_tokens`` is what was asked for, or what is left of the context; ``more`` holds the fields that depend on the
    server. Raises EngineError (invalid).
    """
    body: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    if model is not None:
        body["model"] = model
    drawn = {name: more[name] for name in DRAWN if name in more}
    body |= fields(engine, generation) | {name: value for name, value in more.items() if name not in drawn}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    schema = generation.sampling.json_schema
    if schema is not None:
        described = {"name": SCHEMA_NAME, "schema": as_it_is(schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": described}
    if generation.messages is None:
        return COMPLETIONS, body_of(body, drawn | {"prompt": generation.prompt or ""})
    return CHAT, body_of(body, drawn | {"messages": generation.messages})


def tokenize_body(generation: Generation, text: str | None, model: str) -> bytes:
    """The body of ``/tokenize`` for a chat, or for one text."""
    if text is None:
        return _encode({"model": model, "messages": generation.messages})
    return _encode({"model": model, "prompt": text})
