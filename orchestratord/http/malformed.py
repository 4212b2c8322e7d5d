"""What the log says of bytes that are no HTTP.

Decides that anybody who can reach the port may not fill the log with tracebacks, nor have it repeat what was sent: a
header that cannot be parsed may hold a token. aiohttp answers such a client with 400 by itself and hangs up.
"""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError


class _OneLine(logging.Filter):
    """Turns aiohttp's traceback of a malformed request into one line of its kind."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg, record.args, record.exc_info = "bytes that are no HTTP: %s", (type(error).__name__,), None
            record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
        return True


def logger() -> logging.Logger:
    """For the server to log to."""
    made = logging.getLogger(__name__)
    if not any(isinstance(each, _OneLine) for each in made.filters):
        made.addFilter(_OneLine())
    return made
