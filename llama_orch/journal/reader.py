"""Reads the user's journal through ``journalctl``, which knows where journals are and who may read them.

Decides nothing: ``llama_orch.journal.query`` says what to ask for.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import closing

from daemon_core.errors import EXIT_USAGE, StartupError
from llama_orch.journal.line import Line, of_the_journal
from llama_orch.journal.query import Wanted, arguments, belongs

PROGRAM = "journalctl"
END_S = 2.0
SINCE_HINT = "as journalctl takes it: -10min, '10 min ago', today, '2026-11-30 12:00'"


def is_there() -> bool:
    """Whether there is a journal that can be asked."""
    return shutil.which(PROGRAM) is not None


def read(wanted: Wanted) -> Generator[Line, None, None]:
    """The lines, oldest first; without an end where they are followed. Blocks. Raises StartupError."""
    task = None if wanted.task_id is None else _correlation_id(wanted.task_id)
    with closing(_run(arguments(wanted, correlation_id=task))) as lines:
        for line in lines:
            if belongs(line, wanted):
                yield line


def anything(wanted: Wanted) -> bool:
    """Whether there is a line already. Blocks. Raises StartupError."""
    latest = Wanted(pool_id=wanted.pool_id, engine=wanted.engine, since=wanted.since, lines=1)
    with closing(_run(arguments(latest))) as lines:
        return next(lines, None) is not None


def _correlation_id(task_id: str) -> str | None:
    with closing(_run(arguments(Wanted(task_id=task_id, lines=1)))) as lines:
        return next((line.correlation_ids[0] for line in lines if line.correlation_ids), None)


def _run(options: Sequence[str]) -> Generator[Line, None, None]:
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([PROGRAM, *options], stdout=subprocess.PIPE, stderr=errors)
        try:
            if process.stdout is None:  # pragma: no cover - it was asked for
                return
            with process.stdout as output:
                for data in output:
                    if (line := of_the_journal(data)) is not None:
                        yield line
            process.wait()
        finally:
            _end(process)
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()
    if process.returncode != 0:
        _refuse(process.returncode, said)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Whoever reads no more leaves nobody behind."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _refuse(status: int, said: str) -> None:
    text = said.splitlines()[-1] if said else f"it ended with status {status} and said nothing"
    if "parse timestamp" in text:
        raise StartupError(f"--since: {text}", SINCE_HINT, EXIT_USAGE)
    hint = "try: journalctl --user -u pool-managerd; journals of users are kept where /var/log/journal is a directory"
    raise StartupError(f"the journal cannot be read: {text}", hint)
