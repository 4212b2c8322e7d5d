"""A GGUF model that was split into several files: how they are named, and whether they are one model.

Decides what llama.cpp decides when it loads such a model by its first part, so that a part that is missing, another
model's or not the first is named before an engine is started. Never opens a file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from contracts.engines import WeightSizes
from model_provisioner.gguf import Facts
from model_provisioner.gguf_weights import weight_sizes

MAX_PARTS = 1024

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


class SplitError(Exception):
    """Files that are not one model. ``hint`` is the mend."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class PartName(msgspec.Struct, frozen=True, kw_only=True):
    """What the name of a part says; ``number`` counts from 1."""

    stem: str
    number: int
    count: int


def part_name(name: str) -> PartName | None:
    """The parts of ``stem-00001-of-00003.gguf``; None where a name has another form."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    number, count = int(found["number"]), int(found["count"])
    return PartName(stem=found["stem"], number=number, count=count) if 1 <= number <= count else None


def part_names(stem: str, count: int) -> tuple[str, ...]:
    """The names of all parts, in order."""
    return tuple(f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1))


def names_of(name: str, first: Facts) -> tuple[str, ...]:
    """The names of all parts, from the name of the first one and what it says. Raises SplitError."""
    count, number = first.split_count, first.split_no + 1
    if count > MAX_PARTS:
        raise SplitError(f"it says that it is one of {count} parts, and {MAX_PARTS} are the most", _AGAIN)
    named = part_name(name)
    if named is None or named.count != count or named.number != number:
        message = f"it is part {number} of {count} of a model, and its name does not say so"
        wanted = part_names("NAME", count)[min(number, count) - 1]
        raise SplitError(message, f"rename all parts to what they were: this one to {wanted}")
    names = part_names(named.stem, count)
    if number != 1:
        raise SplitError(f"it is part {number} of {count} of a model", f"give the first part: {names[0]}")
    return names


def join(names: Sequence[str], parts: Sequence[Facts]) -> Facts:
    """What the parts say together: the first one speaks for all, and the tensors add up. Raises SplitError."""
    first = parts[0]
    for number, (name, part) in enumerate(zip(names, parts, strict=True)):
        if (part.split_no, part.split_count) != (number, first.split_count):
            said = f"part {part.split_no + 1} of {part.split_count}"
            raise SplitError(f"{name} says that it is {said}, not part {number + 1} of {first.split_count}", _AGAIN)
        if part.split_tensors != first.split_tensors:
            message = f"{name} belongs to a model of {_tensors(part)}, and {names[0]} to one of {_tensors(first)}"
            raise SplitError(message, _AGAIN)
        if part.arch not in {None, first.arch}:
            message = f"{name} belongs to a model of the architecture {part.arch}, and {names[0]} to {first.arch}"
            raise SplitError(message, _AGAIN)
    count = sum(part.tensor_count for part in parts)
    if count != first.split_tensors:
        raise SplitError(f"the parts have {count} tensors, and the model has {_tensors(first)}", _AGAIN)
    return msgspec.structs.replace(
        first,
        tensor_count=count,
        parameters=sum(part.parameters for part in parts),
        min_file_size=sum(part.min_file_size for part in parts),
        weights=_weights(parts),
        own_output=any(part.own_output for part in parts),
    )


_AGAIN = "get all parts again, from one place"


def _tensors(part: Facts) -> str:
    return "tensors without a number" if part.split_tensors is None else f"{part.split_tensors} tensors"


def _weights(parts: Sequence[Facts]) -> WeightSizes | None:
    """The sums. A part without an output counts its embeddings as such; but another part may have one."""
    layers = experts = output = embeddings = 0
    for part in parts:
        if part.weights is None:
            if part.tensor_count:
                return None
            continue
        layers += part.weights.layers - part.weights.experts
        experts += part.weights.experts
        output += part.weights.output - (0 if part.own_output else part.weights.input)
        embeddings += part.weights.input
    own_output = any(part.own_output for part in parts)
    return weight_sizes(layers=layers, experts=experts, output=output, input=embeddings, own_output=own_output)
