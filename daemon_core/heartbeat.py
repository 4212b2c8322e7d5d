"""Asks the owner tasks of a daemon for signs of life, and feeds systemd's watchdog while all of them give some.

Decides nothing: ``liveness`` judges. An owner says that it lives in each of its rounds, or answers when it is asked;
where it waits for something that may take any time, it says so, and only its end is noticed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CoroutineType
from typing import Any

from daemon_core.liveness import Ailing, Sign, ailing, held_up_s, turned_s
from daemon_core.notify import Notifier

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
ASYNCIO = Path(asyncio.__file__).parent
PATIENCE_S = 30.0
"""Where no watchdog says how long a daemon may be silent."""


class Heart:
    """One owner's signs of life."""

    def __init__(self, name: str, every_s: float, task: asyncio.Task[Any] | None) -> None:
        self.name = name
        self._every_s = every_s
        self._task = task
        self._silent_s = 0.0
        self._rests = 0

    def beat(self) -> None:
        """The owner does its work."""
        self._silent_s = 0.0

    def rests(self) -> None:
        """It waits for what may take any time, from now on."""
        self._rests += 1

    @contextmanager
    def resting(self) -> Iterator[None]:
        """For the length of the block it waits for what may take any time."""
        self.rests()
        try:
            yield
        finally:
            self._rests -= 1
            self.beat()

    def age(self, turned_s: float) -> None:
        """So much time has passed."""
        self._silent_s += turned_s

    @property
    def sign(self) -> Sign:
        """What is seen of it."""
        ended = self._task is not None and self._task.done()
        return Sign(
            name=self.name,
            ended=ended,
            resting=self._rests > 0,
            silent_s=self._silent_s,
            every_s=self._every_s,
            where="" if self._task is None or ended or self._silent_s <= self._every_s else _innermost(self._task),
        )


class Heartbeats:
    """The owners of a daemon."""

    def __init__(self) -> None:
        self._hearts: list[Heart] = []
        self._asked: list[tuple[Heart, Callable[[Callable[[], None]], None]]] = []
        self._unanswered: set[Heart] = set()
        self.failing = False
        """The daemon is on its way out because something in it has failed: whatever ends now is no cause of that."""

    @contextmanager
    def while_serving(self) -> Iterator[None]:
        """Wherever a daemon waits for its stop: an error that takes it out of the block has begun to end it."""
        try:
            yield
        except BaseException:
            self.failing = True
            raise

    def owner(self, name: str, every_s: float = LOOK_EVERY_S) -> Heart:
        """The task that calls this is an owner, and beats at least every ``every_s``, until the daemon stops."""
        heart = Heart(name, every_s, asyncio.current_task())
        self._hearts.append(heart)
        return heart

    def guard(self, task: asyncio.Task[Any]) -> None:
        """This task must not end before the daemon stops; how it goes is its own affair."""
        heart = Heart(task.get_name(), LOOK_EVERY_S, task)
        heart.rests()
        self._hearts.append(heart)

    def ask(self, name: str, question: Callable[[Callable[[], None]], None]) -> None:
        """An owner with an inbox: ``question`` puts the function that it gets into it, for the owner to call."""
        heart = Heart(name, LOOK_EVERY_S, None)
        self._hearts.append(heart)
        self._asked.append((heart, question))

    def look(self, elapsed_s: float, patience_s: float) -> tuple[Ailing, ...]:
        """Who does not do its work; ``elapsed_s`` since the last look. Asks those who are to be asked."""
        for heart in self._hearts:
            heart.age(turned_s(elapsed_s))
        found = ailing(tuple(heart.sign for heart in self._hearts), patience_s)
        for heart, question in self._asked:
            if heart not in self._unanswered:  # one question is enough for an owner that does not answer
                self._unanswered.add(heart)
                question(partial(self._answered, heart))
        return found

    def _answered(self, heart: Heart) -> None:
        self._unanswered.discard(heart)
        heart.beat()


async def feed_watchdog(
    heartbeats: Heartbeats, notifier: Notifier, interval_s: float | None, stopping: asyncio.Event
) -> None:
    """Look after the owners, and feed the watchdog while all of them live. On the way out they may end.

    Where the way out has begun with an error, it may take the watchdog's time and no more, and says itself what it was.
    ``interval_s`` is half of the watchdog's time; None where there is none: then what is wrong is only said.
    """
    loop = asyncio.get_running_loop()
    pause_s = LOOK_EVERY_S if interval_s is None else min(LOOK_EVERY_S, interval_s)
    patience_s = PATIENCE_S if interval_s is None else 2 * interval_s
    said: dict[str, str] = {}
    looked = loop.time()
    while True:
        now = loop.time()
        elapsed_s, looked = now - looked, now
        late_s = held_up_s(elapsed_s, pause_s)
        if late_s is not None:
            _log.warning("the event loop was held up for %.1f s: nothing was passed on meanwhile", late_s)
        failing = heartbeats.failing and not stopping.is_set()
        found = () if failing or stopping.is_set() else heartbeats.look(elapsed_s, patience_s)
        _tell(found, said, notifier, watched=interval_s is not None)
        if not found and not failing:
            notifier.watchdog()
        elif any(each.ended for each in found):
            notifier.watchdog_failed()  # it will not come back, so there is nothing to wait for
        await asyncio.sleep(pause_s)


def _tell(found: tuple[Ailing, ...], said: dict[str, str], notifier: Notifier, *, watched: bool) -> None:
    """Once for each owner that falls silent, and once where it is back."""
    follows = "the service manager starts this daemon again" if watched else "restart this daemon"
    for each in found:
        if each.name not in said:
            _log.error("%s: %s", each.text, follows, extra={"owner": each.name})
            notifier.trouble(each.name, f"{each.text}: {follows}")
    for name in said.keys() - {each.name for each in found}:
        _log.warning("%s shows life again", name, extra={"owner": name})
        notifier.trouble(name, "")
    said.clear()
    said.update({each.name: each.text for each in found})


def _innermost(task: asyncio.Task[Any]) -> str:
    """The line in which a task waits, beneath asyncio's own; empty where that cannot be told."""
    where = ""
    inner: object = task.get_coro()
    while isinstance(inner, CoroutineType):
        frame = inner.cr_frame
        if frame is not None and ASYNCIO not in Path(frame.f_code.co_filename).parents:
            where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} ({frame.f_code.co_name})"
        inner = inner.cr_await
    return where
