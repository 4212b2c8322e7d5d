"""What an engine's refusal means, from its status, its type and its words.

Decides by tables that each engine's module gives. Never touches a socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from adapters.base import EngineError, Failure
from adapters.openai_wire import ErrorDetail, error_detail, message_of

BY_STATUS: Mapping[int, Failure] = MappingProxyType(
    {
        400: Failure.INVALID,
        401: Failure.UNAUTHORIZED,
        403: Failure.UNAUTHORIZED,
        404: Failure.PROTOCOL,
        405: Failure.PROTOCOL,
        413: Failure.INVALID,
        422: Failure.INVALID,
        429: Failure.OVERLOADED,
        501: Failure.INVALID,
        503: Failure.OVERLOADED,
    }
)
"""What HTTP itself says; any other status is a failure of the engine."""


class Refusals(msgspec.Struct, frozen=True, kw_only=True):
    """One engine's ways to say no. ``by_words`` (in small letters) outweighs ``by_type``, and that the status."""

    by_type: Mapping[str, Failure]
    by_words: Mapping[str, Failure]
    by_status: Mapping[int, Failure] = BY_STATUS

    def refusal(self, status: int, body: bytes) -> EngineError:
        """What an answer with another status than 200 means."""
        return self.error(error_detail(body), status)

    def stream_error(self, detail: ErrorDetail) -> EngineError:
        """What an error event inside a stream means: the engine broke, where it does not say more."""
        code = detail.code if isinstance(detail.code, int) else detail.http_status_code
        return self.error(detail, 500 if code is None else code)

    def error(self, detail: ErrorDetail, status: int) -> EngineError:
        """A failure in our words."""
        message = message_of(detail, status)
        words = message.lower()
        failure = (
            next((known for phrase, known in self.by_words.items() if phrase in words), None)
            or (self.by_type.get(detail.code) if isinstance(detail.code, str) else None)  # says more than the type
            or self.by_type.get(detail.type or "")
            or self.by_status.get(status, Failure.BROKEN)
        )
        if detail.n_prompt_tokens is not None and detail.n_ctx is not None:
            message = f"the prompt has {detail.n_prompt_tokens} tokens and the context holds {detail.n_ctx}"
        return EngineError(failure, f"the engine answered: {message}", status=status)
