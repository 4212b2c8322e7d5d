"""Log lines: fields and a sentence for the journal, JSON for machines, readable text on a terminal, secrets in none.

Decides how a line looks and where it goes. Redaction happens to the record, before any formatter: a formatter would
split or escape a secret into something that no pattern finds. Costs nothing where nothing is logged, and per token
nothing is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from datetime import UTC, datetime
from typing import TextIO

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.msgspec import MsgspecFormatter

from contracts import config
from daemon_core import journal
from daemon_core.journal import Journal
from daemon_core.journal_entry import ENGINE_SOURCE, TIME_MS, Field, encoded, field_name, prefixed, priority
from daemon_core.redaction import Redactor, names_a_secret

FORMAT_VARIABLE = "LLORCH_LOG_FORMAT"
"""``text`` or ``json``, where the configuration says ``auto``: whoever starts a daemon knows who reads its output."""

STDERR = 2

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STANDARD = frozenset({*RESERVED_ATTRS, "taskName"})
_EXTRA = "_extra"
"""Where a record keeps its extra fields once they were looked for."""


def setup(name: str, config: config.Logging, redactor: Redactor, stream: TextIO | None = None) -> None:
    """Send every log line of this process to ``stream`` (default: standard error), redacted.

    ``name`` is the program's; JSON lines carry it as ``service``. Fields given as ``extra=`` become members of a JSON
    line (``pool_id``, ``correlation_id``, ...) and ``key=value`` at the end of a readable one. Where standard error is
    the journal's, lines go there by themselves, and their fields are the journal's.
    """
    to_journal = stream is None and journal.reads(STDERR, os.environ)
    stream = stream or sys.stderr
    wanted = os.environ.get(FORMAT_VARIABLE, "auto") if config.format == "auto" else config.format
    handler: RedactingHandler
    if to_journal:
        handler = _in_use() or JournalHandler(name, stream, redactor)
        handler.setFormatter(_JsonFormatter(name) if wanted == "json" else logging.Formatter())
    else:
        readable = wanted == "text" or (wanted != "json" and stream.isatty())
        handler = RedactingHandler(stream, redactor)
        handler.setFormatter(_TextFormatter() if readable else _JsonFormatter(name))
    _install(handler)
    logging.getLogger().setLevel(config.level.upper())
    logging.captureWarnings(capture=True)


def _in_use() -> JournalHandler | None:
    """The way to the journal that there is already, with what waits in it."""
    for each in logging.getLogger().handlers:
        target = each
        if isinstance(each, Passing):
            each.flush()
            target = each.target
        if isinstance(target, JournalHandler):
            return target
    return None


def _install(handler: RedactingHandler) -> None:
    """Have a handler write the lines from now on, in place of the former one."""
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old, Passing):
            old.turn_to(handler)
            return
        if isinstance(old, RedactingHandler):
            root.removeHandler(old)
    root.addHandler(handler)


def complain(text: str, stream: TextIO | None = None) -> None:
    """Say on standard error why the program ends: in the journal an error, where nothing can be logged any more.

    Not as an entry of its own: the journal asks whose it is when it reads it, and the program is gone by then.
    """
    to_journal = stream is None and journal.reads(STDERR, os.environ)
    stream = stream or sys.stderr
    stream.write(prefixed(text, logging.ERROR) if to_journal else f"{text}\n")
    stream.flush()


class Passing(logging.Handler):
    """Passes records on to ``target``, which a later ``setup`` may replace."""

    def __init__(self, target: RedactingHandler) -> None:
        super().__init__()
        self.target = target

    def turn_to(self, target: RedactingHandler) -> None:
        """Pass what comes from now on to another one."""
        self.flush()
        self.target = target


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
        self.write(clean)

    def write(self, clean: logging.LogRecord) -> None:
        """Write a record without secrets."""
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
                extra[key] = self._redactor.member(key, value)
        vars(clean).update(extra)
        vars(clean)[_EXTRA] = extra
        return clean

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say that a record could not be written without showing it: logging's own report prints the arguments."""
        kind = sys.exc_info()[0]
        text = f"a log record of {record.name} could not be written: {kind.__name__ if kind else 'unknown'}\n"
        try:
            self.stream.write(text)
        except (OSError, ValueError):
            return  # nobody reads standard error any more


