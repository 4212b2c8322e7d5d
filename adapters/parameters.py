"""What each engine can be asked for, parameter by parameter, and under which name.

Decides for every engine, workload and parameter of a request: its name on the wire, or that it cannot be honoured, why,
and what to do instead. What depends on how an engine was built or started names the feature that the running engine has
to show (``Props.features``). Nothing is dropped in silence: what cannot be honoured is refused before it is queued, and
a mere hint is named in the task's stream. Never reads a stream, never asks an engine.

docs/engines.md is made from these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import UNSET

from adapters.base import EngineError, Failure, Generation
from contracts.config import Engine
from contracts.tasks import Determinism, KvHint, Sampling, TaskRequest, Workload


class Parameter(StrEnum):
    """Each one by the field of the request that it comes from; the last three are what a field's value asks for."""

    MAX_TOKENS = "max_tokens"
    SEED = "seed"
    TEMPERATURE = "sampling.temperature"
    TOP_P = "sampling.top_p"
    TOP_K = "sampling.top_k"
    MIN_P = "sampling.min_p"
    REPEAT_PENALTY = "sampling.repeat_penalty"
    STOP = "sampling.stop"
    JSON_SCHEMA = "sampling.json_schema"
    GRAMMAR = "sampling.grammar"
    REST_OF_CONTEXT = "max_tokens left out"
    COLD = "kv_hint: cold"
    STRICT = "determinism: strict"

    @property
    def field(self) -> str:
        """The path of the field in a request."""
        return self.value.partition(":")[0].partition(" ")[0]


HINTS = frozenset({Parameter.COLD})
"""What may be left out, when it is said."""


class Honoured(msgspec.Struct, frozen=True, kw_only=True):
    """The engine does it. ``name`` is what it is called there."""

    name: str
    needs: str | None = None
    """The feature without which this running engine cannot."""
    above: float | None = None
    """The value has to be larger."""
    most: int | None = None
    """At most so many values."""
    zero: float | None = None
    """What this engine calls 0, where it means something else by it."""
    note: str = ""


class Unable(msgspec.Struct, frozen=True, kw_only=True):
    """The engine cannot, or nobody can know whether it did."""

    why: str
    mend: str


Verdict = Honoured | Unable
Table = Mapping[Parameter, Verdict]


