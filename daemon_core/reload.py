"""SIGHUP: read the configuration again, apply what is safe, and say what waits for the next start.

Decides that a file with which the daemon would not start changes nothing and shows in the unit's status line until a
good one was read, as does what waits for a restart: the command line goes by the file already. Decides that logging is
applied at once; what else is, its daemon says. Nothing that serves is touched because a file changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from contracts.config import Config
from daemon_core import config_file, logs
from daemon_core.config_change import needs_restart, taken_over
from daemon_core.entry import DaemonContext
from daemon_core.errors import ConfigFileError, StartupError

_log = logging.getLogger(__name__)

LOGGING = "logging"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Reloadable:
    """What of a changed file a daemon takes over while it runs; parts are named as in ``config_change``."""

    at_once: Collection[str] = ()
    """Besides ``logging``."""
    elsewhere: Collection[str] = ()
    """What this daemon does not use."""
    refuse: Callable[[Config], None] = lambda _config: None
    """Raises StartupError where the next start would, beyond what the file alone shows. Called in a thread."""
    apply: Callable[[Config], None] = lambda _config: None
    """Gets the configuration that runs from now on."""
    beside: tuple[Callable[[], None], ...] = ()
    """Called at every reload: for files that the configuration only names."""


async def follow_reloads(context: DaemonContext, name: str, what: Reloadable | None = None) -> None:
    """Serve SIGHUP until cancelled; ``name`` is the daemon's."""
    what = what or Reloadable()
    at_once = {LOGGING, *what.at_once}
    running = context.config
    heart = context.heartbeats.owner("reload")
    while True:
        with heart.resting():
            await context.reload.wait()
        context.reload.clear()
        context.notifier.reloading()
        trouble = ""
        try:
            read = await asyncio.to_thread(_read, context.config_path, what.refuse)
        except StartupError as error:
            _log.error("the configuration stays as it was: %s", error.render())
            trouble = context.redactor.text(f"the configuration was not reloaded: {_first(error)}")
        else:
            logs.setup(name, read.logging, context.redactor)
            later = needs_restart(running, read, at_once=at_once, elsewhere=what.elsewhere)
            running = taken_over(running, read, at_once)
            what.apply(running)
            _log.info("read %s again; %s", context.config_path, _waits(name, later))
            trouble = context.redactor.text(_in_short(later))
        for each in what.beside:
            each()
        context.notifier.trouble("configuration", trouble)
        context.notifier.ready()


def _read(path: Path, refuse: Callable[[Config], None]) -> Config:
    """What a start would begin with. Raises StartupError."""
    config = config_file.load(path)
    refuse(config)
    return config


def _first(error: StartupError) -> str:
    """What is wrong, or the first of it, in a line."""
    if isinstance(error, ConfigFileError):
        return error.problems[0].render().splitlines()[0]
    return error.message


def _in_short(changes: tuple[str, ...]) -> str:
    """For a line that also says how the daemon is."""
    if not changes:
        return ""
    more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
    return f"a restart is needed for {'; '.join(changes[:_SHOWN])}{more}"


def _waits(name: str, changes: tuple[str, ...]) -> str:
    if not changes:
        return "nothing waits for a restart"
    return f"these changes wait for a restart of {name}: {'; '.join(changes)}"
