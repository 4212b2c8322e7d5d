"""Whether a task fits into a context.

Decides when that is certain without counting, and what has to be counted otherwise. Never asks an engine: where the
prompt's length matters, the caller has it counted and passes it in. What a client is told, ``admission`` words.
"""

from __future__ import annotations

import msgspec

from adapters.parameters import GENERATING
from contracts.tasks import TaskRequest

TEMPLATE_TOKENS = 64
"""What a chat template may add per message beyond the text itself, at most."""

MOST_COUNTED = 64
"""So many inputs of one task are counted, each by a question to the engine."""


def certainly_fits(request: TaskRequest, ctx_max: int) -> bool:
    """Whether the prompt fits into the context however it is tokenized, so that nobody needs to count.

    A token is at least one byte of text, so the byte length bounds the count.
    """
    longest = max((len(text.encode()) for text in request.inputs or ()), default=0)
    return most_tokens(request) + longest + _new_tokens(request) <= ctx_max


def most_tokens(request: TaskRequest) -> int:
    """More tokens than these a prompt or a chat cannot have, however it is tokenized."""
    texts = [request.prompt or "", *(message.content for message in request.messages or ())]
    return sum(len(text.encode()) for text in texts) + TEMPLATE_TOKENS * len(texts)


def to_count(request: TaskRequest, ctx_max: int) -> TaskRequest:
    """The request with those inputs alone that have to be counted: each has to fit by itself.

    The longest come first, and not more than ``MOST_COUNTED``: what they leave over the engine itself refuses.
    """
    if request.inputs is None:
        return request
    room = ctx_max - len((request.prompt or "").encode()) - TEMPLATE_TOKENS
    long = [text for text in request.inputs if len(text.encode()) > room]
    longest = sorted(long, key=len, reverse=True)[:MOST_COUNTED]
    return msgspec.structs.replace(request, inputs=tuple(longest))


def fits(request: TaskRequest, prompt_tokens: int, ctx_max: int) -> bool:
    """Whether a prompt of ``prompt_tokens`` and the answer that was asked for fit into the context."""
    return prompt_tokens + _new_tokens(request) <= ctx_max


# --- inside -----------------------------------------------------------------------------------------------------------


def _new_tokens(request: TaskRequest) -> int:
    """How many tokens have to fit behind the prompt at least."""
    return (request.max_tokens or 1) if request.workload in GENERATING else 0
