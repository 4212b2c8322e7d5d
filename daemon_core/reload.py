"""SIGHUP: read the configuration again, apply what is safe, and say what waits for the next start.

Decides that a broken file changes nothing and that only logging is applied at once. Nothing that serves is touched
because a file changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from daemon_core import config_file, logs
from daemon_core.config_change import needs_restart
from daemon_core.entry import DaemonContext
from daemon_core.errors import ConfigFileError

_log = logging.getLogger(__name__)


async def follow_reloads(context: DaemonContext, name: str, renew: Callable[[], None] | None = None) -> None:
    """Serve SIGHUP until cancelled; ``name`` is the daemon's.

    ``renew`` reads again what the configuration names, whether that itself can be read or not.
    """
    while True:
        await context.reload.wait()
        context.reload.clear()
        context.notifier.reloading()
        if renew is not None:
            renew()
        try:
            read = await asyncio.to_thread(config_file.load, context.config_path)
        except ConfigFileError as error:
            _log.error("the configuration stays as it was: %s", error.render())
        else:
            logs.setup(name, read.logging, context.redactor)
            _log.info("read %s again; %s", context.config_path, _waits(name, needs_restart(context.config, read)))
        context.notifier.ready()


def _waits(name: str, changes: tuple[str, ...]) -> str:
    if not changes:
        return "nothing waits for a restart"
    return f"these changes wait for a restart of {name}: {'; '.join(changes)}"
