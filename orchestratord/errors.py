"""What a handler raises when a client is to be refused.

Decides nothing: it carries an error code with its context to the one place that turns it into a response
(``http.errors``).
"""

from __future__ import annotations

from contracts.errors import ErrorCode
from orchestratord.admission import Refusal


class ApiError(Exception):
    """A refusal on its way to the client."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def api_error(code: ErrorCode, message: str, hint: str | None = None, *, field: str | None = None) -> ApiError:
    """A refusal with the usual context."""
    return ApiError(Refusal(code=code, message=message, hint=hint, field=field))