class JournalHandler(RedactingHandler):
    """Writes to the journal, as entries with fields; to ``stream`` where it cannot be reached."""

    def __init__(self, name: str, stream: TextIO, redactor: Redactor, address: str | None = None) -> None:
        super().__init__(stream, redactor)
        self._name = name
        self._journal = Journal(self._about_loss, address or journal.ADDRESS)

    def write(self, clean: logging.LogRecord) -> None:
        """See ``RedactingHandler``."""
        try:
            entry = encoded(_fields(self._name, clean, self.format(clean)))
        except Exception:  # noqa: BLE001 - a log call never breaks its caller; logging's own rule
            self.handleError(clean)
            return
        if not self._journal.send(entry):
            self._write_without(clean)

    def flush(self) -> None:
        """Wait for the journal, but not for long."""
        self._journal.flush()

    def close(self) -> None:
        """Write nothing any more."""
        self._journal.close()
        super().close()

    def _write_without(self, clean: logging.LogRecord) -> None:
        """Standard error is a socket to the same journal, which may not read: nobody waits for it either."""
        data = prefixed(self.format(clean), clean.levelno).encode(errors="backslashreplace")
        try:
            with socket.socket(fileno=os.dup(self.stream.fileno())) as plain:
                plain.sendall(data, socket.MSG_DONTWAIT)
        except (OSError, ValueError):
            self._journal.lose()

    def _about_loss(self, lines: int) -> bytes:
        text = f"{lines} log lines were lost: the journal took none for a while"
        return encoded(
            (
                ("MESSAGE", text),
                ("PRIORITY", str(priority(logging.WARNING))),
                ("SYSLOG_IDENTIFIER", self._name),
                ("LOGGER", __name__),
                (field_name("lost_lines"), str(lines)),
            )
        )


def _fields(name: str, record: logging.LogRecord, message: str) -> list[Field]:
    """The fields of an entry. Those that the journal adds itself (unit, pid, time, host) are not among them."""
    extra = _extra(record)
    of_engine = extra.get("source") == ENGINE_SOURCE
    fields = [
        ("MESSAGE", message),
        ("PRIORITY", str(priority(record.levelno))),
        ("SYSLOG_IDENTIFIER", f"{ENGINE_SOURCE}-{extra.get('pool_id')}" if of_engine else name),
        ("LOGGER", record.name),
        (TIME_MS, f"{record.created * 1000:.0f}"),
        ("CODE_FILE", record.pathname),
        ("CODE_LINE", str(record.lineno)),
        ("CODE_FUNC", record.funcName or ""),
    ]
    for key, value in extra.items():
        if isinstance(value, str):
            fields.append((field_name(key), value))
        elif isinstance(value, list | tuple):
            fields += [(field_name(key), str(each)) for each in value]
        elif value is not None:
            fields.append((field_name(key), str(value)))
    return fields


class _TextFormatter(logging.Formatter):
    """``12:30:01.250 INFO    pool_managerd.pool: gpu0 is ready  pool_id=gpu0``."""

    def __init__(self) -> None:
        super().__init__("{asctime}.{msecs:03.0f} {levelname:<7} {name}: {message}", "%H:%M:%S", style="{")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without exception and stack."""
        pairs = [f"{key}={value}" for key, value in _extra(record).items()]
        return "  ".join([super().formatMessage(record), *pairs])

    def format(self, record: logging.LogRecord) -> str:
        """The line as a terminal may have it: what an engine prints neither drives that nor looks like another line."""
        text = _CONTROL.sub(lambda found: ascii(found[0])[1:-1], super().format(record))
        return text.replace("\n", "\n    ")


class _JsonFormatter(MsgspecFormatter):
    """One JSON object a line: time (RFC 3339, UTC, milliseconds), level, logger, message, service, extra fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def add_fields(
        self,
        log_data: dict[str, object],
        record: logging.LogRecord,
        message_dict: dict[str, object],
    ) -> None:
        """Say which fields there are. The time stands first, where people look for it."""
        moment = datetime.fromtimestamp(record.created, tz=UTC)
        log_data["time"] = f"{moment.isoformat(timespec='milliseconds')[:-6]}Z"
        log_data["level"] = record.levelname.lower()
        log_data["logger"] = record.name
        log_data["message"] = record.message
        log_data["service"] = self._service
        log_data.update(_extra(record))
        for name, key in (("exception", "exc_info"), ("stack", "stack_info")):
            if key in message_dict:
                log_data[name] = message_dict[key]

    def jsonify_log_record(self, log_data: dict[str, object]) -> str:
        """Half a character of a file's name and a number of more than 64 bits are no JSON for msgspec."""
        try:
            return super().jsonify_log_record(log_data)
        except (UnicodeEncodeError, OverflowError):
            return json.dumps(log_data)


def _extra(record: logging.LogRecord) -> dict[str, object]:
    """The fields that the caller gave as ``extra=``."""
    kept: dict[str, object] | None = vars(record).get(_EXTRA)
    if kept is not None:
        return kept
    return {key: value for key, value in vars(record).items() if key not in _STANDARD and not key.startswith("_")}
