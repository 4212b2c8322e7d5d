"""``llama-orch completion``: the shell completes commands, options, pools, models and tasks.

Decides that a file of somebody else's is not replaced, and that no start-up file of a shell is edited.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Annotated

import typer

from daemon_core.errors import EXIT_FAILURE, EXIT_USAGE, StartupError
from daemon_core.paths import home_dir
from llama_orch.commands.options import JsonOption
from llama_orch.completion.scripts import MARK, Shell, place, script
from llama_orch.output import Output


def completion(
    shell: Annotated[Shell | None, typer.Argument(help="Which shell (default: yours, by SHELL).")] = None,
    *,
    install: Annotated[bool, typer.Option("--install", help="Write it where the shell looks for it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print the completion script of a shell, or install it for you alone."""
    chosen, out = shell or _yours(), Output(as_json=as_json)
    if not install:
        out.piece(script(chosen))
        out.data({"shell": chosen, "script": script(chosen)})
        return
    there = place(chosen, PurePosixPath(home_dir(os.environ)), os.environ)
    path = Path(there.path)
    try:
        if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
            raise StartupError(f"{path} is there already, and is not ours", "move it away first")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script(chosen), encoding="utf-8")
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}", f"ls -ld {path.parent}", EXIT_FAILURE) from error
    out.line(f"wrote {path}; a new {chosen} completes llama-orch")
    if there.remark is not None:
        out.line(there.remark)
    out.data({"shell": chosen, "path": str(path), "remark": there.remark})


def _yours() -> Shell:
    name = Path(os.environ.get("SHELL", "")).name
    try:
        return Shell(name)
    except ValueError:
        text = f"there is no completion for {name!r}" if name else "SHELL does not say which shell is yours"
        raise StartupError(text, "llama-orch completion bash, zsh or fish", EXIT_USAGE) from None
