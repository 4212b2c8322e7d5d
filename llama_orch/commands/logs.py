"""``llama-orch logs``: what the daemons and their engines have said, and say.

Decides where that is: in the user's journal, or, where ``llama-orch up`` runs the daemons or there is no journal, in
the files of the pools. How a line reads and in which colour is decided here as well.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.text import Text

from contracts.base import nearest
from contracts.config import Config
from contracts.config import Paths as NoPaths
from daemon_core import config_file
from daemon_core.errors import EXIT_USAGE, StartupError
from daemon_core.journal_entry import ENGINE_SOURCE
from daemon_core.paths import Paths, default_config_path
from llama_orch.commands.options import ConfigOption, UrlOption
from llama_orch.journal import pool_files, reader
from llama_orch.journal.line import LEVELS, Line
from llama_orch.journal.query import Wanted
from llama_orch.output import Output, clean
from llama_orch.reach import start_hint
from llama_orch.session import URL_VARIABLE

STYLES = {"critical": "bold red", "error": "red", "warning": "yellow", "debug": "dim"}
MANAGER_UNIT = "/pool-managerd.service"
PATIENCE_S = 2.0


def logs(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    pool: Annotated[str | None, typer.Option(metavar="POOL", help="Only lines about this pool.")] = None,
    task: Annotated[str | None, typer.Option(metavar="TASK", help="Only lines about this task.")] = None,
    correlation_id: Annotated[
        str | None, typer.Option("--correlation-id", metavar="ID", help="Only lines with this correlation id.")
    ] = None,
    engine: Annotated[bool, typer.Option("--engine", help="Only what the engines printed.")] = False,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only from then on: '10 min ago', today, '2026-11-30 12:00'.")
    ] = None,
    lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=0, metavar="N", help="At most so many of the newest lines.")
    ] = None,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object for each line.")] = False,
) -> None:
    """Show what the daemons and their engines say; exit status 1 when nothing fits."""
    environ = dict(os.environ)
    _stay_here(url or environ.get(URL_VARIABLE))
    out = Output(as_json=as_json)
    known = _configuration(config or default_config_path(environ), out, named=config is not None)
    wanted = Wanted(
        pool_id=pool,
        task_id=task,
        correlation_id=correlation_id,
        engine=engine,
        since=since,
        lines=lines,
        follow=follow,
    )
    show = _shower(out)
    shown = 0
    paths = Paths.resolve(known.paths if known else NoPaths(), environ)
    start = start_hint(configured=known is not None, environ=environ)
    with closing(_lines(wanted, known, paths, out, start)) as found:
        for line in found:
            show(line)
            shown += 1
    if shown == 0 and lines != 0:
        raise _nothing(wanted, start)


def _lines(wanted: Wanted, known: Config | None, paths: Paths, out: Output, start: str) -> Generator[Line, None, None]:
    files = pool_files.pools_of(paths.logs)
    pools = tuple(pool.id for pool in known.pools) if known else files
    if wanted.pool_id is not None and pools and wanted.pool_id not in {*pools, *files}:
        raise StartupError(f"there is no pool {wanted.pool_id!r}", nearest(wanted.pool_id, pools), EXIT_USAGE)
    by_hand = _by_hand(paths.socket)
    if not by_hand and reader.is_there():
        if wanted.follow and not reader.anything(wanted):
            out.note("nothing is logged yet; this waits for it, until Ctrl-C")
        return reader.read(wanted)
    if wanted.task_id is not None:
        raise StartupError(f"{_why(by_hand=by_hand)}; its files name no tasks", "use --correlation-id", EXIT_USAGE)
    if wanted.since is not None:
        raise StartupError(f"{_why(by_hand=by_hand)}; its files have no times", "use --lines", EXIT_USAGE)
    if not files:
        raise StartupError(f"{_why(by_hand=by_hand)}; but they have printed nothing yet", None if by_hand else start)
    out.note(_why(by_hand=by_hand))
    return pool_files.read(paths.logs, files if wanted.pool_id is None else (wanted.pool_id,), wanted)


def _why(*, by_hand: bool) -> str:
    """Why this is not the journal."""
    if by_hand:
        return "llama-orch up runs the daemons and shows what they say: here is what their engines print"
    return "there is no journalctl on PATH: here is what the engines print"


def _nothing(wanted: Wanted, start: str) -> StartupError:
    if wanted == Wanted(lines=wanted.lines, follow=wanted.follow):
        return StartupError("nothing is logged yet", start)
    return StartupError(f"there is no {wanted.what}", "llama-orch logs shows what there is")


def _stay_here(url: str | None) -> None:
    """Logs are files and journals of a machine. Raises StartupError where another one is meant."""
    host = urlsplit(url).hostname if url else None
    if host is None or host == "localhost":
        return
    try:
        if ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise StartupError(
        f"logs are read on the machine itself, and {host} is another one",
        f"ssh {host} llama-orch logs; for this machine leave --url and {URL_VARIABLE} out",
        EXIT_USAGE,
    )


def _configuration(path: Path, out: Output, *, named: bool) -> Config | None:
    """As far as it can be read: who looks for a mistake in it must not be stopped by that mistake."""
    if not path.exists() and not named:
        return None
    try:
        return config_file.load(path)
    except StartupError as error:
        if named and not path.exists():
            raise
        out.note(f"llama-orch: the configuration is not used: {error.message}")
        return None


def _by_hand(address: Path) -> bool:
    """Whether a pool manager runs that no service manager has started."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            asking.settimeout(PATIENCE_S)
            asking.connect(str(address))
            credentials = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            pid, _, _ = struct.unpack("3i", credentials)
            return MANAGER_UNIT not in Path("/proc", str(pid), "cgroup").read_text()
        except OSError:
            return False


def _shower(out: Output) -> Callable[[Line], None]:
    """How a line is shown: as JSON, as text, or in the colour of its level."""
    if out.as_json:
        return lambda line: out.document(line.as_object())
    if not out.is_terminal:
        return lambda line: out.line(_text(line))
    console = Console(file=sys.stdout, highlight=False, markup=False)

    def coloured(line: Line) -> None:
        text = Text(clean(_text(line)), style=STYLES.get(LEVELS[line.priority], ""))
        console.print(text, soft_wrap=True)

    return coloured


def _text(line: Line) -> str:
    """``Nov 30 12:30:01.250 WARNING engine gpu0: ...``; what follows in further lines is set in."""
    when = "" if line.time_ms is None else f"{_moment(line.time_ms)} {LEVELS[line.priority].upper():<8} "
    who = f"{line.source} {line.pool_id}" if line.source == ENGINE_SOURCE else line.source
    return f"{when}{who}: {line.message}".replace("\n", "\n    ")


def _moment(time_ms: int) -> str:
    """In the time of this machine."""
    moment = datetime.fromtimestamp(time_ms / 1000).astimezone()
    return f"{moment:%b %d %H:%M:%S}.{time_ms % 1000:03}"
