"""As much of a text as has to be counted to know that all of it is too long.

Decides how much that is, and what its number of tokens shows. A tokenizer may take minutes for what no context could
hold, and its beginning says so within milliseconds. Never decides whether what may fit does: that is counted whole.
"""

from __future__ import annotations

import msgspec

from contracts.errors import ErrorCode
from contracts.tasks import ChatMessage, Role, TaskRequest
from orchestratord.admission import Refusal

CHARACTERS_PER_TOKEN = 8
"""Hardly any text has more, so the beginning of one that is far too long is too long by itself. Where one does have
more, all of it is counted."""

SEAM = 64
"""Tokens that a cut may have made: those of the word that it went through."""


def excerpt(request: TaskRequest, ctx_max: int) -> TaskRequest | None:
    """The beginning of what a request asks; None where all of it is to be counted."""
    room = CHARACTERS_PER_TOKEN * (ctx_max + SEAM)
    beginning = msgspec.structs.replace(
        request,
        prompt=request.prompt and request.prompt[:room],
        inputs=None if request.inputs is None else tuple(text[:room] for text in request.inputs),
        messages=None if request.messages is None else _question(request.messages, room),
    )
    return None if beginning == request else beginning


def too_long(tokens: int, ctx_max: int) -> bool:
    """Whether a request whose beginning has so many tokens has no room for an answer, whatever follows."""
    return tokens - SEAM >= ctx_max


def refusal(request: TaskRequest, ctx_max: int) -> Refusal:
    """What a client is told whose prompt is too long to be counted."""
    field = "inputs" if request.inputs is not None else "messages" if request.messages is not None else "prompt"
    what = "an input" if request.inputs is not None else "the prompt"
    return Refusal(
        code=ErrorCode.INVALID_PARAMS,
        message=f"{what} has more than the {ctx_max} tokens that the context holds",
        hint=f"shorten it to at most {ctx_max - 1} tokens, or use a model or pool with a larger context",
        field=field,
    )


def _question(messages: tuple[ChatMessage, ...], room: int) -> tuple[ChatMessage, ...]:
    """What the user said last, alone, where that is long by itself.

    It is the one message of which every template takes all: of what came before, many leave out thoughts or everything.
    """
    last = messages[-1]
    if last.role is not Role.USER or len(last.content) <= room:
        return messages
    return (msgspec.structs.replace(last, content=last.content[:room]),)
