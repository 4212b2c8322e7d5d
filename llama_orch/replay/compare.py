"""Whether two runs of one request gave the same text, where they part, and which class the second one holds.

Decides by bytes: the hash of the streams where both came to their end, the texts where one of them broke off. A place
is told by the token of the recorded stream in which it lies, where that stream is still known, and by the character
otherwise; results of embeddings and reranks are counted as such. What had changed in between is ``facts``'s. Values in,
values out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from enum import StrEnum
from typing import assert_never

from contracts.base import Message
from daemon_core.redaction import MASK

BEFORE = 40
"""Characters that are shown before a difference."""
AFTER = 60


class Unit(StrEnum):
    """What is counted, from 0."""

    TOKEN = "token"  # noqa: S105 - of a text
    """Pieces of the recorded stream, as their ``i`` counts them."""
    CHARACTER = "character"
    """Of the recorded text, where its pieces are not known any more."""
    RESULT = "result"
    """Of an embedding or a rerank: one for each input."""


class Sameness(StrEnum):
    """What the texts show."""

    IDENTICAL = "identical"
    """Every byte."""
    AS_FAR = "as far as recorded"
    """The recorded run broke off: every byte that it has is there again, in its place."""
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    """Nothing that was recorded can be compared."""


class Grade(StrEnum):
    """What a replay held."""

    BIT_EXACT = "bit-exact"
    """All bytes that were recorded are there again."""
    SAME_ENGINE = "same engine"
    """Engine, model and sampler profile are the same, and the text is another."""
    BEST_EFFORT = "best effort"
    """One of them is not the same, or nobody knows, or there is nothing to compare."""


class Run(Message, frozen=True, kw_only=True):
    """What came of one run, as far as it is known."""

    sha256: str
    """Of the whole text."""
    text: str | None
    """None where it was not kept."""
    pieces: tuple[str, ...] | None = None
    """The text as it was streamed; None where that is not known any more."""
    whole: bool = True
    """Whether it came to its own end: not canceled, not interrupted, no error."""
    masked: bool = False
    """Whether secrets were taken out of ``text``."""


class Difference(Message, frozen=True, kw_only=True):
    """The first place where two runs part."""

    unit: Unit
    number: int
    """Of the first token, character or result that differs, from 0."""
    character: int
    """Of the first character that differs, from 0."""
    before: str
    """What both have just before it."""
    recorded: str
    """What the recorded run has from there on, shortened; empty where it ended there."""
    now: str


class Outcome(Message, frozen=True, kw_only=True):
    """What a comparison came to; ``difference`` is None where the place is not known, or there is none."""

    same: Sameness
    difference: Difference | None = None
    why: str | None = None
    """What stood in the way of saying more."""


def compare(recorded: Run, now: Run, *, results: bool = False) -> Outcome:
    """Compare what was recorded with what came now. ``results``: the text is one JSON object for each input."""
    if recorded.whole and recorded.sha256 == now.sha256:
        return Outcome(same=Sameness.IDENTICAL)
    if now.text is None:
        return Outcome(same=Sameness.UNKNOWN, why="the new text was not kept")
    if recorded.text is None:
        return _by_hash(recorded, now)
    if recorded.masked:
        return _up_to_the_mask(recorded, recorded.text, now.text)
    if not recorded.whole and now.text.startswith(recorded.text):
        if not recorded.text:
            return Outcome(same=Sameness.UNKNOWN, why="nothing had come when it broke off")
        return Outcome(same=Sameness.AS_FAR)
    at = first_difference(recorded.text, now.text)
    if at is None:
        return Outcome(same=Sameness.UNKNOWN, why="the recorded text does not have the hash that was recorded with it")
    return Outcome(same=Sameness.DIFFERENT, difference=_place(recorded, recorded.text, now.text, at, results=results))


def grade(outcome: Outcome, *, same_identity: bool) -> Grade:
    """The class of a replay; ``same_identity`` is False where that is not known."""
    match outcome.same:
        case Sameness.IDENTICAL | Sameness.AS_FAR:
            return Grade.BIT_EXACT
        case Sameness.DIFFERENT:
            return Grade.SAME_ENGINE if same_identity else Grade.BEST_EFFORT
        case Sameness.UNKNOWN:
            return Grade.BEST_EFFORT
        case _:
            assert_never(outcome.same)


def first_difference(one: str, other: str) -> int | None:
    """The first character in which two texts differ, which is the end of one that the other goes on from."""
    if one == other:
        return None
    low, high = 0, min(len(one), len(other))
    while low < high:  # how long the longest beginning is that both have
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[:middle] == other[:middle] else (low, middle - 1)
    return low


def sha256_of(text: str) -> str:
    """The hash of a stream with this text."""
    return hashlib.sha256(text.encode()).hexdigest()


def split_results(text: str) -> tuple[str, ...] | None:
    """The JSON objects that stand in a row in a text; None where there is something else in it."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text):
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        found.append(text[at:end])
        at = end
    return tuple(found)


def _by_hash(recorded: Run, now: Run) -> Outcome:
    """Without the recorded text, whose hash alone is known."""
    if recorded.whole:
        return Outcome(
            same=Sameness.DIFFERENT, why="the recorded text was too long to be kept, and its hash is another"
        )
    if recorded.sha256 in _hashes(now.pieces or ()):
        return Outcome(same=Sameness.AS_FAR)
    return Outcome(
        same=Sameness.DIFFERENT, why="the recorded text was too long to be kept, and no beginning has its hash"
    )


def _hashes(pieces: Iterable[str]) -> set[str]:
    """The hashes of all beginnings that end with a piece."""
    seen, found = hashlib.sha256(), set()
    for piece in pieces:
        seen.update(piece.encode())
        found.add(seen.hexdigest())
    return found


def _up_to_the_mask(recorded: Run, text: str, now: str) -> Outcome:
    """Of a text from which secrets were taken, what stands before the first of them can be compared."""
    known = text.partition(MASK)[0]
    at = first_difference(known, now)
    if at is not None and at < len(known):
        return Outcome(same=Sameness.DIFFERENT, difference=_place(recorded, text, now, at, results=False))
    why = "a secret was taken out of the recorded text, and what stands before it is the same"
    return Outcome(same=Sameness.DIFFERENT if recorded.whole else Sameness.UNKNOWN, why=why)


def _place(recorded: Run, text: str, now: str, at: int, *, results: bool) -> Difference:
    pieces = recorded.pieces
    if results:
        pieces = pieces or split_results(text)
        unit = Unit.RESULT
    else:
        unit = Unit.TOKEN
    if pieces is None:
        unit, number, start = Unit.CHARACTER, at, at
    else:
        number, start = _piece_at(pieces, at)
        start = at if unit is Unit.RESULT else start  # a result is long: what is shown begins where it differs
    return Difference(
        unit=unit,
        number=number,
        character=at,
        before=text[max(0, start - BEFORE) : start],
        recorded=text[start : start + AFTER],
        now=now[start : start + AFTER],
    )


def _piece_at(pieces: tuple[str, ...], at: int) -> tuple[int, int]:
    """The number of the piece that has this character, and where it begins; behind the last, the next number."""
    begin = 0
    for number, piece in enumerate(pieces):
        if at < begin + len(piece):
            return number, begin
        begin += len(piece)
    return len(pieces), begin
