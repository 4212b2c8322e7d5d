"""What to ask the journal for.

Decides which entries are wanted, in the journal's own terms: matches of one field are alternatives, those of different
fields must all hold, and ``+`` stands between whole groups. Values in, values out.
"""

from __future__ import annotations

from contracts.base import Message
from daemon_core.journal_entry import CORRELATION_ID, ENGINE_SOURCE, POOL, SOURCE, TASK_ID
from llama_orch.journal.line import Line

DAEMONS = ("orchestratord", "pool-managerd")
UNITS = (*(f"{name}.service" for name in DAEMONS), "llama-orch-doctor.service", "llama-orch.target")
USUAL_LINES = 100
"""Where nothing else bounds what is shown."""


class Wanted(Message, frozen=True, kw_only=True):
    """What somebody wants to read."""

    pool_id: str | None = None
    task_id: str | None = None
    correlation_id: str | None = None
    engine: bool = False
    """Only what engines printed."""
    since: str | None = None
    lines: int | None = None
    follow: bool = False

    @property
    def last(self) -> int | None:
        """How many of the newest lines, at most; None for all of them."""
        if self.lines is not None:
            return self.lines
        narrow = self.since is not None or self.task_id is not None or self.correlation_id is not None
        return None if narrow else USUAL_LINES

    @property
    def what(self) -> str:
        """In words, for who finds nothing."""
        words = [
            "of the engines" if self.engine else "",
            f"of pool {self.pool_id}" if self.pool_id is not None else "",
            f"about task {self.task_id}" if self.task_id is not None else "",
            f"with correlation id {self.correlation_id}" if self.correlation_id is not None else "",
            f"since {self.since}" if self.since is not None else "",
        ]
        return " ".join(["line", *filter(None, words)])


def arguments(wanted: Wanted, *, correlation_id: str | None = None) -> list[str]:
    """Of ``journalctl``. ``correlation_id`` is that of the wanted task: an engine's lines carry no other name of it."""
    options = ["--quiet", "--no-pager", "--all", "--output=json", *(f"--user-unit={unit}" for unit in UNITS)]
    if wanted.since is not None:
        options.append(f"--since={wanted.since}")
    options.append(f"--lines={'all' if wanted.last is None else wanted.last}")
    if wanted.follow:
        options.append("--follow")
    common = [] if wanted.pool_id is None else [f"{POOL}={wanted.pool_id}"]
    common += [f"{SOURCE}={ENGINE_SOURCE}"] if wanted.engine else []
    if wanted.correlation_id is not None:
        common.append(f"{CORRELATION_ID}={wanted.correlation_id}")
    if wanted.task_id is None:
        return [*options, *common]
    matches = [*common, f"{TASK_ID}={wanted.task_id}"]
    if correlation_id is not None:
        matches += ["+", *common, f"{CORRELATION_ID}={correlation_id}"]
    return [*options, *matches]


def belongs(line: Line, wanted: Wanted) -> bool:
    """Whether a line that the journal found is wanted: tasks may share a correlation id, and are not each other."""
    return wanted.task_id is None or line.task_id in {None, wanted.task_id}
