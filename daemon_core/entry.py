"""How a daemon of llama-orch begins and ends.

Decides the command line both daemons share, the order of the first steps, what each signal means and the exit status.
Never decides when a daemon is ready or what it drains: ``serve`` does, and returns when it has stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from contracts.config import Config
from daemon_core import config_file, logs
from daemon_core.errors import EXIT_FAILURE, StartupError
from daemon_core.heartbeat import Heartbeats, feed_watchdog
from daemon_core.notify import Notifier, watchdog_interval_s
from daemon_core.paths import Paths, default_config_path
from daemon_core.redaction import Redactor, secrets_of
from daemon_core.token import VARIABLE, find_token
from daemon_core.version import version

_log = logging.getLogger(__name__)

STDERR = 2
THREADS = 64
"""For work that blocks. asyncio would give as many as there are processors and a few: with some models that are hashed,
or a driver that does not answer, nothing else would have its turn, not even the end of an engine."""


@dataclass(frozen=True, kw_only=True)
class DaemonContext:
    """What a daemon gets from its host."""

    config: Config
    config_path: Path
    paths: Paths
    redactor: Redactor
    notifier: Notifier
    environ: Mapping[str, str]
    stopping: asyncio.Event
    """Set by SIGTERM, SIGINT and SIGUSR2: drain and return."""
    returning: asyncio.Event
    """Set before ``stopping`` by SIGUSR2, the service manager's signal for a restart: the next start follows at once,
    and what it can take over may go on."""
    reload: asyncio.Event
    """Set by SIGHUP; whoever acts on it clears it."""
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by a second signal to stop: end in order, but at once, what has not ended. A third one cancels ``serve``."""
    heartbeats: Heartbeats = field(default_factory=Heartbeats)
    """Where the owner tasks of the daemon show that they live."""


Serve = Callable[[DaemonContext], Awaitable[None]]


def run_daemon(name: str, argv: Sequence[str] | None, serve: Serve) -> int:
    """Run a daemon until it is stopped; the answer is its exit status.

    0 after a signal, 1 or 78 for a StartupError (one line and a hint, no traceback), 1 for a bug (logged with its
    traceback). ``argv`` is the command line without the program's name; None takes this process's own. With
    ``--check-config`` it says what is wrong with the configuration, and runs nothing.
    """
    faulthandler.enable(file=STDERR)  # the watchdog ends a daemon that hangs by SIGABRT: the log shows where it hung
    environ = dict(os.environ)
    options = _parse(name, argv, environ)
    redactor = Redactor((environ.get(VARIABLE, ""),))
    # Logs, models, prompts and sockets are this user's alone, also where no unit says so.
    os.umask(0o077)
    notifier = Notifier(environ)
    try:
        config = config_file.load(options.config)
        paths = Paths.resolve(config.paths, environ)
        if options.check_config:
            return 0
        _register_secrets(config, options.config, environ, redactor)
        logs.setup(name, config.logging, redactor)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            context = DaemonContext(
                config=config,
                config_path=options.config,
                paths=paths,
                redactor=redactor,
                notifier=notifier,
                environ=environ,
                stopping=asyncio.Event(),
                returning=asyncio.Event(),
                reload=asyncio.Event(),
            )
            return runner.run(_run(name, context, serve))
    except StartupError as error:
        return _refuse(name, error, redactor)
    finally:
        notifier.close()


def _register_secrets(config: Config, path: Path, environ: Mapping[str, str], redactor: Redactor) -> None:
    """Whatever a daemon was given, it may meet again: in a reference, in an error, in what an engine prints."""
    for known in (environ, *(pool.env for pool in config.pools)):
        for value in secrets_of(known):
            redactor.register(value)
    with suppress(StartupError):  # whoever needs the token says what is wrong with it
        token = find_token(config.auth, environ, path.parent)
        redactor.register(token.value if token is not None else "")


async def _run(name: str, context: DaemonContext, serve: Serve) -> int:
    """Serve with the signals and the watchdog attached."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="work"))
    failure: BaseExceptionGroup[BaseException] | None = None
    main: asyncio.Task[None] | None = None
    try:
        async with asyncio.TaskGroup() as group:
            interval_s = watchdog_interval_s(context.environ)
            feeding = feed_watchdog(context.heartbeats, context.notifier, interval_s, context.stopping)
            watchdog = group.create_task(feeding, name="watchdog")
            main = group.create_task(_as_coroutine(serve, context), name=name)
            _attach_signals(context, main)
            await asyncio.wait([main])
            watchdog.cancel()
    except* Exception as caught:  # noqa: BLE001 - the outermost place: a bug ends in a log line, not in a bare traceback
        failure = caught
    if failure is not None:
        return _report(name, first_leaf(failure), context.redactor)
    if main is not None and main.cancelled():
        _log.warning("%s was told to stop once more and did not finish draining", name)
        return EXIT_FAILURE
    return 0


async def _as_coroutine(serve: Serve, context: DaemonContext) -> None:
    await serve(context)


def _attach_signals(context: DaemonContext, main: asyncio.Task[None]) -> None:
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if context.hurry.is_set():
            main.cancel()
            return
        if context.stopping.is_set():
            _log.warning("%s: stopping without waiting any longer", number.name)
            context.hurry.set()
            return
        if number is signal.SIGUSR2:
            context.returning.set()
        _log.info("%s: stopping%s", number.name, ", to be started again" if context.returning.is_set() else "")
        context.notifier.stopping()
        context.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, context.reload.set)


def first_leaf(group: BaseExceptionGroup[BaseException]) -> Exception:
    """The exception at the root of a group of groups: the first that happened."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


def _report(name: str, error: Exception, redactor: Redactor) -> int:
    """Tell why a daemon ends: in a line where the operator can mend it, with its traceback where only we can."""
    if isinstance(error, StartupError):
        return _refuse(name, error, redactor)
    _log.critical("%s ends because of a bug: %s", name, error, exc_info=error)
    return EXIT_FAILURE


def _refuse(name: str, error: StartupError, redactor: Redactor) -> int:
    """Tell the operator, on standard error, and give the exit status."""
    logs.complain(redactor.text(f"{name}: {error.render()}"))
    return error.exit_code


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The loop of uvloop where the operator installed it, asyncio's own loop otherwise."""
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _Options(argparse.Namespace):
    config: Path
    check_config: bool


def _parse(name: str, argv: Sequence[str] | None, environ: Mapping[str, str]) -> _Options:
    parser = argparse.ArgumentParser(prog=name, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{name} {version()}")
    default = default_config_path(environ)
    parser.add_argument(
        "--config", type=Path, default=default, metavar="PATH", help=f"the configuration file (default: {default})"
    )
    parser.add_argument("--check-config", action="store_true", help="say what is wrong with it, and run nothing")
    return parser.parse_args(argv, namespace=_Options())
