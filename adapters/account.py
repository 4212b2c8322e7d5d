"""What of an engine's own account can be believed.

Decides that a number which cannot be, such as a negative count, is as good as untold: the text that came is the text,
and nobody's books are spoilt by what an engine says of it. A number that only is wrong is the engine's to answer for.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from adapters.base import Finished

MOST_TOKENS = 1 << 40
LONGEST_MS = 1e12


def believable(finished: Finished) -> Finished:
    """The same account without the numbers that cannot be."""
    return replace(
        finished,
        tokens_in=_count(finished.tokens_in),
        tokens_out=_count(finished.tokens_out),
        cached_tokens=_count(finished.cached_tokens),
        decode_ms=_span(finished.decode_ms),
    )


def _count(told: int | None) -> int | None:
    return told if told is not None and 0 <= told <= MOST_TOKENS else None


def _span(told: float | None) -> float | None:
    return told if told is not None and math.isfinite(told) and 0 <= told <= LONGEST_MS else None
