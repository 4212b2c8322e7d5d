"""What Triton reads and writes, for models of text.

Decides which model is asked for, what of a request the model takes, how its events are read, and what its refusals
mean. Never touches a socket.

A model of Triton's vLLM backend takes sampling parameters by their vLLM names. Of any other model the inputs that it
declares are all that is known, so nothing else is sent. The status of a stream is that of its first event: a later
failure is an event with ``error`` and then a clean end, which without one is the only good end. Only a vLLM backend
tells why and after how many tokens, when it is asked to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from adapters.base import Batch, EngineError, Failure, Finished, Generation
from adapters.body import Body, body_of
from adapters.openai_wire import UNREADABLE, ErrorDetail, error_detail, malformed
from adapters.parameters import fields
from adapters.refusals import Refusals
from contracts.config import Engine
from contracts.events import FinishReason
from contracts.tasks import Workload

INDEX = "/v2/repository/index"
INDEX_BODY = b'{"ready":true}'
SHOWN_MODELS = 8
ASKED_FOR = ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens")
"""Inputs of the vLLM backend that make it tell how a generation ended."""

_NAMES = {
    "max_tokens": ("max_tokens", "sampling_param_max_tokens", "max_new_tokens"),
    "seed": ("seed", "random_seed", "sampling_param_seed"),
    "temperature": ("temperature", "sampling_param_temperature"),
    "top_p": ("top_p", "sampling_param_top_p"),
    "top_k": ("top_k", "sampling_param_top_k"),
    "min_p": ("min_p", "sampling_param_min_p"),
    "repetition_penalty": ("repetition_penalty", "sampling_param_repetition_penalty"),
    "stop": ("stop_words", "stop", "sampling_param_stop"),
}
"""vLLM's name of a parameter, and those of the inputs that models of other backends have for it."""

Value = TypeVar("Value", int, str)

_encode = msgspec.json.Encoder().encode


class Listed(msgspec.Struct, frozen=True):
    """One entry of ``POST /v2/repository/index``."""

    name: str
    state: str | None = None


class Server(msgspec.Struct, frozen=True):
    """``GET /v2``."""

    version: str | None = None


class Tensor(msgspec.Struct, frozen=True):
    """An input or an output."""

    name: str


