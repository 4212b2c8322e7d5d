"""What may come next on a command line.

Decides by the grammar alone which commands, options or choices fit, or of which kind a name would have to be. Never
asks anybody for names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum

from msgspec import field

from contracts.base import Message


class Kind(StrEnum):
    """Names that only a daemon, a configuration or the disk knows."""

    POOL = "pool"
    MODEL = "model"
    TASK = "task"
    RUNNING = "running"
    """A task that can still be canceled."""
    FILE = "file"
    """The shell knows them best."""


class Option(Message, frozen=True, kw_only=True):
    """An option with all its spellings. One that takes no value is a flag."""

    names: tuple[str, ...]
    help: str = ""
    flag: bool = False
    choices: tuple[str, ...] = ()
    kind: Kind | None = None


class Argument(Message, frozen=True, kw_only=True):
    """What stands without a name; ``many`` for the rest of the line."""

    choices: tuple[str, ...] = ()
    kind: Kind | None = None
    many: bool = False


class Grammar(Message, frozen=True, kw_only=True):
    """A command, or a group of them."""

    help: str = ""
    commands: dict[str, Grammar] = field(default_factory=dict)
    options: tuple[Option, ...] = ()
    arguments: tuple[Argument, ...] = ()


class Candidate(Message, frozen=True, kw_only=True):
    """A word that fits, and what it means."""

    word: str
    help: str = ""


class Wanted(Message, frozen=True, kw_only=True):
    """What fits: these words, or names of this kind. ``given`` are the options' values so far."""

    words: tuple[Candidate, ...] = ()
    kind: Kind | None = None
    prefix: str = ""
    """What stands before the name in the same word: ``--pool=``."""
    start: str = ""
    """What is typed of the name."""
    given: dict[str, str] = field(default_factory=dict)


def wanted(grammar: Grammar, words: Sequence[str]) -> Wanted:
    """What may stand in the place of the last word, which may be empty."""
    *before, current = words or [""]
    given: dict[str, str] = {}
    place, free = 0, True
    pending: Option | None = None
    for word in before:
        if pending is not None:
            given[pending.names[0]] = word
            pending = None
        elif free and word == "--":
            free = False
        elif free and word.startswith("-"):
            name, sign, value = word.partition("=")
            option = _option(grammar, name)
            if option is not None and not option.flag and not sign:
                pending = option
            elif option is not None:
                given[option.names[0]] = value
        elif grammar.commands:
            grammar, place = grammar.commands.get(word, Grammar()), 0
        else:
            place += 1
    if pending is not None:
        return _value(pending, current, "", given)
    if free and current.startswith("--") and "=" in current:
        name, _, value = current.partition("=")
        option = _option(grammar, name)
        return Wanted() if option is None or option.flag else _value(option, value, f"{name}=", given)
    if free and current.startswith("-"):
        return Wanted(words=tuple(_options(grammar, current, given)), given=given)
    if grammar.commands:
        return Wanted(words=tuple(_commands(grammar, current)), given=given)
    argument = _argument(grammar, place)
    return Wanted() if argument is None else _value(argument, current, "", given)


def _value(holder: Option | Argument, start: str, prefix: str, given: dict[str, str]) -> Wanted:
    words = tuple(Candidate(word=f"{prefix}{choice}") for choice in holder.choices if choice.startswith(start))
    return Wanted(words=words, kind=holder.kind, prefix=prefix, start=start, given=given)


def _option(grammar: Grammar, name: str) -> Option | None:
    return next((option for option in grammar.options if name in option.names), None)


def _argument(grammar: Grammar, place: int) -> Argument | None:
    if place < len(grammar.arguments):
        return grammar.arguments[place]
    last = grammar.arguments[-1] if grammar.arguments else None
    return last if last is not None and last.many else None


def _options(grammar: Grammar, start: str, given: dict[str, str]) -> Iterator[Candidate]:
    for option in grammar.options:
        if option.names[0] not in given:
            for name in option.names:
                if name.startswith(start):
                    yield Candidate(word=name, help=option.help)


def _commands(grammar: Grammar, start: str) -> Iterator[Candidate]:
    for name, command in grammar.commands.items():
        if name.startswith(start):
            yield Candidate(word=name, help=command.help)
