"""Log lines: JSON for machines, readable text on a terminal, secrets in neither.

Decides how a line looks. Redaction happens to the record, before any formatter: a formatter would split or escape a
secret into something that no pattern finds. Costs nothing where nothing is logged, and per token nothing is.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import UTC, datetime
from typing import TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from contracts import config
from daemon_core.redaction import Redactor, names_a_secret

FORMAT_VARIABLE = "LLORCH_LOG_FORMAT"
"""``text`` or ``json``, where the configuration says ``auto``: whoever starts a daemon knows who reads its output."""

_STANDARD = frozenset({*RESERVED_ATTRS, "taskName"})


def setup(name: str, config: config.Logging, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Send every log line of this process to ``stream`` (default: standard error), redacted.

    ``name`` is the program's; JSON lines carry it as ``service``. Fields given as ``extra=`` become members of a JSON
    line (``pool_id``, ``correlation_id``, ...) and ``key=value`` at the end of a readable one.
    """
    stream = stream or sys.stderr
    wanted = os.environ.get(FORMAT_VARIABLE, "auto") if config.format == "auto" else config.format
    readable = wanted == "text" or (wanted != "json" and stream.isatty())
    handler = RedactingHandler(stream, redactor)
    handler.setFormatter(_TextFormatter() if readable else _json_formatter(name))
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, RedactingHandler):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(config.level.upper())
    logging.captureWarnings(capture=True)


class RedactingHandler(logging.StreamHandler[TextIO]):
    """Writes a redacted copy of each record; other handlers see the record as it was."""

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        super().__init__(stream)
        self._redactor = redactor

    def emit(self, record: logging.LogRecord) -> None:
        """Redact the message with its arguments, the extra fields, the exception's text and the stack."""
        try:
            clean = self._redacted(record)
        except Exception:  # noqa: BLE001 - a log call never breaks its caller; logging's own rule
            self.handleError(record)
            return
        super().emit(clean)

    def _redacted(self, record: logging.LogRecord) -> logging.LogRecord:
        clean = logging.LogRecord.__new__(type(record))
        vars(clean).update(vars(record))
        message, extra = record.getMessage(), _extra(record)
        texts = [value for value in extra.values() if isinstance(value, str)]
        harmless = self._redactor.harmless("\n".join((message, *texts)))
        clean.msg, clean.args = message if harmless else self._redactor.text(message), None
        if record.exc_info:
            clean.exc_text = logging.Formatter().formatException(record.exc_info)
        # Without exc_info both formatters take the text that is there.
        clean.exc_info = None
        clean.exc_text = self._redactor.text(clean.exc_text) if clean.exc_text else None
        clean.stack_info = self._redactor.text(record.stack_info) if record.stack_info else None
        for key, value in extra.items():
            if not (harmless and isinstance(value, str)) or names_a_secret(key):
                setattr(clean, key, self._redactor.member(key, value))
        return clean

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say that a record could not be written without showing it: logging's own report prints the arguments."""
        kind = sys.exc_info()[0]
        text = f"a log record of {record.name} could not be written: {kind.__name__ if kind else 'unknown'}\n"
        try:
            self.stream.write(text)
        except (OSError, ValueError):
            return  # nobody reads standard error any more


class _TextFormatter(logging.Formatter):
    """``12:30:01.250 INFO    pool_managerd.pool: gpu0 is ready  pool_id=gpu0``."""

    def __init__(self) -> None:
        super().__init__("{asctime}.{msecs:03.0f} {levelname:<7} {name}: {message}", "%H:%M:%S", style="{")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without exception and stack."""
        pairs = [f"{key}={value}" for key, value in _extra(record).items()]
        return "  ".join([super().formatMessage(record), *pairs])


def _json_formatter(name: str) -> JsonFormatter:
    return _JsonFormatter(
        ["levelname", "name", "message"],
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception", "stack_info": "stack"},
        static_fields={"service": name},
        reserved_attrs=sorted(_STANDARD),
        json_ensure_ascii=False,
    )


class _JsonFormatter(JsonFormatter):
    """One JSON object a line: time (RFC 3339, UTC, milliseconds), level, logger, message, service, extra fields."""

    def add_fields(
        self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
    ) -> None:
        """Put the time first, where people look for it."""
        moment = datetime.fromtimestamp(record.created, tz=UTC)
        log_data["time"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        super().add_fields(log_data, record, message_dict)
        log_data["level"] = record.levelname.lower()


def _extra(record: logging.LogRecord) -> dict[str, object]:
    """The fields that the caller gave as ``extra=``."""
    return {key: value for key, value in vars(record).items() if key not in _STANDARD and not key.startswith("_")}
