"""The metrics that a query of PromQL names, each with the labels that it asks of them.

It reads what the rules and the dashboard of this project write, not all of the language: promtool does that.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from contracts.metrics import SERIES, SeriesKind

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
NAME = re.compile(r"\b[a-zA-Z_][a-zA-Z0-9_:]*\b")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "unless", "and", "or", "bool", "offset"}
OF_PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus itself gives to all that it scrapes."""


def known() -> dict[str, set[str]]:
    """Every name that a query may use, with its labels."""
    names = {"up": set(OF_PROMETHEUS)}
    for series in SERIES:
        labels = {*series.labels, *OF_PROMETHEUS}
        if series.kind is SeriesKind.HISTOGRAM:
            names |= {f"{series.name}_{end}": labels for end in ("sum", "count")} | {
                f"{series.name}_bucket": {*labels, "le"}
            }
        else:
            names[series.name] = labels
    return names


def wrong_with(query: str, names: dict[str, set[str]]) -> Iterator[str]:
    """What a query asks that nobody tells: a name that there is not, or a label that none of its names has."""
    bare = STRING.sub('""', query)
    used = set(named(query))
    yield from (f"no metric {name}" for name in used - names.keys())
    for name, inside in re.findall(r"([a-zA-Z_][a-zA-Z0-9_:]*)\s*\{([^}]*)\}", bare):
        labels = {part.strip() for part in re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)", inside)}
        yield from (f"{name} has no label {label}" for label in labels - names.get(name, labels))
    everywhere = set().union(*(names.get(name, set()) for name in used))
    for inside in GROUPING.findall(bare):
        labels = {part.strip() for part in inside.split(",")} - {""}
        yield from (f"no metric of it has the label {label}" for label in labels - everywhere)


def named(query: str) -> Iterator[str]:
    """The names of metrics in a query."""
    bare = re.sub(r"\[[^\]]*\]", "", re.sub(r"\{[^}]*\}", "", GROUPING.sub("", STRING.sub('""', query))))
    for match in NAME.finditer(bare):
        function = bare[match.end() :].lstrip().startswith("(")
        if match[0] not in WORDS and not function:
            yield match[0]
