"""The program ``llama-orch``: its commands, and what its exit status means.

Decides the status: 0 done, 1 failed, 2 wrong usage, 75 try again, 78 configuration. A mistake that the operator can
mend is one line and a hint; no traceback, unless LLORCH_DEBUG is set.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, NamedTuple, TextIO

import typer

from daemon_core.errors import EXIT_FAILURE, EXIT_USAGE, StartupError
from llama_orch.commands.reaching import Command as Parser
from llama_orch.commands.reaching import reaching
from llama_orch.errors import EXIT_INTERRUPTED, ApiError
from llama_orch.output import Output


class Command(NamedTuple):
    """Where a command is, and what it is for. Only the one that is asked for is loaded."""

    module: str
    summary: str
    """Short enough for one line of the help."""
    is_group: bool = False


COMMANDS: dict[str, Command] = {
    "init": Command("llama_orch.commands.init", "Write the first configuration, and a token"),
    "doctor": Command("llama_orch.commands.doctor", "Find what is wrong here, and what mends it"),
    "plan": Command("engine_provisioner.cli", "Print what ensure would do"),
    "preflight": Command("engine_provisioner.cli", "Find all that is in the way of the engines"),
    "ensure": Command("engine_provisioner.cli", "Prepare the engines: build, pull, fetch"),
    "up": Command("llama_orch.commands.up", "Start both daemons in the foreground"),
    "units": Command("llama_orch.commands.units", "Run the daemons as services of this user", is_group=True),
    "run": Command("llama_orch.commands.run", "Ask a model and stream the answer"),
    "replay": Command("llama_orch.commands.replay", "Ask a recorded request again, and compare"),
    "tasks": Command("llama_orch.commands.tasks", "List recent tasks, newest first"),
    "cancel": Command("llama_orch.commands.cancel", "Cancel tasks"),
    "top": Command("llama_orch.commands.top", "Watch GPUs, pools, queues and streams"),
    "pools": Command("llama_orch.commands.pools", "Show every pool: state, engine, model, load"),
    "drain": Command("llama_orch.commands.drain", "Let a pool finish, then stop its engine"),
    "reload": Command("llama_orch.commands.reload", "Give a pool another model, or start it again"),
    "models": Command("llama_orch.commands.models", "List, pull, verify, retire, remove models", is_group=True),
    "sessions": Command("llama_orch.commands.sessions", "Show and end sessions", is_group=True),
    "receipts": Command("llama_orch.commands.receipts", "Show, export and verify receipts", is_group=True),
    "proof": Command("llama_orch.commands.proof", "Show how an answer came about, in one file", is_group=True),
    "logs": Command("llama_orch.commands.logs", "Show what daemons and engines say"),
    "token": Command("llama_orch.commands.token", "Say where the API token comes from"),
    "completion": Command("llama_orch.commands.completion", "Have the shell complete commands and names"),
    "version": Command("llama_orch.commands.version", "Show the version of this program"),
}
"""In the order of the help. A command is the function of its name in its module, a group the module's ``group()``."""
HELP = "Local LLM engines on your own NVIDIA GPUs: queue, stream, supervise, provision."
DEBUG_VARIABLE = "LLORCH_DEBUG"
COMPLETE = "__complete"
"""What the scripts of ``llama-orch completion`` call this program with; no command of people's."""


def build_app(wanted: str | None = None) -> typer.Typer:
    """The command line parser. Commands other than ``wanted`` are there by name and summary alone."""
    app = typer.Typer(
        name="llama-orch",
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_root)
    for name, command in COMMANDS.items():
        if name != wanted:
            app.command(name, short_help=command.summary)(_not_loaded)
        elif command.is_group:
            app.add_typer(import_module(command.module).group(), name=name, short_help=command.summary)
        else:
            app.command(name, short_help=command.summary)(getattr(import_module(command.module), name))
    return app


def _not_loaded() -> None:
    raise AssertionError("a command that was not asked for")


def build_command(wanted: str | None = None) -> Parser:
    """The same, with what a command needs to reach a daemon elsewhere."""
    return reaching(typer.main.get_command(build_app(wanted)))


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        import_module(COMMANDS["version"].module).version()
        raise typer.Exit


def _root(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


def main(argv: Sequence[str] | None = None) -> int:
    """The console script ``llama-orch``; the answer is the exit status."""
    _open_standard_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == [COMPLETE]:
        return import_module("llama_orch.completion.complete").main(arguments[1:])  # type: ignore[no-any-return]
    out = Output(as_json="--json" in arguments)
    _write_anything(sys.stdout, as_json=out.as_json)
    try:
        return _outcome(arguments, out)
    except BrokenPipeError:
        _drop_output()  # whoever read it has gone
    except OSError as error:  # a file names itself; what has no name is what is written to all the time
        out.note(f"llama-orch: standard output: {error.strerror or error}")
        _drop_output()
    return EXIT_FAILURE


def _outcome(arguments: list[str], out: Output) -> int:
    """The exit status, once all is told. Raises OSError where it cannot be told."""
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        return _status_of(build_command(wanted)(arguments, prog_name="llama-orch", standalone_mode=False))
    except StartupError as error:
        return _failed(out, error)
    except ApiError as error:
        out.data({"error": error.as_json()})
        _tell(out, error.render())
        return error.exit_code
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.filename is None:
            raise
        return _failed(out, StartupError(f"{os.fsdecode(error.filename)}: {error.strerror or error}"))
    except UnicodeEncodeError:
        return _failed(out, StartupError("an argument is not UTF-8, and cannot be sent", None, EXIT_USAGE))
    except Exception as error:
        shown = _usage_error(error)
        if shown is not None:
            return shown
        if os.environ.get(DEBUG_VARIABLE):
            raise
        text = f"a defect in this program: {type(error).__name__}: {error}"
        return _failed(out, StartupError(text, f"{DEBUG_VARIABLE}=1 shows where; please report it"))


def _failed(out: Output, error: StartupError) -> int:
    out.data({"error": {"message": error.message, "hint": error.hint}})
    _tell(out, error.render())
    return error.exit_code


def _open_standard_streams() -> None:
    """Give a program that was started with closed streams some: none that can be written, so that it is told."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            os.dup2(descriptor, number)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))


def _write_anything(stream: TextIO, *, as_json: bool) -> None:
    """Have text that the terminal's encoding lacks shown by its numbers, and not end the program; JSON is UTF-8."""
    if isinstance(stream, TextIOWrapper):
        if as_json:
            stream.reconfigure(encoding="utf-8")
        elif stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """What is still to be written goes nowhere: the interpreter must not complain at its end either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _status_of(result: object) -> int:
    """A command answers with its exit status, or with nothing."""
    return result if isinstance(result, int) else 0


def _usage_error(error: Exception) -> int | None:
    """Show a mistake on the command line; None where it is none."""
    show, status = getattr(error, "show", None), getattr(error, "exit_code", None)
    if not callable(show) or not isinstance(status, int):
        return None
    show()
    return status


def _tell(out: Output, text: str) -> None:
    if not out.as_json:
        out.note(f"llama-orch: {text}")
