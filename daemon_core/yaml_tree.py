"""A YAML document as plain values, and where in the text each of them stands.

Decides which YAML is refused whatever it says: tags of its own, duplicate keys, keys that are no scalars, aliases that
contain themselves, and documents that unfold to more than ``MAX_VALUES`` values. Never touches a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from contracts.base import Message

MAX_VALUES = 20_000
MAX_DEPTH = 64
MERGE = "<<"


class Place(Message, frozen=True, kw_only=True):
    """Where something begins, counted from 1."""

    line: int
    column: int


class Finding(NamedTuple):
    """One thing that a document may not do."""

    place: Place
    path: str
    message: str
    hint: str | None


class TreeError(Exception):
    """Well-formed YAML that is refused all the same."""

    def __init__(self, found: list[Finding]) -> None:
        super().__init__("; ".join(finding.message for finding in found))
        self.found = found


class Tree:
    """The values of a document with their places, by path (``pools[0].engine``)."""

    def __init__(self) -> None:
        self.value: object = None
        self._places: dict[str, Place] = {}
        self._keys: dict[str, Place] = {}
        self._raw: dict[str, str] = {}

    def place(self, path: str, *, key: bool = False) -> Place | None:
        """Where the value at ``path`` begins, or its key."""
        return (self._keys if key else self._places).get(path)

    def nearest(self, path: str) -> Place | None:
        """Where the value at ``path`` begins, or the closest thing around it that is there."""
        while path and path not in self._places:
            path = re.sub(r"(\.?[^.\[\]]+|\[[^\]]*\])$", "", path)
        return self._places.get(path)

    def raw(self, path: str) -> str | None:
        """The scalar at ``path`` as it is written, without its quotes."""
        return self._raw.get(path)

    def at(self, path: str) -> object:
        """The value at ``path``, or None."""
        value: Any = self.value
        for part in re.findall(r"[^.\[\]]+|\[[0-9]+\]", path):
            try:
                value = value[int(part[1:-1])] if part.startswith("[") else value[part]
            except (LookupError, TypeError):
                return None
        return value

    def note(self, path: str, node: yaml.Node) -> None:
        """Remember where a value is. The first visit counts: that is where the text says it, not where it is merged."""
        self._places.setdefault(path, _place(node))
        if isinstance(node, yaml.ScalarNode):
            self._raw.setdefault(path, node.value)

    def note_key(self, path: str, node: yaml.Node) -> None:
        """Remember where a key is."""
        self._keys.setdefault(path, _place(node))


def read_tree(text: str) -> Tree:
    """The document in ``text``.

    Raises yaml.YAMLError where it is no YAML, TreeError where it is refused.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        tree = Tree()
        if node is not None:
            tree.value = _Builder(loader, tree).build(node, "")
        return tree
    except RecursionError:
        found = Finding(Place(line=1, column=1), "", "is nested too deeply", None)
        raise TreeError([found]) from None
    finally:
        loader.dispose()


class _Builder:
    """Turns nodes into values, and counts."""

    def __init__(self, loader: yaml.SafeLoader, tree: Tree) -> None:
        self._loader = loader
        self._tree = tree
        self._count = 0
        self._open: list[yaml.Node] = []
        self._found: list[Finding] = []

    def build(self, node: yaml.Node, path: str) -> object:
        """The value of a document's root node. Raises TreeError with everything that was found on the way."""
        value = self._value(node, path)
        if self._found:
            raise TreeError(self._found)
        return value

    def _value(self, node: yaml.Node, path: str) -> object:
        self._bound(node, path)
        self._tree.note(path, node)
        self._open.append(node)
        try:
            match node:
                case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
                    return self._mapping(node, path)
                case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                    return [self._value(item, f"{path}[{number}]") for number, item in enumerate(node.value)]
                case yaml.ScalarNode():
                    return self._scalar(node, path)
                case _:
                    self._report(node, path, f"the tag {node.tag!r} has no place here", "remove it")
                    return None
        finally:
            self._open.pop()

    def _bound(self, node: yaml.Node, path: str) -> None:
        self._count += 1
        if any(node is parent for parent in self._open):
            raise TreeError([Finding(_place(node), path, "an alias that contains itself", "write the value out")])
        if self._count > MAX_VALUES or len(self._open) > MAX_DEPTH:
            what = f"the document unfolds to more than {MAX_VALUES} values or {MAX_DEPTH} levels"
            raise TreeError([Finding(_place(node), path, what, "use fewer aliases")])

    def _scalar(self, node: yaml.ScalarNode, path: str) -> object:
        try:
            value: object = self._loader.construct_object(node)
            return _joined(value) if isinstance(value, str) else value
        except UnicodeDecodeError:
            self._report(node, path, "half of a character, as \\ud83d without its other half", "write it in UTF-8")
            return ""
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or str(error)
            self._report(node, path, f"{node.value!r} cannot be read: {problem}", "write it in quotes")
            return None

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, object]:
        value: dict[str, object] = {}
        merged: list[yaml.Node] = []
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._report(key_node, path, "a key must be a plain name", None)
                continue
            key = key_node.value
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            place = _place(key_node)
            if key in lines:
                what = f"the key {key!r} stands here and in line {lines[key]}"
                self._report(key_node, path, what, "keep one of them")
            lines.setdefault(key, place.line)
            inner = f"{path}.{key}" if path else key
            self._tree.note_key(inner, key_node)
            value[key] = self._value(value_node, inner)
        for source in merged:
            for key, item in self._merge_source(source, path):
                value.setdefault(key, item)
        return value

    def _merge_source(self, node: yaml.Node, path: str) -> Iterator[tuple[str, object]]:
        """What ``<<:`` brings in; keys that stand in the mapping itself win."""
        value = self._value(node, path)
        if not isinstance(value, dict):
            self._report(node, path, f"{MERGE} takes a mapping or a list of mappings", None)
            return
        yield from value.items()

    def _report(self, node: yaml.Node, path: str, what: str, hint: str | None) -> None:
        self._found.append(Finding(_place(node), path, what, hint))


def _place(node: yaml.Node) -> Place:
    return Place(line=node.start_mark.line + 1, column=node.start_mark.column + 1)


def _joined(text: str) -> str:
    """The text with its surrogate pairs joined: JSON escapes a character beyond U+FFFF as two halves.

    Raises UnicodeDecodeError for a half alone.
    """
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
