"""What text-generation-inference (TGI) reads and writes.

Decides how a generation is asked for, how its events are read, and what its refusals mean. Never touches a socket.

Its status says nothing of a stream: errors, overload among them, come as events inside a 200. The end is the event with
``generated_text``, and the counts stand in its ``details``, which come only when they were asked for. There is no
``[DONE]`` on this route, and newer releases send one behind a chat.
"""

from __future__ import annotations

from typing import Any

import msgspec

from adapters.base import Batch, EngineError, Failure, Finished, Generation
from adapters.body import Body, as_it_is, body_of
from adapters.openai_wire import UNREADABLE, ErrorDetail, malformed
from adapters.parameters import fields
from adapters.refusals import BY_STATUS, Refusals
from contracts.config import Engine
from contracts.events import FinishReason
from contracts.tasks import Workload

STREAM = "/generate_stream"
CHAT = "/v1/chat/completions"
BATCH = ("tgi_batch_current_size",)
QUEUE = ("tgi_queue_size",)
"""What ``/metrics`` calls the requests that it has."""
FEATURES = ("seed", "stop", "json_schema", "tokenize", "cancel_on_close")

_encode = msgspec.json.Encoder().encode


class Info(msgspec.Struct, frozen=True):
    """``GET /info``."""

    version: str | None = None
    router: str | None = None
    model_id: str | None = None
    max_total_tokens: int | None = None
    max_concurrent_requests: int | None = None


class ChatTokens(msgspec.Struct, frozen=True):
    """``POST /chat_tokenize``."""

    tokenize_response: list[msgspec.Raw]


class Token(msgspec.Struct, frozen=True, gc=False):
    """A special one, such as the end of the text, is none of the text."""

    text: str = ""
    special: bool = False


class Details(msgspec.Struct, frozen=True):
    """The engine's own account, in the last event."""

    finish_reason: str = ""
    generated_tokens: int | None = None
    input_length: int | None = None


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event of ``/generate_stream``."""

    token: Token = Token()
    generated_text: str | None = None
    details: Details | None = None
    error: str | None = None
    error_type: str | None = None


_event = msgspec.json.Decoder(Event)


# --- asking -----------------------------------------------------------------------------------------------------------


def request(generation: Generation, max_tokens: int | None) -> tuple[str, Body]:
    """The path and the body that start a generation.

    ``max_tokens`` is what was asked for, or what is left of the context. Raises EngineError (invalid).
    """
    if generation.messages is not None:
        return CHAT, _chat(generation, max_tokens)
    parameters: dict[str, Any] = _greedy(fields(Engine.TGI, generation))
    parameters |= {"details": True, "seed": generation.seed}
    if max_tokens is not None:
        parameters["max_new_tokens"] = max_tokens
    if generation.sampling.json_schema is not None:
        parameters["grammar"] = {"type": "json", "value": as_it_is(generation.sampling.json_schema)}
    return STREAM, body_of({"parameters": parameters}, {"inputs": generation.prompt or ""})


def tokenize_body(text: str) -> bytes:
    """The body of ``/tokenize``."""
    return _encode({"inputs": text})


def chat_tokenize_body(generation: Generation) -> bytes:
    """The body of ``/chat_tokenize``; the model's name is required and not looked at."""
    return _encode({"model": "tgi", "messages": generation.messages or ({"role": "user", "content": "a"},)})


def served(info: Info | None, *, templates: bool) -> tuple[Workload, ...]:
    """The workloads of a server: its router says what it is, and a chat needs the model's template."""
    if info is None or (info.max_total_tokens is None and not (info.router or "").startswith("text-generation")):
        return ()
    return (Workload.COMPLETION, Workload.CHAT) if templates else (Workload.COMPLETION,)


def _chat(generation: Generation, max_tokens: int | None) -> Body:
    body: dict[str, Any] = {"model": "tgi", "stream": True, "stream_options": {"include_usage": True}}
    body |= {name: value for name, value in fields(Engine.TGI, generation).items() if (name, value) != ("top_p", 1)}
    body["seed"] = generation.seed
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if generation.sampling.json_schema is not None:
        body["response_format"] = {"type": "json", "value": as_it_is(generation.sampling.json_schema)}
    return body_of(body, {"messages": generation.messages})


def _greedy(parameters: dict[str, Any]) -> dict[str, Any]:
    """The same, as TGI says it: it refuses a temperature of 0, and defaults where they are written out."""
    off = {"top_k": 0, "top_p": 1}
    kept = {name: value for name, value in parameters.items() if off.get(name) != value}
    if "temperature" not in kept:
        return kept
    if kept["temperature"] > 0:
        return kept | {"do_sample": True}
    # Without a temperature the most likely token is drawn, and any of these would make TGI sample after all.
    return {name: kept[name] for name in kept if name not in {"temperature", "top_k", "top_p"}} | {"do_sample": False}


# --- reading ----------------------------------------------------------------------------------------------------------


class StreamReader:
    """Reads one ``/generate_stream`` stream, whose last event has ``generated_text``."""

    def __init__(self) -> None:
        self.failure: EngineError | None = None

    def batch(self, events: list[bytes]) -> Batch:
        """What one read brought, up to a failure."""
        texts: list[str] = []
        try:
            for data in events:
                event = _event.decode(data)
                if event.error is not None:
                    detail = ErrorDetail(message=event.error, type=event.error_type)
                    self.failure = REFUSALS.stream_error(detail)
                    break
                if event.token.text and not event.token.special:
                    texts.append(event.token.text)
                if event.generated_text is not None or event.details is not None:
                    return Batch(texts, _finished(event.details or Details()))
        except UNREADABLE as error:
            self.failure = malformed(error)
        return Batch(texts)

    def at_end(self) -> Finished | None:
        """A stream that closes without its last event was cut off."""
        return None


def _finished(details: Details) -> Finished:
    return Finished(
        reason=FinishReason.LENGTH if details.finish_reason == "length" else FinishReason.STOP,
        tokens_in=details.input_length,
        tokens_out=details.generated_tokens,
    )


# --- refusals ---------------------------------------------------------------------------------------------------------

REFUSALS = Refusals(
    by_words={
        "`max_new_tokens` must be <=": Failure.CONTEXT,
        "`inputs` must have less than": Failure.CONTEXT,
        "incorrect api key": Failure.UNAUTHORIZED,
        # A chat says 422 of every failure, whoever is to blame.
        "request failed during generation": Failure.BROKEN,
        "incomplete generation": Failure.BROKEN,
        "model is overloaded": Failure.OVERLOADED,
    },
    by_type={
        "overloaded": Failure.OVERLOADED,
        "validation": Failure.INVALID,
        "template_error": Failure.INVALID,
        "healthcheck": Failure.LOADING,
        "unhealthy": Failure.LOADING,
        "generation": Failure.BROKEN,
        "incomplete_generation": Failure.BROKEN,
    },
    by_status={**BY_STATUS, 424: Failure.BROKEN, 503: Failure.LOADING},
)
