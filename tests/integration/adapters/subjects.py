"""What goes through the conformance suite: every way in which an adapter streams a generation.

A further engine adds its subjects here, with a stand-in that speaks its wire format and has the same knobs and
counters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adapters.base import Adapter, Generation
from adapters.http import EngineHttp
from adapters.registry import adapter_for
from contracts.config import Engine
from contracts.pools import Endpoint
from contracts.tasks import ChatMessage, Role
from tests.standin.knobs import Knobs
from tests.standin.server import StandIn


@dataclass(frozen=True)
class Subject:
    """One kind of generation of one engine. ``max_tokens`` of the generation is above what the tests let come."""

    name: str
    engine: Engine
    generation: Generation
    serve: Callable[[Knobs], StandIn]

    def adapter(self, url: str, http: EngineHttp, *, key: str | None = None) -> Adapter:
        """The adapter under test."""
        return adapter_for(self.engine, Endpoint(url=url, api_key=key), http)


SUBJECTS = (
    Subject("llamacpp completion", Engine.LLAMACPP, Generation(prompt="once upon a time"), StandIn),
    Subject(
        "llamacpp chat",
        Engine.LLAMACPP,
        Generation(messages=(ChatMessage(role=Role.USER, content="tell me a story"),)),
        StandIn,
    ),
)
