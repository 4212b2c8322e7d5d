"""What goes through the conformance suite: every way in which an adapter is asked for something.

A further engine adds its subjects here, with a stand-in that speaks its wire format and has the same knobs and
counters.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from adapters.base import Adapter, Failure, Generation
from adapters.http import EngineHttp
from adapters.registry import adapter_for
from contracts.config import Engine
from contracts.pools import Endpoint
from contracts.tasks import ChatMessage, Role, Workload
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import WIRES, StandIn

MANY = 1_000_000
"""More tokens than any test lets come, and what fits into the stand-in's context: an engine that is not told a limit
has one of its own."""
CHAT = (ChatMessage(role=Role.USER, content="tell me a story"),)
DOCUMENTS = ("on the mat", "the cat sat", "and purred")
"""The best of them is not the first: engines answer best first, and adapters in the order of the question."""
GENERATIONS = {
    Workload.COMPLETION: Generation(prompt="once upon a time"),
    Workload.CHAT: Generation(workload=Workload.CHAT, messages=CHAT),
    Workload.EMBEDDING: Generation(workload=Workload.EMBEDDING, inputs=DOCUMENTS),
    Workload.RERANK: Generation(workload=Workload.RERANK, prompt="a cat", inputs=DOCUMENTS),
}


@dataclass(frozen=True, kw_only=True)
class Manners:
    """What an engine documents, where the engines differ."""

    clean_eof_is_an_end: bool = False
    """Nothing but the end of the body ends a stream."""
    says_done: bool = True
    """Its streams end with ``data: [DONE]``; chats of TGI do, and its completions do not."""
    context_in_numbers: bool = False
    """A refusal of a prompt that is too long has both numbers in fields of their own."""
    loading: Failure = Failure.LOADING
    """What a generation meets while the model loads."""
    tells: tuple[str, ...] = ()
    """What it says of itself, by the names of ``Props``."""
    counts: bool = True
    """It has a tokenizer to ask."""
    events: Mapping[Fault, Failure] = field(default_factory=dict)
    """What its error events mean; a fault that is not here is none of its own."""


_BROKEN = dict.fromkeys((Fault.ERROR, Fault.ERROR_DONE, Fault.ERROR_STRING), Failure.BROKEN)
MANNERS: Mapping[Engine, Manners] = {
    Engine.LLAMACPP: Manners(
        context_in_numbers=True,
        tells=("engine_version", "ctx_max", "slots"),
        events={
            Fault.ERROR: Failure.CONTEXT,
            Fault.ERROR_DONE: Failure.CONTEXT,
            Fault.ERROR_FIELD: Failure.CONTEXT,
            Fault.ERROR_STRING: Failure.BROKEN,
        },
    ),
    Engine.VLLM: Manners(
        loading=Failure.REFUSED,
        tells=("engine_version", "ctx_max"),
        events={**_BROKEN, Fault.OVERLOADED: Failure.OVERLOADED},
    ),
    Engine.TGI: Manners(
        tells=("engine_version", "ctx_max", "slots"), events={**_BROKEN, Fault.OVERLOADED: Failure.OVERLOADED}
    ),
    Engine.TRITON: Manners(
        says_done=False,
        tells=("engine_version",),
        counts=False,
        loading=Failure.REFUSED,
        events={Fault.ERROR: Failure.BROKEN, Fault.ERROR_STRING: Failure.BROKEN},
    ),
    Engine.OPENAI: Manners(
        counts=False,
        loading=Failure.OVERLOADED,  # a 503 in plain text, which its full queue says too
        events={**_BROKEN, Fault.OVERLOADED: Failure.OVERLOADED},
    ),
}
SERVED: Mapping[Engine, tuple[Workload, ...]] = {
    Engine.LLAMACPP: tuple(Workload),
    Engine.VLLM: tuple(Workload),
    Engine.TGI: (Workload.COMPLETION, Workload.CHAT),
    Engine.TRITON: (Workload.COMPLETION,),
    Engine.OPENAI: tuple(Workload),
}
"""What each adapter is to be able to ask for."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One workload of one engine."""

    engine: Engine
    workload: Workload
    max_tokens: int | None = MANY
    """Above what the tests let come, unless they say otherwise."""
    tells: bool = True
    """False: one of Triton's models that says nothing but text."""

    @property
    def name(self) -> str:
        return f"{self.engine} {self.workload}" + ("" if self.tells else " of text alone")

    @property
    def generation(self) -> Generation:
        """What is asked for."""
        usual = GENERATIONS[self.workload]
        return usual if usual.inputs is not None else replace(usual, max_tokens=self.max_tokens)

    def with_limit(self, max_tokens: int | None) -> Subject:
        """The same with another limit."""
        return dataclasses.replace(self, max_tokens=max_tokens)

    @property
    def manners(self) -> Manners:
        own = MANNERS[self.engine]
        return own if self.tells else dataclasses.replace(own, clean_eof_is_an_end=True)

    @property
    def says_done(self) -> bool:
        """Whether this stream ends with ``[DONE]``."""
        own = {(Engine.LLAMACPP, Workload.COMPLETION), (Engine.TGI, Workload.COMPLETION)}
        return self.manners.says_done and (self.engine, self.workload) not in own

    def knobs(self, **changes: Any) -> Knobs:  # noqa: ANN401 - any knob
        """An engine that was started for this workload."""
        draws = self.workload in {Workload.COMPLETION, Workload.CHAT}
        return Knobs(**({} if draws else {"serves": (self.workload,)}) | {"tells": self.tells} | changes)

    def serve(self, knobs: Knobs) -> StandIn:
        """A stand-in of this engine."""
        return StandIn(knobs, WIRES[self.engine])

    def adapter(self, url: str, http: EngineHttp, *, key: str | None = None) -> Adapter:
        """The adapter under test."""
        return adapter_for(self.engine, Endpoint(url=url, api_key=key), http)


SUBJECTS = (
    *(Subject(engine=engine, workload=workload) for engine in Engine for workload in SERVED[engine]),
    Subject(engine=Engine.TRITON, workload=Workload.COMPLETION, tells=False),
)
STREAMED = tuple(each for each in SUBJECTS if each.workload in {Workload.COMPLETION, Workload.CHAT})
ANSWERED = tuple(each for each in SUBJECTS if each not in STREAMED)
ONE_EACH = tuple(next(each for each in STREAMED if each.engine is engine) for engine in Engine)
"""For what has nothing to do with the workload."""
