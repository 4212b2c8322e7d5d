"""What keeps a model from being used: a cause that a pool can report, one line, and the mend.

Decides how such an error reads. Never decides when one is raised.
"""

from __future__ import annotations

from contracts.pools import Cause


class ModelError(Exception):
    """A model cannot be used. ``message`` and ``hint`` hold no secret."""

    def __init__(self, cause: Cause, message: str, hint: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.hint = hint

    def render(self) -> str:
        """The text for a terminal: what is wrong and the mend."""
        return f"{self.cause}: {self.message}\n  hint: {self.hint}"


class ReferenceInvalidError(ModelError):
    """A model reference that means nothing."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(Cause.MODEL_INVALID, message, hint)


class GgufError(Exception):
    """Bytes that are no GGUF head, or none that is safe to read. ``offset`` is where, in bytes from the start."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} (at byte {offset})")
        self.message = message
        self.offset = offset
