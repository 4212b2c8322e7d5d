"""Asking a running engine what it is, where it may not know the question.

Decides which failures mean that an engine has not said: it answered, with an error about the question or with something
else than documented. One that does not answer, cannot serve right now or does not know us has failed.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from adapters.base import EngineError, Failure

Answer = TypeVar("Answer")

_FAILED = frozenset(
    {Failure.REFUSED, Failure.LOADING, Failure.OVERLOADED, Failure.UNAUTHORIZED, Failure.TIMEOUT, Failure.BROKEN}
)


def unsaid(error: EngineError) -> bool:
    """Whether the engine is there and only has no answer to this question."""
    refused = error.failure is Failure.BROKEN and error.status is not None
    return refused or error.failure not in _FAILED


async def optional(question: Awaitable[Answer]) -> Answer | None:
    """The answer, or None where the engine has none to give. Raises EngineError where it has failed."""
    try:
        return await question
    except EngineError as error:
        if not unsaid(error):
            raise
        return None
