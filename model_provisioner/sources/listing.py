"""Which of the files that a place offers are the model.

Decides that from their names alone: one GGUF, all parts of a split one, or a directory for vLLM and its kind; and which
names are safe to have on this disk, for whoever fills a bucket or a registry chooses them. Never guesses between two
models: the reference must say which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import msgspec

CONFIG = "config.json"
GGUF = ".gguf"
WEIGHTS = ".safetensors"
MAX_FILES = 4096
MAX_NAME_BYTES = 200
"""Of one segment of a name: a file system takes 255, and the transfer adds to it while it is not whole."""
MAX_SEGMENTS = 8
MAX_PARTS = 999
SHOWN = 5

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\:\ud800-\udfff]")
_BESIDE_WEIGHTS = frozenset({".json", ".model", ".txt", ".jinja", ".tiktoken", ".py"})
_UNFINISHED = (".part", ".part.json")
"""What the transfer calls files that are not whole; nobody else may."""
_PROJECTOR = "mmproj"


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the model's files, and of the one to load; None where the folder is the model."""

    names: tuple[str, ...]
    entry: str | None


class NoChoiceError(Exception):
    """The names do not come to one model. The text says why, as the end of a sentence about the place."""


def safe_name(text: str) -> bool:
    """Whether a file of this name lies below the model's folder, and is nothing but itself there."""
    segments = text.split("/")
    return (
        len(segments) <= MAX_SEGMENTS
        and not _UNSAFE.search(text)
        and not text.endswith(_UNFINISHED)
        and all(_safe_segment(segment) for segment in segments)
    )


def _safe_segment(segment: str) -> bool:
    # A leading dot hides a file; a leading dash is an option to a program that somebody hands the name.
    return 0 < len(segment.encode()) <= MAX_NAME_BYTES and segment[0] not in ".-" and segment == segment.strip()


def parts_of(name: str) -> tuple[str, ...] | None:
    """The names of all parts of the split GGUF of which ``name`` is one, in order; None where it is no part."""
    match = _PART.fullmatch(name)
    if match is None:
        return None
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= MAX_PARTS:
        return None
    return tuple(f"{match['stem']}-{number:05}-of-{count:05}{GGUF}" for number in range(1, count + 1))


def choose(names: Sequence[str]) -> Choice:
    """The one model among these names, which are relative to the place. Raises NoChoiceError."""
    if len(names) > MAX_FILES:
        raise NoChoiceError(f"has {len(names)} files, more than the {MAX_FILES} that a model may have")
    if CONFIG in names and any(_is_own_weights(name) for name in names):
        return _directory(names)
    models = _models(names)
    if len(models) == 1:
        return models[0]
    if not models:
        raise NoChoiceError(f"holds no model: neither *{GGUF} nor {CONFIG} with *{WEIGHTS}{_instead(names)}")
    raise NoChoiceError(f"holds {len(models)} models: {shown(model.names[0] for model in models)}")


def shown(names: Iterable[str]) -> str:
    """A few of these names, which may be anybody's, for a message."""
    every = list(names)
    few = ", ".join(repr(name[:80])[1:-1] for name in every[:SHOWN])
    return few if len(every) <= SHOWN else f"{few} and {len(every) - SHOWN} more"


def _directory(names: Sequence[str]) -> Choice:
    own = any(_is_own_weights(name) and not name.startswith(("consolidated", "adapter_")) for name in names)
    chosen = [
        name
        for name in names
        if "/" not in name
        and (PurePosixPath(name).suffix in _BESIDE_WEIGHTS or _is_own_weights(name))
        # The same weights once more, in one file or in another program's layout.
        and not (own and name.endswith(WEIGHTS) and name.startswith(("consolidated", "adapter_")))
    ]
    return Choice(names=_all_safe(chosen), entry=None)


def _models(names: Sequence[str]) -> list[Choice]:
    found: dict[str, Choice] = {}
    for name in sorted(names):
        if not name.endswith(GGUF) or PurePosixPath(name).name.lower().startswith(_PROJECTOR):
            continue
        parts = parts_of(name) or (name,)
        if missing := [part for part in parts if part not in names]:
            message = f"lacks {len(missing)} of the {len(parts)} parts of a split model: {shown(missing)}"
            raise NoChoiceError(message)
        found.setdefault(parts[0], Choice(names=_all_safe(parts), entry=parts[0]))
    return list(found.values())


def _all_safe(names: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple(names)
    if unsafe := [name for name in chosen if not safe_name(name)]:
        raise NoChoiceError(f"has files with names that are not safe on a disk: {shown(unsafe)}")
    if len({name.casefold() for name in chosen}) < len(chosen):
        raise NoChoiceError("has two files of one name")
    return chosen


def _is_own_weights(name: str) -> bool:
    return name.endswith(WEIGHTS) and "/" not in name


def _instead(names: Sequence[str]) -> str:
    return f"; it has {shown(names)}" if names else ""
