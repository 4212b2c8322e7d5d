"""What a command can fail with, and the exit status that stands for it.

Decides how an error of the API reads on a terminal. Never prints.
"""

from __future__ import annotations

from daemon_core.errors import EXIT_FAILURE, EXIT_RETRY

UNREACHABLE = "UNREACHABLE"
"""Our own code, where no answer came at all."""
EXIT_INTERRUPTED = 130
"""128 and SIGINT: what shells expect of a program that Ctrl-C ended."""


class ApiError(Exception):
    """orchestratord refused, or could not be asked.

    ``code`` is one of contracts.errors, or UNREACHABLE, or HTTP_nnn where something else than orchestratord answered.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        retriable: bool = False,
        retry_after_ms: int | None = None,
        correlation_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.retriable = retriable
        self.retry_after_ms = retry_after_ms
        self.correlation_id = correlation_id

    @property
    def exit_code(self) -> int:
        """75 where the same command may succeed later."""
        return EXIT_RETRY if self.retriable else EXIT_FAILURE

    def render(self) -> str:
        """The error, when to try again, and its mend."""
        again = f" (try again in {self.retry_after_ms} ms)" if self.retry_after_ms is not None else ""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{self.code}: {self.message}{again}{hint}"

    def as_json(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retriable": self.retriable,
            "retry_after_ms": self.retry_after_ms,
            "correlation_id": self.correlation_id,
        }
