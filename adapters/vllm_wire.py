"""What of the OpenAI protocol is vLLM's own.

Decides which of its fields bind the output or leave the prefix cache out, by what its release lists; what its refusals
mean; and when what it lists has to be doubted. Never touches a socket.
"""

from __future__ import annotations

from typing import Any

from adapters.base import EngineError, Failure, Generation
from adapters.openai_discovery import CHAT, COMPLETIONS, EMBEDDINGS, Routes
from adapters.refusals import Refusals

REFUSALS = Refusals(
    by_words={"context length": Failure.CONTEXT, "maximum model length": Failure.CONTEXT},
    by_type={"context_length_exceeded": Failure.CONTEXT},
)
"""What vLLM says. 503 is its full queue; while it shuts down it says 500, and it never says that it loads."""

FEATURES = (
    "seed",
    "stop",
    "top_k",
    "min_p",
    "repeat_penalty",
    "tokenize",
    "rest_of_context",
    "cancel_on_close",
)
"""Of every release that this adapter knows."""

CACHE_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
"""A ratio, whatever its name says, and the name that it had before."""
RUNNING = ("vllm:num_requests_running",)
WAITING = ("vllm:num_requests_waiting",)
"""What ``/metrics`` calls the requests that it has."""


def more(generation: Generation, routes: Routes | None, salt: str) -> dict[str, Any]:
    """The fields that depend on the release. ``salt`` is known to nobody else, so that no cached prefix has it.

    Raises EngineError (invalid) for a grammar that this release would pass over without a word.
    """
    fields: dict[str, Any] = {"seed": generation.seed}
    path = CHAT if generation.messages is not None else COMPLETIONS
    if generation.sampling.grammar is not None:
        fields |= _grammar(generation.sampling.grammar, path, routes)
    if not generation.cache_prompt and routes is not None and routes.takes(path, "cache_salt"):
        fields["cache_salt"] = salt
    return fields


def lists_what_it_serves(routes: Routes | None) -> bool:
    """Older releases list every route, whatever the model: one that generates and embeds at once is no model."""
    return routes is not None and not (COMPLETIONS in routes and EMBEDDINGS in routes)


def _grammar(grammar: str, path: str, routes: Routes | None) -> dict[str, Any]:
    if routes is not None and routes.takes(path, "structured_outputs"):
        return {"structured_outputs": {"grammar": grammar}}
    if routes is not None and routes.takes(path, "guided_grammar"):
        return {"guided_grammar": grammar}
    raise EngineError(Failure.INVALID, "sampling.grammar: this vLLM does not show how it takes a grammar")
