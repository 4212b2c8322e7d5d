"""docs/configuration.md, and the descriptions in the schema: every field of the configuration with what it does.

Decides how they are laid out. What they say is ``contracts.config``'s: its types, its bounds, and the text behind each
field; what a SIGHUP does with a field, the daemons say.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

import orchestratord.app as orchestratord
import pool_managerd.app as pool_managerd
from contracts.config import END, MODES, Config
from daemon_core.reload import LOGGING

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "contracts" / "config"
Words = dict[tuple[str, str], str]
"""The text behind a field or a word, by its class and its name."""

HEAD = """\
# The configuration

<!-- Made from contracts/config by `make generate`; do not edit. -->

One file, `~/.config/llama-orch/config.yaml`, for both daemons and the command line. `llama-orch init` writes one for
this machine; only `pools` with an `id`, an `engine` and a `model` must be there. A field that is unknown, of the wrong
type or in contradiction with another one is refused with its path, its line and what is valid: `llama-orch doctor` says
so, and a daemon that reads it ends with status 78. Editors that know YAML schemas complete and check it by the first
line of each [example](../examples/home-profile/config.yaml).

Secrets never stand in it: the token is a file of its own, and keys come from the environment, which for the units is
`~/.config/llama-orch/environment` (mode 0600).

`systemctl --user reload orchestratord pool-managerd` (SIGHUP) reads it again; a file that cannot be used changes
nothing. The last column says what becomes of a changed field:
{when}

{sections}"""


def documents() -> dict[Path, str]:
    """The page with its text."""
    return {ROOT / "docs" / "configuration.md": page()}


def page() -> str:
    """The reference as Markdown."""
    words = read_words()
    sections = "\n\n".join(_section(path, node, words) for path, node in blocks())
    when = "\n".join(f"- *{name}*: {text}" for name, text in WHEN.items())
    return HEAD.format(when=f"\n{when}", sections=sections) + "\n"


# --- What there is ----------------------------------------------------------------------------------------------------


def blocks(node: inspect.StructType | None = None, path: str = "") -> Iterator[tuple[str, inspect.StructType]]:
    """Every block of the file with its path, the whole first: ``""``, ``server``, ``pools[].queue``."""
    whole = node or _struct(inspect.type_info(Config))
    if whole is None:
        return
    yield path, whole
    for each in whole.fields:
        below = _struct(each.type)
        if below is not None:
            yield from blocks(below, where(path, each))


def fields() -> Iterator[tuple[str, inspect.StructType, inspect.Field]]:
    """Every field that is a value and no block, with its path and the block that it stands in."""
    for path, node in blocks():
        for each in node.fields:
            if _struct(each.type) is None:
                yield where(path, each), node, each


def where(path: str, field: inspect.Field) -> str:
    """The path of a field in a block; a list's entries have ``[]``."""
    listed = isinstance(_bare(field.type), inspect.VarTupleType) and _struct(field.type) is not None
    return f"{path}.{field.encode_name}".lstrip(".") + ("[]" if listed else "")


def _bare(kind: inspect.Type) -> inspect.Type:
    """A type without its metadata, and without the None that says that it may be left out."""
    if isinstance(kind, inspect.Metadata):
        return _bare(kind.type)
    if isinstance(kind, inspect.UnionType):
        some = [each for each in kind.types if not isinstance(each, inspect.NoneType)]
        return _bare(some[0]) if len(some) == 1 else kind
    return kind


def _struct(kind: inspect.Type) -> inspect.StructType | None:
    bare = _bare(kind)
    if isinstance(bare, inspect.VarTupleType):
        return _struct(bare.item_type)
    return bare if isinstance(bare, inspect.StructType) else None


def read_words() -> Words:
    """The text behind each field of each class of the configuration."""
    found: Words = {}
    for source in sorted(SOURCES.glob("*.py")):
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found |= {(node.name, name): " ".join(text.split()) for name, text in _attributes(node)}
    return found


