"""Work that is done in steps, so that it can make room for other work in between.

Decides nothing: whoever does the work yields where it may be interrupted, whoever has it done says how.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that may be interrupted wherever it yields; it returns what it comes to."""


def finished(steps: Steps[T]) -> T:
    """What they come to, all at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
