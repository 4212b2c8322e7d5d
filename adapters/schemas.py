"""What is wrong with a JSON schema by itself, whatever engine it goes to.

Decides that of two mistakes alone: a type that JSON does not have, and a reference to nothing. An engine that cannot
make a grammar of a schema may answer without one and say nothing, as llama.cpp does with llguidance. What a certain
engine cannot do with a right schema is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

import msgspec

TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_ONE = ("additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then")
_SEVERAL = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_NAMED = ("$defs", "definitions", "dependentSchemas", "patternProperties", "properties")


class Flaw(msgspec.Struct, frozen=True):
    """``where`` is a JSON pointer to the schema that has it."""

    where: str
    what: str
    hint: str


def flaw(schema: Mapping[str, Any]) -> Flaw | None:
    """The first mistake, if there is one."""
    parts = list(_parts(schema))
    named = any("$id" in part or "$anchor" in part for _, part in parts)
    for where, part in parts:
        kinds = part.get("type")
        for kind in kinds if isinstance(kinds, list) else [] if kinds is None else [kinds]:
            if kind not in TYPES:
                return Flaw(where, f"there is no type {kind!r} in JSON", f"types are {', '.join(TYPES)}")
        wanted = part.get("$ref")
        if isinstance(wanted, str) and not _leads_somewhere(wanted, schema, named=named):
            hint = "a reference is a pointer within the schema: #/$defs/name"
            return Flaw(where, f"$ref {wanted!r} leads nowhere", hint)
    return None


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The schema and all that it is made of; constants and examples in it are no schemas."""
    waiting: list[tuple[str, object]] = [("#", schema)]
    while waiting:
        where, part = waiting.pop()
        if not isinstance(part, Mapping):
            continue
        yield where, part
        waiting += [(f"{where}/{key}", part.get(key)) for key in _ONE]
        for key in _SEVERAL:
            found = part.get(key)
            waiting += [(f"{where}/{key}/{i}", each) for i, each in enumerate(found)] if isinstance(found, list) else []
        for key in _NAMED:
            found = part.get(key)
            waiting += [(f"{where}/{key}/{n}", each) for n, each in found.items()] if isinstance(found, Mapping) else []


def _leads_somewhere(ref: str, schema: Mapping[str, Any], *, named: bool) -> bool:
    if not ref.startswith("#/"):
        return ref == "#" or named  # by a name that some part has, for the engine to find
    at: object = schema
    for step in ref[2:].split("/"):
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(at, Mapping) and name in at:
            at = at[name]
        elif isinstance(at, list) and name.isascii() and name.isdigit() and int(name) < len(at):
            at = at[int(name)]
        else:
            return False
    return True
