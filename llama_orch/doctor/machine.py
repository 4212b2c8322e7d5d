"""The machine that is examined: its files, its programs, each asked once and for no longer than a few seconds.

Decides nothing. ``root`` is where the file system begins, so that a test shows another machine. What was found out
lives as long as one examination.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar, cast

from catalog_core.engines import FsEngineCatalog
from contracts.config import Config
from daemon_core import config_file
from daemon_core.errors import StartupError
from daemon_core.paths import Paths
from engine_provisioner.host import CommandError, CommandResult, Host
from llama_orch.doctor.needs import Needs, needs_of
from llama_orch.session import URL_VARIABLE

_T = TypeVar("_T")
COMMAND_S = 5.0
"""How long a program may take to answer. One that hangs is ended then."""
TEXT_BYTES = 4 * 1024 * 1024


class Machine:
    """What the checks look at. ``uid`` is for tests; left out it is that of this process."""

    def __init__(
        self,
        *,
        config_path: Path,
        url: str | None,
        environ: Mapping[str, str],
        root: Path = Path("/"),
        uid: int | None = None,
    ) -> None:
        self.config_path = config_path
        self.url = url
        self.environ = environ
        self.root = root
        self.uid = os.geteuid() if uid is None else uid
        self.config: Config | None = None
        """None where the file cannot be used; ``config_error`` says why."""
        self.config_error: StartupError | None = None
        self.paths: Paths | None = None
        self.asks: str | None = None
        """The URL of another machine's daemon, where this one has no configuration of its own: it is a client."""
        address = url or environ.get(URL_VARIABLE)
        if address and not config_path.exists():
            self.asks = address
            return
        try:
            self.config = config_file.load(config_path)
            self.paths = Paths.resolve(self.config.paths, environ)
        except StartupError as error:
            self.config, self.config_error = None, error

    @property
    def needs(self) -> Needs:
        """What the configuration needs."""
        return needs_of(self.config, self.asks)

    @property
    def user(self) -> str:
        """The name of this user; the number where the system knows none, as in some containers."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)

    def file(self, path: str) -> Path:
        """A path of this machine."""
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str:
        """What stands in a file; empty where it cannot be read."""
        try:
            with self.file(path).open("rb") as file:
                return file.read(TEXT_BYTES).decode(errors="replace")
        except OSError:
            return ""

    @property
    def host(self) -> Host:
        """The machine as providers see it. Its GPUs are to be put in by whoever has asked for them."""
        cache = self.paths.cache if self.paths else Path("/nonexistent")
        catalog = self.paths.catalog if self.paths else Path("/nonexistent")
        host = Host(
            environ=self.environ,
            catalog=FsEngineCatalog(catalog),
            cache=cache,
            os_release=self.file("/etc/os-release"),
        )
        return host if self.config is None else _with_policy(host, self.config)

    @property
    def distribution(self) -> Mapping[str, str]:
        """The fields of os-release."""
        return self.host.distribution()

    @property
    def in_container(self) -> bool:
        """Whether this is the inside of a container."""
        marks = (self.file("/run/.containerenv"), self.file("/.dockerenv"))
        return bool(self.environ.get("container")) or any(mark.exists() for mark in marks)

    def which(self, name: str) -> str | None:
        """A program on PATH."""
        return shutil.which(name, path=self.environ.get("PATH", os.defpath))

    async def run(self, *argv: str, timeout_s: float = COMMAND_S) -> CommandResult | None:
        """What a program answers; None where it is not there or takes too long, in which case it is ended."""
        try:
            return await self.host.run(argv, timeout_s=timeout_s, env={"LC_ALL": "C"})
        except CommandError:
            return None


class Look:
    """One examination of a machine: what several checks want to know is found out once."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._known: dict[str, asyncio.Task[Any]] = {}

    async def once(self, name: str, find: Callable[[], Awaitable[_T]]) -> _T:
        """What ``find`` answers the first time it is asked under this name."""
        if name not in self._known:
            self._known[name] = asyncio.get_running_loop().create_task(_of(find()), name=f"doctor: {name}")
        # The check that asked first may run out of time; others still want to know.
        return cast("_T", await asyncio.shield(self._known[name]))

    async def close(self) -> None:
        """End what nobody waits for any more."""
        for task in self._known.values():
            task.cancel()
        await asyncio.gather(*self._known.values(), return_exceptions=True)


class Unwaited(ThreadPoolExecutor):
    """Threads that nobody waits for: one that hangs in a driver or on a dead disk must not keep the program alive."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401 - any function
        """Run it in a thread of its own."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        Thread(target=_fulfil, args=(future, fn, args, kwargs), name="doctor", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - its parent's signature
        """Nothing is waited for."""


def with_home(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment with a HOME, also for a user that the system has no entry for: then it is the root directory."""
    found = dict(environ)
    if not found.get("HOME", "").startswith("/"):
        try:
            found["HOME"] = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            found["HOME"] = "/"
    return found


def owner(path: Path) -> int | None:
    """Whose a file is; None where there is none."""
    with suppress(OSError):
        return path.stat().st_uid
    return None


def _fulfil(future: Future[Any], fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
        future.set_exception(error)
    else:
        future.set_result(result)


async def _of(answer: Awaitable[_T]) -> _T:
    return await answer


def _with_policy(host: Host, config: Config) -> Host:
    return Host(
        environ=host.environ, catalog=host.catalog, cache=host.cache, os_release=host.os_release, policy=config.policy
    )
