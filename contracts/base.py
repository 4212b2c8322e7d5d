"""Base types of every contract, and what a person is told about a value that does not fit.

Decides two things: what people type (``Strict``) may hold no unknown field, while what our own processes exchange
(``Message``) tolerates one, so that a newer peer can add a field; and how a validation failure is worded. Never raises
anything of its own: the caller turns a ``Problem`` into its kind of error.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable
from typing import Any, get_args, get_origin, get_type_hints

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Exchanged between our own processes or read back from our own files: unknown fields are ignored."""


class Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Typed by a person or a client (configuration, requests): unknown fields are refused."""


class Problem(Message, frozen=True, kw_only=True):
    """One thing that is wrong with a document.

    ``path`` is in JSONPath form without the leading ``$.`` (``pools[0].engine``; empty for the document itself).
    """

    path: str
    message: str
    hint: str | None = None
    field: str | None = None
    """The offending key when the problem is about a key rather than about the value at ``path``."""

    @property
    def where(self) -> str:
        """The path of the offending key or value, for people."""
        return ".".join(part for part in (self.path, self.field) if part) or "the document"


def writable(text: str) -> str:
    """The text as UTF-8 can carry it.

    A file may be called anything, and what is no text in its name is half a character in Python's: an escape here.
    """
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


MAX_NAME = 64
"""A longer name is not compared with ours, and is shown cut."""

_AT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>[^`]*)`)?$", re.DOTALL)
_UNKNOWN = re.compile(r"unknown field `(?P<field>[^`]*)`")
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")
_ENUM = re.compile(r"Invalid enum value (?P<value>.*)")


def explain(error: msgspec.ValidationError, root: type) -> Problem:
    """Word msgspec's refusal of a document of type ``root`` for the person who wrote the document."""
    match = _AT.match(str(error))
    what, raw_path = (match["what"], match["path"]) if match else (str(error), None)
    path = (raw_path or "$").removeprefix("$").removeprefix(".")
    here = type_at(root, path)
    if unknown := _UNKNOWN.search(what):
        field = unknown["field"]
        hint = _inside(field, here) or nearest(field, fields_of(here))
        field = field if len(field) <= MAX_NAME else field[:MAX_NAME] + "..."
        return Problem(path=path, field=field, message=f"unknown field {field!r}", hint=hint)
    if missing := _MISSING.search(what):
        field = missing["field"]
        return Problem(path=path, field=field, message=f"the required field {field!r} is missing")
    if enum := _ENUM.search(what):
        choices = ", ".join(enum_values(here))
        return Problem(path=path, message=f"{enum['value']} is not one of: {choices}")
    if "matching regex" in what and (described := _description_of(here)):
        return Problem(path=path, message=f"expected {described}")
    return Problem(path=path, message=what[:1].lower() + what[1:].replace("`", ""))


def nearest(name: str, options: Iterable[str]) -> str:
    """The hint for a misspelt name: the closest legal one, or all of them."""
    options = sorted(options)
    if len(name) > MAX_NAME:  # no misspelling of ours, and comparing would take for ever
        return f"valid here: {', '.join(options) or 'nothing'}"
    close = difflib.get_close_matches(name, options, n=1)
    return f"did you mean {close[0]!r}?" if close else f"valid here: {', '.join(options) or 'nothing'}"


def _inside(name: str, node: object) -> str | None:
    """The hint for a name that is right one level further in: ``temperature`` for ``sampling.temperature``."""
    inner = {field: _field_of(node, field) for field in fields_of(node)}
    places = [f"'{field}.{name}'" for field, kind in inner.items() if name in fields_of(kind)]
    places += [f"'{field}[].{name}'" for field, kind in inner.items() if name in fields_of(_item_of(kind))]
    return f"did you mean {' or '.join(places)}?" if places else None


def fields_of(node: object) -> list[str]:
    """The field names that a document may hold at a place of this type; empty where it is no object."""
    return sorted({name for struct in _structs(node) for name in struct.__struct_encode_fields__})


def enum_values(node: object) -> list[str]:
    """The legal values at a place of this type, where it is an enumeration or a union that holds one."""
    kinds = [kind for kind in _flatten(node) if isinstance(kind, type) and issubclass(kind, enum.Enum)]
    return [str(member.value) for kind in kinds for member in kind]


def type_at(root: object, path: str) -> object:
    """The declared type at ``path`` (``pools[0].engine``), or None where the path leaves what is declared."""
    node: object = root
    for part in re.findall(r"[^.\[\]]+|\[[^\]]*\]", path):
        node = _item_of(node) if part.startswith("[") else _field_of(node, part)
        if node is None:
            return None
    return node


def _description_of(node: object) -> str | None:
    """What a place of this type holds, in the words of whoever declared it."""
    metas = [meta for each in (node, *get_args(node)) for meta in getattr(each, "__metadata__", ())]
    return next((meta.description for meta in metas if isinstance(meta, msgspec.Meta) and meta.description), None)


def _flatten(node: object) -> list[Any]:
    """The alternatives of a union and what an ``Annotated`` wraps, one level of meaning each."""
    if isinstance(node, (list, tuple)):
        return [leaf for item in node for leaf in _flatten(item)]
    if hasattr(node, "__metadata__"):  # Annotated: the first argument is the type itself
        return _flatten(get_args(node)[:1])
    is_union = get_origin(node) is not None and get_origin(node) not in {list, dict, tuple}
    return _flatten(get_args(node)) if is_union else [node]


def _structs(node: object) -> list[type[msgspec.Struct]]:
    return [kind for kind in _flatten(node) if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]


def _field_of(node: object, name: str) -> object:
    hints = [get_type_hints(struct, include_extras=True) for struct in _structs(node)]
    return next((hint[name] for hint in hints if name in hint), None)


def _item_of(node: object) -> object:
    containers = [kind for kind in _flatten(node) if get_origin(kind) in {list, dict, tuple}]
    return next((get_args(kind)[-1] if get_origin(kind) is dict else get_args(kind)[0] for kind in containers), None)