class Metadata(msgspec.Struct, frozen=True):
    """``GET /v2/models/{name}``."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


class Config(msgspec.Struct, frozen=True):
    """``GET /v2/models/{name}/config``."""

    backend: str | None = None


class Model(msgspec.Struct, frozen=True):
    """What is known of the model that is asked for."""

    name: str
    inputs: frozenset[str] = frozenset()
    outputs: frozenset[str] = frozenset()
    backend: str | None = None

    @property
    def vllm(self) -> bool:
        """Whether it takes vLLM's sampling parameters without declaring each."""
        return self.backend == "vllm" or "sampling_parameters" in self.inputs

    @property
    def tells_reasons(self) -> bool:
        """Whether it says why a generation ended, having been asked to."""
        return ASKED_FOR[0] in self.inputs and "finish_reason" in self.outputs

    @property
    def stream(self) -> str:
        """The path of a generation."""
        return f"/v2/models/{self.name}/generate_stream"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event of ``generate_stream``; an output of one element is a value, one of several a list."""

    text_output: str | list[str] = ""
    finish_reason: str | list[str] | None = None
    num_input_tokens: int | list[int] | None = None
    num_output_tokens: int | list[int] | None = None
    error: str | None = None


_event = msgspec.json.Decoder(Event)


# --- asking -----------------------------------------------------------------------------------------------------------


def choose(listed: Sequence[Listed], wanted: str | None) -> str:
    """The model to ask for: the one that is wanted, else the only one that is loaded.

    Raises EngineError where none is, or where it stays open which one is meant.
    """
    names = sorted({model.name for model in listed if model.state in {None, "READY"}})
    if wanted in names:
        return str(wanted)
    if len(names) == 1:
        return names[0]
    if not names:
        raise EngineError(Failure.LOADING, "the server has no model that is ready")
    shown = ", ".join(names[:SHOWN_MODELS]) + (", ..." if len(names) > SHOWN_MODELS else "")
    text = f"the server has no model {wanted!r} and several others: set the pool's model to one of {shown}"
    raise EngineError(Failure.INVALID, text)


def model_of(name: str, metadata: Metadata | None, config: Config | None) -> Model:
    """What is known of a model; of one that tells nothing, its name."""
    metadata = metadata or Metadata()
    inputs = frozenset(tensor.name for tensor in metadata.inputs)
    outputs = frozenset(tensor.name for tensor in metadata.outputs)
    return Model(name, inputs, outputs, None if config is None else config.backend)


def served(model: Model) -> tuple[Workload, ...]:
    """Text goes in and text comes out, or it is no model of ours."""
    return (Workload.COMPLETION,) if "text_input" in model.inputs and "text_output" in model.outputs else ()


def features(model: Model) -> tuple[str, ...]:
    """Which parameters the model takes."""
    found = {parameter for parameter in _NAMES if _name(parameter, model) is not None}
    renamed = {"repetition_penalty": "repeat_penalty"}
    return ("cancel_on_close", *sorted(renamed.get(name, name) for name in found))


def body(generation: Generation, model: Model) -> Body:
    """The body that starts a generation. Raises EngineError (invalid) for what the model does not take."""
    if generation.max_tokens is None:
        text = "max_tokens: Triton tells no context, and its vLLM backend stops after 16 tokens; set it"
        raise EngineError(Failure.INVALID, text)
    wanted: dict[str, Any] = fields(Engine.TRITON, generation) | {"max_tokens": generation.max_tokens}
    if _name("seed", model) is not None:
        wanted["seed"] = generation.seed
    untaken = [name for name in wanted if _name(name, model) is None]
    if untaken:
        text = (
            f"the model {model.name!r} does not declare {', '.join(untaken)}, so nobody could tell whether it heeds it"
        )
        raise EngineError(Failure.INVALID, text)
    texts: dict[str, Any] = {"text_input": generation.prompt or ""}
    if generation.correlation_id is not None:
        texts["id"] = generation.correlation_id  # Triton's own log calls the request by it
    asked = {name: True for name in ASKED_FOR if name in model.inputs}
    if not model.vllm:
        stream = {"stream": True} if "stream" in model.inputs else {}
        named = {str(_name(name, model)): value for name, value in wanted.items()}
        return body_of(stream | asked | named, texts)
    if "stop" in wanted:  # a list is no parameter of a request; with this input the parameters are not looked at
        parameters = {"sampling_parameters": _encode(wanted).decode()}
        return body_of({"stream": True} | parameters | asked, texts)
    return body_of(asked | {"parameters": {"stream": True, **wanted}}, texts)


def _name(parameter: str, model: Model) -> str | None:
    """How the model calls a parameter; None where it does not show that it takes it."""
    if model.vllm:
        return None if parameter == "stop" and "sampling_parameters" not in model.inputs else parameter
    return next((name for name in _NAMES[parameter] if name in model.inputs), None)


# --- reading ----------------------------------------------------------------------------------------------------------


class StreamReader:
    """Reads one ``generate_stream`` stream, which ends well when it ends without an error."""

    def __init__(self, *, tells_reasons: bool = False) -> None:
        self.failure: EngineError | None = None
        self._tells_reasons = tells_reasons
        self._reason: str | None = None
        self._tokens_in: int | None = None
        self._tokens_out: int | None = None

    def batch(self, events: list[bytes]) -> Batch:
        """What one read brought, up to a failure."""
        texts: list[str] = []
        try:
            for data in events:
                event = _event.decode(data)
                if event.error is not None:
                    self.failure = REFUSALS.stream_error(ErrorDetail(message=event.error))
                    break
                self._take(event, texts)
        except UNREADABLE as error:
            self.failure = malformed(error)
        return Batch(texts)

    def at_end(self) -> Finished | None:
        """The clean end. A model that tells its reasons and gave none for this has been cut off."""
        if self._reason in {"None", "abort"} or (self._reason is None and self._tells_reasons):
            return None
        reason = FinishReason.LENGTH if self._reason == "length" else FinishReason.STOP
        return Finished(reason=reason, tokens_in=self._tokens_in, tokens_out=self._tokens_out)

    def _take(self, event: Event, texts: list[str]) -> None:
        if event.text_output:
            texts += [event.text_output] if isinstance(event.text_output, str) else event.text_output
        if event.finish_reason is not None:
            self._reason = _one(event.finish_reason)
        if event.num_input_tokens is not None:
            self._tokens_in = _one(event.num_input_tokens)
        if event.num_output_tokens is not None:  # what is new since the last event
            self._tokens_out = (self._tokens_out or 0) + (_one(event.num_output_tokens) or 0)


def _one(value: Value | list[Value]) -> Value | None:
    if isinstance(value, list):
        return value[0] if value else None
    return value


# --- refusals ---------------------------------------------------------------------------------------------------------

REFUSALS = Refusals(
    by_words={
        "maximum model length": Failure.CONTEXT,
        "maximum context length": Failure.CONTEXT,
        "exceeds maximum queue size": Failure.OVERLOADED,
        "timeout expired": Failure.OVERLOADED,  # in Triton's own queue; the status is 400
        "is not healthy": Failure.BROKEN,  # its model's process is gone, and it goes on saying that it is ready
        "failed to parse the request": Failure.INVALID,  # no JSON; the status is 500
    },
    by_type={},
)


def refusal(status: int, answer: bytes) -> EngineError:
    """What an answer with another status than 200 means; one of a stream comes as an event."""
    first = answer.lstrip().partition(b"\n")[0]
    return REFUSALS.error(error_detail(first[5:] if first.startswith(b"data:") else answer), status)
