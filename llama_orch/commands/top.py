"""``llama-orch top``: GPUs, pools and streams, live.

Decides between the live view and one look: a pipe, a dumb terminal, ``--once`` and ``--json`` get one look.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer
from rich.console import Console

from llama_orch.commands.options import ConfigOption, JsonOption, UrlOption
from llama_orch.output import Output
from llama_orch.session import Session, find_session
from llama_orch.top.live import Watcher, ask
from llama_orch.top.screen import plain
from llama_orch.top.snapshot import Snapshot


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="One look, and the end.")] = False,
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=0.2, max=3600, help="How often it looks.")] = 1.0,
    url: UrlOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> int:
    """Watch GPUs, pools, queues and streams; q ends it. In a pipe: one look."""
    daemon, out, console = find_session(config, url), Output(as_json=as_json), Console(highlight=False)
    if not (once or as_json) and sys.stdout.isatty() and not console.is_dumb_terminal:
        return asyncio.run(Watcher(daemon, console, interval).run())
    shown = asyncio.run(_look(daemon))
    out.data(shown)
    for line in plain(shown):
        out.line(line)
    if not shown.managed:
        out.note("pool-managerd cannot be reached: these are the last known states")
    return 0


async def _look(daemon: Session) -> Snapshot:
    async with daemon.client() as client:
        return await ask(client)
