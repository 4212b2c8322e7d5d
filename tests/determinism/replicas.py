"""What the determinism suite compares: 64 fixed seeds, asked of two replicas one after the other, stream for stream.

An engine is held to its single-slot mode: one generation at a time, no prompt cache, the same build, model and flags.
Compared are the bytes of the text and the engine's count. Into which pieces the text was cut is counted beside it: vLLM
puts two tokens into one event when its writer falls behind, which depends on the load of the machine.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass

from adapters.base import Adapter, Generation
from adapters.drawing import Drawing

SEEDS = (0, 1, 2, 41, 42, 2**31 - 1, 2**31, 2**32 - 2, *random.Random(64).sample(range(3, 2**32 - 2), 56))
MANY = len(SEEDS) // 2
"""How many of the seeds must draw a text of their own, for the comparison to mean anything."""
PROMPT = "once upon a time"
TOKENS = 24


@dataclass(frozen=True)
class Stream:
    """One generation as it came: the pieces in their order, and the engine's own count."""

    pieces: tuple[str, ...]
    tokens_out: int | None

    @property
    def data(self) -> bytes:
        """The text of all pieces."""
        return "".join(self.pieces).encode()


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the table that the run prints at its end."""

    engine: str
    way: str
    seeds: int
    identical: int
    cut_alike: int
    """In how many seeds the pieces were the same, too."""
    size: int
    distinct: int
    """How many of the texts differ from each other: were it one, the seed would be of no account."""
    other_model: int | None = None
    """In how many seeds another model, or another build, was seen to differ."""

    def __str__(self) -> str:
        digits = f"{self.identical}/{self.seeds} identical ({self.cut_alike} cut alike), {self.size} bytes"
        digits += f", {self.distinct} distinct"
        other = "" if self.other_model is None else f"; another model differs in {self.other_model}/{self.seeds}"
        return f"{self.engine:<10} {self.way:<36} {digits}{other}"


async def streams(adapter: Adapter, drawn: Drawing, *, plus: int = 0) -> dict[int, Stream]:
    """Every seed's stream, as ``drawn`` tells; ``plus`` asks for other seeds in their places."""
    return {seed: await stream_of(adapter, drawn, (seed + plus) % (2**32 - 1)) for seed in SEEDS}


async def stream_of(adapter: Adapter, drawn: Drawing, seed: int) -> Stream:
    """One seed's stream."""
    pieces: list[str] = []
    asked = Generation(
        prompt=PROMPT,
        max_tokens=TOKENS,
        seed=seed,
        cache_prompt=False,
        sampling=drawn.sampling,
        further=drawn.further,
    )
    async with adapter.submit(asked) as batches:
        async for batch in batches:
            pieces += batch.texts
            if batch.finished is not None:
                return Stream(tuple(pieces), batch.finished.tokens_out)
    raise AssertionError(f"seed {seed}: the iterator ended without an end")


def differing(one: Mapping[int, Stream], other: Mapping[int, Stream]) -> list[int]:
    """The seeds whose streams are not the same to the last byte."""
    assert one.keys() == other.keys() == set(SEEDS)

    def told(stream: Stream) -> tuple[bytes, int | None]:
        return stream.data, stream.tokens_out

    return [seed for seed in SEEDS if told(one[seed]) != told(other[seed])]


def cut_alike(one: Mapping[int, Stream], other: Mapping[int, Stream]) -> int:
    """In how many seeds the pieces are the same, too."""
    return sum(one[seed].pieces == other[seed].pieces for seed in SEEDS)


def digest(found: Mapping[int, Stream]) -> str:
    """Of all streams together."""
    return hashlib.sha256(b"".join(found[seed].data for seed in SEEDS)).hexdigest()


def finding(
    engine: str, way: str, one: Mapping[int, Stream], other: Mapping[int, Stream], *, apart: int | None = None
) -> Finding:
    """What two replicas showed; ``apart`` is in how many seeds another model differed."""
    return Finding(
        engine=engine,
        way=way,
        seeds=len(SEEDS),
        identical=len(SEEDS) - len(differing(one, other)),
        cut_alike=cut_alike(one, other),
        size=sum(len(stream.data) for stream in one.values()),
        distinct=len({stream.data for stream in one.values()}),
        other_model=apart,
    )
