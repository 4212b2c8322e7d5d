"""``llama-orch models``: what models there are, where they came from, and what becomes of them.

Decides the names of the commands. They need no daemon: without one they work on this machine's catalog and cache.
"""

from __future__ import annotations

from collections.abc import Callable

import typer

from llama_orch.commands.models.changes import activate, retire, rm
from llama_orch.commands.models.listing import list_models, show
from llama_orch.commands.models.pull import pull
from llama_orch.commands.models.verify import verify

COMMANDS: dict[str, Callable[..., object]] = {
    "list": list_models,
    "show": show,
    "pull": pull,
    "verify": verify,
    "retire": retire,
    "activate": activate,
    "rm": rm,
}


def _bare(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_models()


def group() -> typer.Typer:
    """The commands as a group of their own."""
    app = typer.Typer(
        help="List, pull, verify, retire and remove models.",
        invoke_without_command=True,
        callback=_bare,
        rich_markup_mode=None,
    )
    for name, command in COMMANDS.items():
        app.command(name)(command)
    return app