def _attributes(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for one, after in zip(node.body, node.body[1:], strict=False):
        text = after.value if isinstance(after, ast.Expr) else None
        target = (
            one.target if isinstance(one, ast.AnnAssign) else one.targets[0] if isinstance(one, ast.Assign) else None
        )
        if isinstance(target, ast.Name) and isinstance(text, ast.Constant) and isinstance(text.value, str):
            yield target.id, text.value


def without_words() -> list[str]:
    """The fields that nothing is said of."""
    words = read_words()
    return [path for path, node, each in fields() if not _said(node, each, words)]


def _said(node: inspect.StructType, field: inspect.Field, words: Words) -> str:
    """What a field does: the text behind it, and what its type says of itself; of a block its class's first words."""
    own = _described(field.type)
    said = words.get((node.cls.__name__, field.name)) or own
    block = _struct(field.type)
    if block is not None and not said:
        return " ".join((block.cls.__doc__ or "").split())
    return said if own in {"", said, *UNITS.values()} else f"{said.removesuffix('.')}: {own}."


UNITS = {"_ms": "milliseconds", "_bytes": "bytes"}
"""What a number's name ends in, and what it counts."""


def _described(kind: inspect.Type) -> str:
    """The description that a type carries."""
    if isinstance(kind, inspect.Metadata):
        return str((kind.extra_json_schema or {}).get("description", "")) or _described(kind.type)
    if isinstance(kind, inspect.UnionType):
        return next(filter(None, map(_described, kind.types)), "")
    return ""


# --- The schema -------------------------------------------------------------------------------------------------------


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of the configuration with the text behind each field, so that editors show it."""
    words = read_words()
    for name, part in schema["$defs"].items():
        for field, property_ in part.get("properties", {}).items():
            text, own = words.get((name, field)), property_.get("description")
            if text is not None:
                property_["description"] = text if own is None else f"{text} ({own})"
    return schema


# --- The page ---------------------------------------------------------------------------------------------------------


def _section(path: str, node: inspect.StructType, words: Words) -> str:
    title = f"`{path}`" if path else "The file"
    lines = [f"## {title}", "", _marked(" ".join((node.cls.__doc__ or "").split())), ""]
    lines += ["| field | type | default | what it does | SIGHUP |", "|---|---|---|---|---|"]
    choices: list[str] = []
    for each in node.fields:
        at = where(path, each)
        block = _struct(each.type) is not None
        what = _marked(_said(node, each, words))
        row = (at, f"[below](#{_anchor(at)})" if block else _counted(each), _default(each), what)
        cells = [f"`{row[0]}`", *row[1:], "" if block else when_of(at)]
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
        choices += _choices(each, words)
    if path.endswith("provisioning"):
        choices += [f"Modes of `{engine}`, the default first: {', '.join(modes)}." for engine, modes in MODES.items()]
    return "\n".join([*lines, *(["", *(f"- {line}" for line in choices)] if choices else [])])


def _anchor(path: str) -> str:
    return re.sub(r"[^a-z0-9_]", "", path)


def _marked(text: str) -> str:
    return text.replace("``", "`")


def _counted(field: inspect.Field) -> str:
    """A field's type, and in which unit it counts."""
    unit = next((unit for end, unit in UNITS.items() if field.name.endswith(end)), "integer")
    return _type(field.type).replace("integer", unit, 1)


def _type(kind: inspect.Type) -> str:
    bare = _bare(kind)
    match bare:
        case inspect.IntType() | inspect.FloatType():
            return f"{'integer' if isinstance(bare, inspect.IntType) else 'number'}{_bounds(bare)}"
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return f"text{_pattern(bare)}"
        case inspect.EnumType():
            return " or ".join(f"`{member.value}`" for member in bare.cls)
        case inspect.VarTupleType():
            return f"list: {_type(bare.item_type)}"
        case inspect.DictType():
            return "texts by name"
        case inspect.UnionType():
            return " or ".join(_type(each) for each in bare.types)
        case _:
            raise NotImplementedError(bare)


def _bounds(bare: inspect.IntType | inspect.FloatType) -> str:
    low, high = bare.ge, bare.le
    match (low, high):
        case (None, None):
            return ""
        case (_, None):
            return f", from {low}"
        case _:
            return f", {low} to {high}"


def _pattern(bare: inspect.StrType) -> str:
    pattern = (bare.pattern or "").removesuffix(END).removeprefix("^")
    if not pattern:
        return ", not empty" if bare.min_length else ""
    if re.fullmatch(r"\([a-z|]+\)", pattern):
        return ": " + " or ".join(f"`{word}`" for word in pattern[1:-1].split("|"))
    return PATTERNS.get(pattern, "")


PATTERNS = {
    "[0-9a-f]{64}": ", 64 hexadecimal digits",
    "sha256:[0-9a-f]{64}": ", `sha256:` and 64 hexadecimal digits",
}


def _default(field: inspect.Field) -> str:
    if field.required:
        return "**required**"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Struct):
        return ""
    if value is None:
        return "left out"
    return f"`{json.dumps(msgspec.to_builtins(value))}`{_readable(field.name, value)}"


