"""The options of every command that asks a daemon, beside its URL.

Decides that they stand for the variables of the environment that mean the same, and that no token is taken from the
command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated

import typer
from typer.core import TyperCommand, TyperGroup

from daemon_core import token
from daemon_core.errors import EXIT_USAGE, StartupError
from llama_orch.reach import CA_VARIABLE

Command = TyperCommand | TyperGroup
URL_PARAMETER = "url"
NO_TOKEN = "a token on the command line can be read by every user of the machine"  # noqa: S105 - no secret
TOKEN_HINT = f"put it into a file of mode 0600 and name that: --token-file PATH or {token.FILE_VARIABLE}"


def reaching(root: object) -> Command:
    """Give every command with a URL the options that reach a daemon. Raises TypeError where that is no command."""
    if not isinstance(root, (TyperCommand, TyperGroup)):
        raise TypeError(f"{root!r} was not made by typer")
    # Made by typer as all others are, and then handed on.
    app = typer.Typer(add_completion=False)
    app.command()(_options)
    options = typer.main.get_command(app).params
    for command in _commands(root):
        if any(each.name == URL_PARAMETER for each in command.params):
            command.params += options
    return root


def _commands(command: Command) -> Iterator[Command]:
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from _commands(each)


def _take_token_file(path: str | None) -> None:
    if path is not None:
        os.environ.pop(token.VARIABLE, None)
        os.environ[token.FILE_VARIABLE] = path


def _take_ca_file(path: str | None) -> None:
    if path is not None:
        os.environ[CA_VARIABLE] = path


def _refuse(given: str | None) -> None:
    if given is not None:
        raise StartupError(NO_TOKEN, TOKEN_HINT, EXIT_USAGE)


def _options(
    _token_file: Annotated[
        str | None,
        typer.Option(
            "--token-file",
            metavar="PATH",
            help=f"The API token, in a file of mode 0600 (default: {token.FILE_VARIABLE}).",
            callback=_take_token_file,
            expose_value=False,
        ),
    ] = None,
    _ca_file: Annotated[
        str | None,
        typer.Option(
            "--ca-file",
            metavar="PATH",
            help=f"Certificates to believe beside the system's, in PEM (default: {CA_VARIABLE}).",
            callback=_take_ca_file,
            expose_value=False,
        ),
    ] = None,
    _token: Annotated[str | None, typer.Option("--token", hidden=True, callback=_refuse, expose_value=False)] = None,
) -> None: ...
