"""The grammar of the command line, read from the functions that are its commands.

Decides by an argument's own name which kind of names it takes. Loads no command but the one that is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from llama_orch.cli import COMMANDS
from llama_orch.completion.grammar import Argument, Grammar, Kind, Option

KINDS = {
    "pool": Kind.POOL,
    "model": Kind.MODEL,
    "models": Kind.MODEL,
    "task_ids": Kind.RUNNING,
    "task": Kind.TASK,
    "name": Kind.TASK,
    "ref": Kind.FILE,
}
_REACHING = (  # llama_orch.commands.reaching adds them to every command with a URL
    Option(names=("--token-file",), help="The API token, in a file of mode 0600.", kind=Kind.FILE),
    Option(names=("--ca-file",), help="Certificates to believe beside the system's.", kind=Kind.FILE),
)
_HELP = Option(names=("--help",), help="Show this message and exit.", flag=True)


def grammar(command: str | None) -> Grammar:
    """The whole of the first level, and below it the command that is named."""
    commands = {name: Grammar(help=known.summary) for name, known in COMMANDS.items()}
    if command in COMMANDS:
        known = COMMANDS[command]
        module = import_module(known.module)
        commands[command] = _group(module.group()) if known.is_group else _command(getattr(module, command))
    version = Option(names=("--version",), help="Show the version and exit.", flag=True)
    return Grammar(commands=commands, options=(version, _HELP))


def _group(app: typer.Typer) -> Grammar:
    commands = {}
    for each in app.registered_commands:
        if each.callback is not None and not each.hidden:
            commands[each.name or each.callback.__name__.replace("_", "-")] = _command(each.callback)
    return Grammar(commands=commands, options=(_HELP,))


def _command(function: Callable[..., object]) -> Grammar:
    hints = get_type_hints(function, include_extras=True)
    options, arguments = [_HELP], []
    for name in inspect.signature(function).parameters:
        base, info = _parts(hints[name])
        if isinstance(info, ArgumentInfo):
            many = get_origin(base) in {list, tuple}
            arguments.append(Argument(choices=tuple(_choices(base)), kind=_kind(name, base), many=many))
        elif not getattr(info, "hidden", False):
            options.append(_option(name, base, info))
    if any("--url" in option.names for option in options):
        options += _REACHING
    text = inspect.getdoc(function) or ""
    return Grammar(help=text.partition("\n")[0], options=tuple(options), arguments=tuple(arguments))


def _option(name: str, base: object, info: object) -> Option:
    # Typer takes the first spelling for the default, as it would be outside of Annotated.
    declared = (info.default, *(info.param_decls or ())) if isinstance(info, OptionInfo) else ()
    names = tuple(each for each in declared if isinstance(each, str) and each.startswith("-"))
    names = names or (f"--{name.replace('_', '-')}",)
    return Option(
        names=names,
        help=str(getattr(info, "help", None) or ""),
        flag=base is bool,
        choices=tuple(_choices(base)),
        kind=_kind(name, base),
    )


def _parts(hint: object) -> tuple[object, object]:
    """The type without None, and what typer was told of it."""
    info: object = None
    if get_origin(hint) is Annotated:
        hint, *told = get_args(hint)
        info = next((each for each in told if isinstance(each, (OptionInfo, ArgumentInfo))), None)
    inner = [each for each in get_args(hint) if each is not type(None)]
    return (inner[0] if type(None) in get_args(hint) and inner else hint), info


def _choices(base: object) -> Iterator[str]:
    kinds: list[Any] = [base, *get_args(base)]
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum):
            yield from (str(each.value) for each in kind)


def _kind(name: str, base: object) -> Kind | None:
    return Kind.FILE if base is Path else KINDS.get(name)