class Obstacle(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request cannot go to an engine."""

    field: str
    message: str
    hint: str


# --- the tables -------------------------------------------------------------------------------------------------------

_P = Parameter
GENERATING = (Workload.COMPLETION, Workload.CHAT)
"""The workloads that draw tokens; an embedding and a score take none of this."""

_LEAVE_OUT = "leave it out, or use a pool whose engine can (docs/engines.md has the table)"
_BATCHED = Unable(
    why="what else is computed in the same batch changes its results, and nothing it says of itself rules that out",
    mend="use determinism best_effort, or a pool of llamacpp with slots: 1",
)
_STRICT_UNKNOWN = Unable(
    why="how the server behind it computes is not known", mend="use determinism best_effort, or a pool of llamacpp"
)

_LLAMACPP: Table = {
    _P.MAX_TOKENS: Honoured(name="n_predict"),
    _P.SEED: Honoured(name="seed"),
    _P.TEMPERATURE: Honoured(name="temperature"),
    _P.TOP_P: Honoured(name="top_p"),
    _P.TOP_K: Honoured(name="top_k"),
    _P.MIN_P: Honoured(name="min_p"),
    _P.REPEAT_PENALTY: Honoured(name="repeat_penalty"),
    _P.STOP: Honoured(name="stop"),
    _P.JSON_SCHEMA: Honoured(name="json_schema"),
    _P.GRAMMAR: Honoured(name="grammar", note="GBNF"),
    _P.REST_OF_CONTEXT: Honoured(name="n_predict left out"),
    _P.COLD: Honoured(name="cache_prompt: false"),
    _P.STRICT: Honoured(name="cache_prompt: false", note="with slots: 1"),
}
_VLLM: Table = {
    _P.MAX_TOKENS: Honoured(name="max_tokens"),
    _P.SEED: Honoured(name="seed"),
    _P.TEMPERATURE: Honoured(name="temperature"),
    _P.TOP_P: Honoured(name="top_p", above=0),
    _P.TOP_K: Honoured(name="top_k", zero=-1),
    _P.MIN_P: Honoured(name="min_p"),
    _P.REPEAT_PENALTY: Honoured(name="repetition_penalty", above=0),
    _P.STOP: Honoured(name="stop"),
    _P.JSON_SCHEMA: Honoured(name="response_format", needs="json_schema"),
    _P.GRAMMAR: Honoured(
        name="structured_outputs.grammar", needs="grammar", note="EBNF; `guided_grammar` in older releases"
    ),
    _P.REST_OF_CONTEXT: Honoured(
        name="max_tokens", note="counted by /tokenize, since a completion would stop after 16"
    ),
    _P.COLD: Honoured(name="cache_salt", needs="cache_prompt", note="a salt of its own"),
    _P.STRICT: _BATCHED,
}
_TGI_COMPLETION: Table = {
    _P.MAX_TOKENS: Honoured(name="max_new_tokens"),
    _P.SEED: Honoured(name="seed", above=0),
    _P.TEMPERATURE: Honoured(name="temperature", note="0 is `do_sample: false`"),
    _P.TOP_P: Honoured(name="top_p", above=0, note="1 is its default, and left out"),
    _P.TOP_K: Honoured(name="top_k", note="0 is its default, and left out"),
    _P.MIN_P: Unable(why="it has no such sampler", mend="use top_p, or leave it out"),
    _P.REPEAT_PENALTY: Honoured(name="repetition_penalty", above=0),
    _P.STOP: Honoured(name="stop", most=4),
    _P.JSON_SCHEMA: Honoured(name="grammar", note="type `json`"),
    _P.GRAMMAR: Unable(why="it takes JSON schemas and regular expressions only", mend="use json_schema"),
    _P.REST_OF_CONTEXT: Honoured(name="max_new_tokens", note="counted by /tokenize, since it would stop after 100"),
    _P.COLD: Unable(why="its prefix cache cannot be left out for one request", mend="start it with PREFIX_CACHING=0"),
    _P.STRICT: _BATCHED,
}
_TGI_CHAT: Table = {
    **_TGI_COMPLETION,
    _P.MAX_TOKENS: Honoured(name="max_tokens"),
    _P.TEMPERATURE: Honoured(name="temperature", above=0),
    _P.TOP_K: Unable(why="its chat route has no such field", mend="use a completion, or leave it out"),
    _P.REPEAT_PENALTY: Unable(why="its chat route has no such field", mend="use a completion, or leave it out"),
    _P.JSON_SCHEMA: Honoured(name="response_format", note="type `json`"),
    _P.REST_OF_CONTEXT: Honoured(name="max_tokens", note="counted by /chat_tokenize, since it would stop after 100"),
}
_TRITON: Table = {
    _P.MAX_TOKENS: Honoured(name="max_tokens", needs="max_tokens"),
    _P.SEED: Honoured(name="seed", needs="seed"),
    _P.TEMPERATURE: Honoured(name="temperature", needs="temperature"),
    _P.TOP_P: Honoured(name="top_p", needs="top_p", above=0),
    _P.TOP_K: Honoured(name="top_k", needs="top_k", zero=-1),
    _P.MIN_P: Honoured(name="min_p", needs="min_p"),
    _P.REPEAT_PENALTY: Honoured(name="repetition_penalty", needs="repeat_penalty", above=0),
    _P.STOP: Honoured(name="stop", needs="stop", note="in `sampling_parameters`: a list is no parameter"),
    _P.JSON_SCHEMA: Unable(why="its backend's name for it depends on a version that it does not tell", mend=_LEAVE_OUT),
    _P.GRAMMAR: Unable(why="its backend's name for it depends on a version that it does not tell", mend=_LEAVE_OUT),
    _P.REST_OF_CONTEXT: Unable(why="it tells no context and would stop after 16 tokens", mend="set max_tokens"),
    _P.COLD: Unable(why="its prefix cache cannot be left out for one request", mend=_LEAVE_OUT),
    _P.STRICT: _BATCHED,
}
_OPENAI_COMPLETION: Table = {
    _P.MAX_TOKENS: Honoured(name="max_tokens"),
    _P.SEED: Honoured(name="seed", needs="seed"),
    _P.TEMPERATURE: Honoured(name="temperature"),
    _P.TOP_P: Honoured(name="top_p"),
    _P.TOP_K: Honoured(name="top_k", needs="top_k", zero=-1),
    _P.MIN_P: Honoured(name="min_p", needs="min_p"),
    _P.REPEAT_PENALTY: Honoured(name="repetition_penalty", needs="repeat_penalty"),
    _P.STOP: Honoured(name="stop", most=4),
    _P.JSON_SCHEMA: Honoured(name="response_format", needs="completion_json_schema"),
    _P.GRAMMAR: Unable(why="the protocol has no grammars", mend="use json_schema, or leave it out"),
    _P.REST_OF_CONTEXT: Honoured(
        name="max_tokens", needs="rest_of_context", note="where it tells its context and counts tokens"
    ),
    _P.COLD: Unable(why="the protocol has no such field", mend=_LEAVE_OUT),
    _P.STRICT: _STRICT_UNKNOWN,
}
_OPENAI_CHAT: Table = {
    **_OPENAI_COMPLETION,
    _P.JSON_SCHEMA: Honoured(name="response_format", needs="json_schema"),
    _P.REST_OF_CONTEXT: Honoured(name="max_tokens left out"),
}

_ALONE: Table = {
    _P.COLD: Honoured(name="(so it is always)"),
    _P.STRICT: Honoured(name="(so it is always)", note="with slots: 1"),
}
_RESULTS: Table = {**_ALONE, _P.STRICT: _BATCHED}
_RESULTS_UNKNOWN: Table = {**_ALONE, _P.STRICT: _STRICT_UNKNOWN}

TABLES: Mapping[Engine, Mapping[Workload, Table]] = MappingProxyType(
    {
        Engine.LLAMACPP: {
            Workload.COMPLETION: _LLAMACPP,
            Workload.CHAT: {**_LLAMACPP, _P.MAX_TOKENS: Honoured(name="max_tokens")},
            Workload.EMBEDDING: _ALONE,
            Workload.RERANK: _ALONE,
        },
        Engine.VLLM: {
            Workload.COMPLETION: _VLLM,
            Workload.CHAT: {**_VLLM, _P.REST_OF_CONTEXT: Honoured(name="max_tokens left out")},
            Workload.EMBEDDING: _RESULTS,
            Workload.RERANK: _RESULTS,
        },
        Engine.TGI: {Workload.COMPLETION: _TGI_COMPLETION, Workload.CHAT: _TGI_CHAT},
        Engine.TRITON: {Workload.COMPLETION: _TRITON},
        Engine.OPENAI: {
            Workload.COMPLETION: _OPENAI_COMPLETION,
            Workload.CHAT: _OPENAI_CHAT,
            Workload.EMBEDDING: _RESULTS_UNKNOWN,
            Workload.RERANK: _RESULTS_UNKNOWN,
        },
    }
)
"""Every engine's answer for each workload that can be asked of it."""

WORKLOADS: Mapping[Engine, tuple[Workload, ...]] = MappingProxyType(
    {engine: tuple(tables) for engine, tables in TABLES.items()}
)
"""What can be asked of an engine at all; which of it a running one serves, it says itself."""


# --- asking them ------------------------------------------------------------------------------------------------------

SCALARS = {
    _P.TEMPERATURE: "temperature",
    _P.TOP_P: "top_p",
    _P.TOP_K: "top_k",
    _P.MIN_P: "min_p",
    _P.REPEAT_PENALTY: "repeat_penalty",
}
"""The numbers that decide how tokens are drawn, by their names in ``contracts.tasks.Sampling`` and in a profile."""


def asked_by(request: TaskRequest) -> dict[Parameter, Any]:
    """All that a request asks for, with the values."""
    asked: dict[Parameter, Any] = {}
    if request.workload in GENERATING:
        asked = {_P.REST_OF_CONTEXT: True} if request.max_tokens is None else {_P.MAX_TOKENS: request.max_tokens}
        if request.seed is not None:
            asked[_P.SEED] = request.seed
        asked |= asked_of(request.sampling)
    if request.kv_hint is KvHint.COLD:
        asked[_P.COLD] = request.kv_hint
    if request.determinism is Determinism.STRICT:
        asked[_P.STRICT] = request.determinism
    return asked


def asked_of(sampling: Sampling) -> dict[Parameter, Any]:
    """The sampling parameters that a request gives, with their values."""
    given = {parameter: getattr(sampling, name) for parameter, name in SCALARS.items()}
    asked: dict[Parameter, Any] = {parameter: value for parameter, value in given.items() if value is not UNSET}
    if sampling.stop:
        asked[_P.STOP] = sampling.stop
    if sampling.json_schema is not None:
        asked[_P.JSON_SCHEMA] = sampling.json_schema
    if sampling.grammar is not None:
        asked[_P.GRAMMAR] = sampling.grammar
    return asked


def obstacle(
    engine: Engine, workload: Workload, asked: Mapping[Parameter, Any], features: tuple[str, ...] | None
) -> Obstacle | None:
    """The first parameter that this engine cannot honour; hints are none.

    ``features`` are what the running engine was found to have; None while it has not been asked.
    """
    for parameter, value in asked.items():
        if parameter not in HINTS:
            found = _obstacle(engine, workload, parameter, value, features)
            if found is not None:
                return found
    return None


def hints(asked: Mapping[Parameter, Any]) -> bool:
    """Whether anything that is asked for is a mere hint."""
    return not HINTS.isdisjoint(asked)


def unheeded(
    engine: Engine, workload: Workload, asked: Mapping[Parameter, Any], features: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The fields of those hints that this engine cannot follow."""
    return tuple(
        parameter.field
        for parameter, value in asked.items()
        if parameter in HINTS and _obstacle(engine, workload, parameter, value, features) is not None
    )


def fields(engine: Engine, generation: Generation) -> dict[str, Any]:
    """The fields of a request to an engine whose value is ours as it stands: numbers and stop words.

    Raises EngineError (invalid) for a sampling parameter that the engine cannot honour at all.
    """
    asked = asked_of(generation.sampling)
    found = obstacle(engine, generation.kind, asked, None)
    if found is not None:
        raise EngineError(Failure.INVALID, f"{found.field}: {found.message}; {found.hint}")
    if _P.JSON_SCHEMA in asked and _P.GRAMMAR in asked:
        raise EngineError(Failure.INVALID, "json_schema and grammar exclude each other")
    table = TABLES[engine][generation.kind]
    body: dict[str, Any] = {**generation.further}
    for parameter, value in asked.items():
        verdict = table[parameter]
        if isinstance(verdict, Honoured) and parameter not in {_P.JSON_SCHEMA, _P.GRAMMAR}:
            body[verdict.name] = verdict.zero if value == 0 and verdict.zero is not None else value
    return body


def out_of_range(engine: Engine, parameter: Parameter, verdict: Honoured, value: object) -> Obstacle | None:
    """Why an engine that honours a parameter does not take this value of it."""
    if verdict.above is not None and isinstance(value, int | float) and value <= verdict.above:
        text = f"engine {engine} takes {parameter} above {verdict.above:g} only, and {value:g} is not"
        return Obstacle(field=parameter.field, message=text, hint=f"use a value above {verdict.above:g}")
    if verdict.most is not None and isinstance(value, tuple) and len(value) > verdict.most:
        text = f"engine {engine} takes at most {verdict.most} values of {parameter}, and these are {len(value)}"
        return Obstacle(field=parameter.field, message=text, hint=f"keep {verdict.most} of them")
    return None


def _obstacle(
    engine: Engine, workload: Workload, parameter: Parameter, value: object, features: tuple[str, ...] | None
) -> Obstacle | None:
    verdict = TABLES[engine].get(workload, {}).get(parameter)
    match verdict:
        case None:
            return None
        case Unable():
            text = f"engine {engine} cannot honour {parameter} of a {workload}: {verdict.why}"
            return Obstacle(field=parameter.field, message=text, hint=verdict.mend)
        case Honoured() if verdict.needs is not None and features is not None and verdict.needs not in features:
            text = f"this {engine} does not show that it can honour {parameter} of a {workload}"
            return Obstacle(field=parameter.field, message=text, hint=_mend(parameter))
        case Honoured():
            return out_of_range(engine, parameter, verdict, value)


def _mend(parameter: Parameter) -> str:
    return "set max_tokens" if parameter is _P.REST_OF_CONTEXT else _LEAVE_OUT
