"""What keeps a model from being used: a cause that a pool can report, one line, and the mend.

Decides how such an error reads. Never decides when one is raised.
"""

from __future__ import annotations

from enum import StrEnum

from contracts.base import writable
from contracts.pools import Cause


class ModelError(Exception):
    """A model cannot be used. ``message`` and ``hint`` hold no secret.

    ``retriable`` where the same may succeed later with nothing changed here: a network, or the server behind it.
    """

    def __init__(self, cause: Cause, message: str, hint: str, *, retriable: bool = False) -> None:
        self.cause = cause
        self.message = writable(message)  # it often quotes a file's name
        self.hint = writable(hint)
        self.retriable = retriable
        super().__init__(self.message)

    def render(self) -> str:
        """The text for a terminal: what is wrong and the mend."""
        return f"{self.cause}: {self.message}\n  hint: {self.hint}"


class ReferenceInvalidError(ModelError):
    """A model reference that means nothing."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(Cause.MODEL_INVALID, message, hint)


class Trouble(StrEnum):
    """What can go wrong while something is fetched."""

    POLICY = "policy"
    """It may not be reached."""
    ADDRESS = "address"
    """It is no address that can be fetched."""
    ANSWER = "answer"
    """The server answers something else; ``FetchError.status`` has what."""
    NETWORK = "network"
    SIZE = "size"
    """What comes is larger or smaller than it should be."""
    DIGEST = "digest"
    ROOM = "room"
    """The disk is full, or would be."""
    DISK = "disk"
    """The disk refuses for another reason."""


class FetchError(Exception):
    """Something cannot be fetched. Whoever asked for it words it as an error of their own: a model's, an engine's.

    ``hint`` is the mend where it is the same for everybody. ``status`` and ``code`` are what the server answered, the
    latter its own word for it (``X-Error-Code``). ``found`` is the digest of what came in place of the right one. No
    text holds a secret.
    """

    def __init__(
        self,
        trouble: Trouble,
        message: str,
        *,
        hint: str | None = None,
        retriable: bool = False,
        status: int | None = None,
        code: str | None = None,
        found: str | None = None,
    ) -> None:
        super().__init__(message)
        self.trouble = trouble
        self.message = message
        self.hint = hint
        self.retriable = retriable
        self.status = status
        self.code = code
        self.found = found


class GgufError(Exception):
    """Bytes that are no GGUF head, or none that is safe to read. ``offset`` is where, in bytes from the start."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} (at byte {offset})")
        self.message = message
        self.offset = offset
