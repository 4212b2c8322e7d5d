"""``python -m bench.log_cost``: the CPU time of a log line to the journal, beside the same as JSON on standard error.

One process; the ways take turns in blocks of lines, and another process reads as the journal would. What is measured is
all CPU time of the process that logs: also that of the thread which sends what a busy journal did not take at once.
"""

from __future__ import annotations

import logging
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.console import Console
from rich.table import Table

from contracts.config import Logging
from daemon_core import logs
from daemon_core.redaction import Redactor

LINES = 400
BLOCKS = 40
TOKEN = "a-token-of-this-machine-0123456789"  # noqa: S105 - nobody's
EXTRA: dict[str, object] = {
    "task_id": "task-5138227fecda44e156d1d69b",
    "correlation_id": "8c678526-816c-4bf2-9729-1912a9ecc5c0",
    "identity": "token:3c28f2",
    "priority": "interactive",
    "engine": "llamacpp",
    "engine_version": "xllamacpp-2026.10.11549",
    "pool_id": "gpu0",
    "replica_id": "gpu0-0",
    "queue_position": 0,
    "predicted_start_ms": 12,
}
OF_ENGINE: dict[str, object] = {
    "pool_id": "gpu0",
    "source": "engine",
    "engine": "llamacpp",
    "correlation_ids": (EXTRA["correlation_id"],),
}
KINDS = (
    ("an admission", "task %s admitted at position %d, start predicted in %d ms", (EXTRA["task_id"], 0, 12), EXTRA),
    ("an engine's line", "%s", ("0.00.240.713 I slot print_timing: id  0 | task 2 | total time = 2.99 ms",), OF_ENGINE),
)


def _reader(end: socket.socket) -> BaseProcess:
    """Somebody takes everything that comes."""

    def take() -> None:
        while end.recv(1 << 16) != b"":
            pass

    process = get_context("fork").Process(target=take, daemon=True)
    process.start()
    return process


def _handlers(folder: Path) -> dict[str, logging.Handler]:
    """The ways of a line: by name."""
    journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    journal.bind(str(folder / "journal"))
    ours, theirs = socket.socketpair()
    stream = os.fdopen(os.dup(ours.fileno()), "w", buffering=1)
    for end in (journal, theirs):
        _reader(end)
        end.close()
    redactor = Redactor((TOKEN,))
    made: dict[str, logging.Handler] = {}
    logs.setup("orchestratord", Logging(format="json"), redactor, stream)
    made["JSON on standard error"] = logging.getLogger().handlers[-1]
    plain = logs.JournalHandler("orchestratord", stream, redactor, str(folder / "journal"))
    plain.setFormatter(logging.Formatter())
    made["journal"] = plain
    both = logs.JournalHandler("orchestratord", stream, redactor, str(folder / "journal"))
    both.setFormatter(made["JSON on standard error"].formatter)
    made["journal, JSON as message"] = both
    return made


def _block(handler: logging.Handler, text: str, arguments: tuple[object, ...], extra: Mapping[str, object]) -> float:
    """Microseconds for a line, until it is on its way."""
    root, log = logging.getLogger(), logging.getLogger("orchestratord.tasks")
    root.handlers[:] = [handler]
    began = time.process_time_ns()
    for _ in range(LINES):
        log.info(text, *arguments, extra=extra)
    handler.flush()
    return (time.process_time_ns() - began) / LINES / 1000


def main() -> None:
    """Measure, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        handlers = _handlers(Path(folder))
        first = next(iter(handlers))
        table = Table(box=None, pad_edge=False)
        for column in ("line", "way", "us", "ratio", "smallest", "largest"):
            table.add_column(column, justify="left" if column in {"line", "way"} else "right")
        for kind, text, arguments, extra in KINDS:
            rounds = [
                {name: _block(handler, text, arguments, extra) for name, handler in handlers.items()}
                for _ in range(BLOCKS)
            ][2:]
            for name in handlers:
                ratios = [each[name] / each[first] for each in rounds]
                took = statistics.median(each[name] for each in rounds)
                middle = statistics.median(ratios)
                table.add_row(kind, name, *(f"{x:.2f}" for x in (took, middle, min(ratios), max(ratios))))
        Console().print(table)


if __name__ == "__main__":
    main()
