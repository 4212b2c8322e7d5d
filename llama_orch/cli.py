"""The program ``llama-orch``: its commands, and what its exit status means.

Decides the status: 0 done, 1 failed, 2 wrong usage, 75 try again, 78 configuration. A mistake that the operator can
mend is one line and a hint; no traceback, unless LLORCH_DEBUG is set.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from daemon_core.errors import EXIT_FAILURE, EXIT_USAGE, StartupError
from engine_provisioner import cli as provisioning
from llama_orch.commands import models, proof, receipts, sessions, units
from llama_orch.commands.cancel import cancel
from llama_orch.commands.doctor import doctor
from llama_orch.commands.drain import drain
from llama_orch.commands.init import init
from llama_orch.commands.logs import logs
from llama_orch.commands.pools import pools
from llama_orch.commands.reaching import Command, reaching
from llama_orch.commands.reload import reload
from llama_orch.commands.replay import replay
from llama_orch.commands.run import run
from llama_orch.commands.tasks import tasks
from llama_orch.commands.token import token
from llama_orch.commands.top import top
from llama_orch.commands.up import up
from llama_orch.commands.version import version
from llama_orch.errors import EXIT_INTERRUPTED, ApiError
from llama_orch.output import Output

COMMANDS: tuple[Callable[..., object], ...] = (
    init,
    doctor,
    *provisioning.COMMANDS,
    up,
    run,
    replay,
    tasks,
    cancel,
    pools,
    top,
    drain,
    reload,
    logs,
    token,
    version,
)
HELP = "Local LLM engines on your own NVIDIA GPUs: queue, stream, supervise, provision."
DEBUG_VARIABLE = "LLORCH_DEBUG"


def build_app() -> typer.Typer:
    """The command line parser with every command."""
    app = typer.Typer(
        name="llama-orch", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    app.callback()(_root)
    for command in COMMANDS:
        app.command(command.__name__)(command)
    app.add_typer(models.group(), name="models")
    app.add_typer(sessions.group(), name="sessions")
    app.add_typer(receipts.group(), name="receipts")
    app.add_typer(proof.group(), name="proof")
    app.add_typer(units.group(), name="units")
    return app


def build_command() -> Command:
    """The same, with what a command needs to reach a daemon elsewhere."""
    return reaching(typer.main.get_command(build_app()))


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        version()
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
    out = Output(as_json="--json" in arguments)
    try:
        return _status_of(build_command()(arguments, prog_name="llama-orch", standalone_mode=False))
    except StartupError as error:
        out.data({"error": {"message": error.message, "hint": error.hint}})
        _tell(out, error.render())
        return error.exit_code
    except ApiError as error:
        out.data({"error": error.as_json()})
        _tell(out, error.render())
        return error.exit_code
    except (KeyboardInterrupt, asyncio.CancelledError, typer.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # whoever read it has gone
        return EXIT_FAILURE
    except OSError as error:
        # A file names itself; what has no name is what is written to all the time.
        where = "standard output" if error.filename is None else os.fsdecode(error.filename)
        _tell(out, f"{where}: {error.strerror or error}")
        if error.filename is None:
            _drop_output()
        return EXIT_FAILURE
    except UnicodeEncodeError:
        _tell(out, "an argument is not UTF-8, and cannot be sent")
        return EXIT_USAGE
    except Exception as error:
        shown = _usage_error(error)
        if shown is not None:
            return shown
        if os.environ.get(DEBUG_VARIABLE):
            raise
        _tell(out, f"a defect in this program: {type(error).__name__}: {error}")
        _tell(out, f"{DEBUG_VARIABLE}=1 shows where; please report it")
        return EXIT_FAILURE


def _open_standard_streams() -> None:
    """Give a program that was started with closed streams some: none that can be written, so that it is told."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            os.dup2(descriptor, number)
            setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))


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
