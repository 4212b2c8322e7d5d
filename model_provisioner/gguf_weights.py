"""The tensors of a GGUF file, added up one by one as its head names them.

Decides where the last one ends, which part of the model each belongs to, and that no two lie over each other. Never
keeps more of a tensor than its name.
"""

from __future__ import annotations

import re

import msgspec

from contracts.engines import WeightSizes
from model_provisioner import ggml
from model_provisioner.errors import GgufError

MAX_SIZE = 1 << 62
"""The most that a tensor may be, in weights or bytes."""

# The experts are those that llama.cpp's --cpu-moe means; the input is what it never offloads.
_EXPERTS = re.compile(rb"\.ffn_(?:up|down|gate|gate_up)_(?:ch)?exps")
_INPUT = (b"token_embd", b"per_layer_token_embd", b"token_types", b"position_embd")
_OUTPUT = b"output.weight"


class Tensors(msgspec.Struct, frozen=True, kw_only=True):
    """All of them together. ``end`` is where the last one ends, in bytes from where the first one begins."""

    count: int
    parameters: int
    end: int
    weights: WeightSizes | None
    own_output: bool


class Tally:
    """What was added so far."""

    def __init__(self, alignment: int) -> None:
        self._alignment = alignment
        self._count = self._parameters = self._end = 0
        self._own_output = False
        self._sizes: dict[str, int] | None = dict.fromkeys(("layers", "experts", "output", "input"), 0)

    def add(self, name: bytes, shape: list[int], kind: int, offset: int, at: int) -> None:
        """One tensor more, which the head names at the byte ``at``. Raises GgufError."""
        self._count += 1
        weights = 1
        for each in shape:
            weights *= each
        block, size = ggml.BLOCKS.get(kind, (1, 0))  # an unknown type is a newer llama.cpp's
        if max(weights, offset, weights * size) > MAX_SIZE:
            raise GgufError(f"tensor {self._count} is larger than any disk", at)
        if offset % self._alignment:
            raise GgufError(f"tensor {self._count} begins at {offset}, which is no multiple of {self._alignment}", at)
        if offset < self._end:
            raise GgufError(f"tensor {self._count} begins at {offset}, inside of the one before", at)
        length = -(-weights // block) * size
        self._end = offset + length
        self._parameters += weights
        self._own_output = self._own_output or name == _OUTPUT
        if not size:
            self._sizes = None
        if self._sizes is not None:
            self._sizes[_part(name)] += length

    def sum(self) -> Tensors:
        """All that was added."""
        weights = None
        if self._sizes is not None and self._count:
            weights = weight_sizes(**self._sizes, own_output=self._own_output)
        return Tensors(
            count=self._count,
            parameters=self._parameters,
            end=self._end,
            weights=weights,
            own_output=self._own_output,
        )


def weight_sizes(*, layers: int, experts: int, output: int, input: int, own_output: bool) -> WeightSizes:  # noqa: A002 - as in WeightSizes
    """What tensors come to: experts are in layers, and without an output of its own the token embeddings are it."""
    return WeightSizes(
        layers=layers + experts, experts=experts, output=output + (0 if own_output else input), input=input
    )


def _part(name: bytes) -> str:
    if _EXPERTS.search(name):
        return "experts"
    if name.startswith(b"output"):
        return "output"
    return "input" if name.startswith(_INPUT) else "layers"
