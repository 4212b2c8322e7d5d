"""What the commands about models have in common: how models are named, completed and asked about.

Decides the spelling only.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, TypeVar

import typer

from daemon_core.errors import StartupError
from llama_orch.errors import ApiError
from llama_orch.models.find import find_shelf
from llama_orch.output import Output
from llama_orch.progress import Shown, Unseen, shown

T = TypeVar("T")
ENDING = (signal.SIGTERM, signal.SIGHUP)


def complete(incomplete: str) -> Iterator[str]:
    """The ids that begin so, for the shell; none where they cannot be had."""
    try:
        known = asyncio.run(find_shelf(None, None).stock()).models
    except (ApiError, StartupError, OSError):
        return
    yield from (each.model.id for each in known if each.model.id.startswith(incomplete))


IdArgument = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="As `llama-orch models list` shows them.", autocompletion=complete),
]


def run(work: Coroutine[None, None, T]) -> T:
    """Run to the end. Ctrl-C, SIGTERM and a closed terminal cancel the work; raises KeyboardInterrupt then."""

    async def main() -> T:
        task = asyncio.current_task()
        for number in ENDING:
            # One that is ignored (nohup) stays ignored.
            if task is not None and signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


def watched(out: Output) -> AbstractContextManager[Shown]:
    """Where progress goes: to standard error, and with ``--json`` only where a person reads it."""
    return nullcontext(Unseen()) if out.as_json and not out.notes_are_read else shown(sys.stderr)


def unique(names: Iterable[str]) -> list[str]:
    """Each name once, in the order in which they were given."""
    return list(dict.fromkeys(names))
