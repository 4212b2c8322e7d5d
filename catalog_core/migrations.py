"""How an entry of an older index becomes one of the present schema: one step per schema, on the raw JSON.

Decides what each step changes. A step takes one entry as it stands in the file and returns it as the next schema has
it, with all that it does not know. Never decides when an index is converted: ``index`` does, and keeps the old file.

A field that has a default and that older versions may forget needs no step, and no new schema: older versions keep what
they do not know. A new schema is for what an older version would read wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

Json = dict[str, object]
Step = Callable[[Json], Json]
Steps = Mapping[int, Step]
"""Schema n -> the step to schema n + 1, from 1 on without a gap."""


def newest(steps: Steps) -> int:
    """The schema that all steps together lead to."""
    return len(steps) + 1


def migrate(entry: Json, found: int, steps: Steps) -> Json:
    """The entry of schema ``found`` as the newest schema has it. Raises KeyError where there is no such schema."""
    for schema in range(found, newest(steps)):
        entry = steps[schema](entry)
    return entry


def _models_to_2(entry: Json) -> Json:
    """Says how the model lies on the disk, which schema 1 left to whoever looked; all of those were the user's own."""
    path = entry.get("local_path")
    is_file = isinstance(path, str) and path.lower().endswith(".gguf")
    return {"format": "gguf" if is_file else "hf-directory", "fetched": False, **entry}


MODELS: Steps = MappingProxyType({1: _models_to_2})
ENGINES: Steps = MappingProxyType({})
