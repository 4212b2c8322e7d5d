"""Answers that are whole, or no figure at all."""

from __future__ import annotations

from bench.load import Sample
from bench.systems.base import System


def checked(system: System, sample: Sample, tokens: int) -> Sample:
    """The same sample. Raises RuntimeError where it is not the whole answer."""
    if not system.target.answered(sample, tokens):
        raise RuntimeError(f"{system.name}: {sample.tokens} tokens of {tokens} came, after {sample.head[:200]!r}")
    return sample