LADDERS = {
    "_bytes": (("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)),
    "_ms": (("min", 60_000), ("days", 86_400_000)),
}


def _readable(name: str, value: object) -> str:
    """A large number in the largest unit that holds it whole."""
    for end, ladder in LADDERS.items():
        if name.endswith(end) and isinstance(value, int):
            whole = [f" ({value // size} {unit})" for unit, size in ladder if value >= size and value % size == 0]
            return whole[-1] if whole else ""
    return ""


def _choices(field: inspect.Field, words: Words) -> list[str]:
    bare = _bare(field.type)
    if not isinstance(bare, inspect.EnumType) or not isinstance(bare.cls, EnumType):
        return []
    said = {member.value: words.get((bare.cls.__name__, member.name)) for member in bare.cls}
    return [f"`{field.encode_name}: {value}`: {_marked(text)}" for value, text in said.items() if text]


# --- What a SIGHUP does -----------------------------------------------------------------------------------------------

ORCHESTRATORD, POOL_MANAGERD = "orchestratord", "pool-managerd"
BOTH = f"{ORCHESTRATORD} and {POOL_MANAGERD}"
LATER = "it holds after the next start of {}; until then the log names it at every reload."
WHEN = {
    "at once": "it holds from then on.",
    f"restart {ORCHESTRATORD}": LATER.format(ORCHESTRATORD),
    f"restart {POOL_MANAGERD}": LATER.format(POOL_MANAGERD),
    "restart both": LATER.format(BOTH),
    f"at once; restart {POOL_MANAGERD}": f"it holds from then on, but for what {POOL_MANAGERD} does with it.",
}


def when_of(path: str) -> str:
    """One of ``WHEN``."""
    section, _, rest = path.replace("[]", "").partition(".")
    parts = {section, f"{section}.{rest.partition('.')[0]}"}
    daemons = {
        ORCHESTRATORD: (orchestratord.AT_ONCE, orchestratord.ELSEWHERE),
        POOL_MANAGERD: (pool_managerd.AT_ONCE, pool_managerd.ELSEWHERE),
    }
    later = [
        name
        for name, (at_once, elsewhere) in daemons.items()
        if parts.isdisjoint({LOGGING, *at_once}) and parts.isdisjoint(elsewhere)
    ]
    match later:
        case []:
            return "at once"
        case [name] if name == POOL_MANAGERD and not parts.isdisjoint(orchestratord.AT_ONCE):
            return f"at once; restart {name}"
        case [name]:
            return f"restart {name}"
        case _:
            return "restart both"
