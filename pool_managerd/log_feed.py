"""What the engines say, on its way to those who want to read along.

Decides whose work a line may be about, and how many lines a reader gets: so many a second and no more, with a count of
what was left out, so that an engine that floods its log floods nobody else. Every line is redacted before it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from contracts.rpc import MAX_JOBS, LogLine, Method, notification

LINES_PER_S = 200.0
BURST_LINES = 500
MAX_SHOWN_CHARS = 2_048
"""Of a line; the pool's file has more of it."""
MAX_ID_CHARS = 128
MAX_SHOWN_IDS = 4
"""Of the jobs behind one line of a file."""

HOLD_S = 0.02
"""How long a line waits for the news of its job: a short job is over before that is here."""

Listener = Callable[[bytes], None]


class LogFeed:
    """The lines of every engine, and who reads along.

    ``now`` is a clock in seconds; ``later`` calls something after so many of them.
    """

    def __init__(self, now: Callable[[], float], later: Callable[[float, Callable[[], None]], object]) -> None:
        self._now = now
        self._later = later
        self._jobs: dict[str, tuple[str, ...]] = {}
        self._readers: dict[int, _Reader] = {}
        self._next = 0

    @property
    def readers(self) -> int:
        """How many read along right now."""
        return len(self._readers)

    def later(self, write: Callable[[], None]) -> None:
        """Write lines when it is surely known whose work they are about."""
        self._later(HOLD_S, write)

    def works_for(self, pool_id: str, correlation_ids: Iterable[str]) -> None:
        """From now on a pool's engine works for these jobs."""
        self._jobs[pool_id] = tuple(each[:MAX_ID_CHARS] for each in correlation_ids)[:MAX_JOBS]

    def jobs(self, pool_id: str) -> tuple[str, ...]:
        """The jobs that a pool's engine works for."""
        return self._jobs.get(pool_id, ())

    def said(self, pool_id: str, line: str) -> None:
        """An engine of a pool has said this."""
        for reader in tuple(self._readers.values()):
            reader.take(pool_id, line, self.jobs(pool_id), self._now())

    def follow(self, pool_id: str | None, listener: Listener) -> Callable[[], None]:
        """Send each new line of one pool, or of all, as a notification; the answer is how to end that."""
        self._next += 1
        number = self._next
        self._readers[number] = _Reader(pool_id, listener, self._now())

        def unfollow() -> None:
            self._readers.pop(number, None)

        return unfollow


class _Reader:
    """One who reads along."""

    def __init__(self, pool_id: str | None, listener: Listener, now: float) -> None:
        self._pool_id = pool_id
        self._listener = listener
        self._room = float(BURST_LINES)
        self._since = now
        self._left_out = 0

    def take(self, pool_id: str, line: str, jobs: tuple[str, ...], now: float) -> None:
        """One line, where it is wanted and there is room."""
        if self._pool_id not in {None, pool_id}:
            return
        self._room = min(BURST_LINES, self._room + max(0.0, now - self._since) * LINES_PER_S)
        self._since = now
        if self._room < 1.0:
            self._left_out += 1
            return
        self._room -= 1.0
        text = line if len(line) <= MAX_SHOWN_CHARS else f"{line[:MAX_SHOWN_CHARS]} [cut]"
        message = LogLine(pool_id=pool_id, line=text, correlation_ids=jobs, left_out=self._left_out)
        self._left_out = 0
        self._listener(notification(Method.POOL_LOG, message))


def marked(line: str, jobs: tuple[str, ...]) -> str:
    """A line as a file has it, with the jobs behind it."""
    if not jobs:
        return line
    more = f",+{len(jobs) - MAX_SHOWN_IDS}" if len(jobs) > MAX_SHOWN_IDS else ""
    return f"{line}  correlation_ids={','.join(jobs[:MAX_SHOWN_IDS])}{more}"
