"""Whether a chain of receipts is whole: each as it was sealed, none missing, none too many.

Decides what breaks a chain and where, and the form of a line in which a receipt is handed on. A receipt's id is the
sha256 of its bytes and the next one names it, so a change shows in the receipt itself, and one that was sealed anew in
its successor. What nothing names is not seen to be missing: the newest, and a whole chain that was made anew by
somebody who may write it; for that an id is kept elsewhere and asked for. Values in, values out.

After a break it goes on with whatever may follow, so that one mistake is told once and by its number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from enum import StrEnum

import msgspec

from contracts.artifacts import ID_PREFIX, canonical
from contracts.base import Message
from contracts.receipts import Link


class Copy(Message, frozen=True, kw_only=True):
    """One receipt as it is handed on: the id that it is said to have, and its bytes.

    As a line these are the members ``id`` and ``receipt`` of one JSON object in its canonical form.
    """

    id: str
    receipt: msgspec.Raw


class Fault(StrEnum):
    """What can be wrong."""

    UNREADABLE = "unreadable"
    """It is no receipt."""
    CONTENT = "content"
    """Its bytes do not have the sha256 that its id says."""
    NOT_CANONICAL = "not canonical"
    """Its JSON is written in another way than a receipt's is."""
    PREVIOUS = "previous"
    """It names another receipt before it than the one that stands there."""
    MISSING = "missing"
    """Nothing has this number."""
    MISPLACED = "misplaced"
    """Its number was due before, or is there twice."""
    UNKNOWN = "unknown"
    """The receipt that was asked for is not there."""


class Break(Message, frozen=True, kw_only=True):
    """One place where a chain does not hold."""

    number: int | None
    """Of the receipt that is meant; None where no number is known."""
    fault: Fault
    message: str


class Verdict(Message, frozen=True, kw_only=True):
    """What a look at a chain showed."""

    holds: int
    """How many receipts are as they were sealed, and where they belong."""
    first: int | None
    """The number of the first that was shown; None where there was none."""
    last: int | None
    last_id: str | None
    """Of the newest: the id to keep elsewhere."""
    breaks: tuple[Break, ...]


class Chain:
    """Takes receipts in their order, and says of each whether it fits.

    ``first`` is the place that the oldest one must have; without it the first that comes may have any.
    """

    def __init__(self, first: Link | None = None, expected: str | None = None) -> None:
        self._due: int | None = None if first is None else first.number
        """The number that should come next; None before anything came."""
        self._open: dict[int, frozenset[str | None] | None] = {}
        """What may come next: number -> the ids that it may name as the one before it; None for any."""
        if first is not None:
            self._open[first.number] = frozenset({first.previous})
        self._expected = expected
        self._breaks: list[Break] = []
        self._holds = 0
        self._first: int | None = None
        self._last: int | None = None
        self._last_id: str | None = None

    def take(self, copy: Copy | None) -> None:
        """The next one; None for something that cannot be read as one."""
        place = None if copy is None else _place(copy)
        if copy is None or place is None:
            self._unreadable()
            return
        content = bytes(copy.receipt)
        true_id = ID_PREFIX + hashlib.sha256(content).hexdigest()
        if true_id != copy.id:
            self._changed(copy, place, true_id)
            return
        if true_id == self._expected:
            self._expected = None
        if not self._fits(place):
            self._misfit(copy, place)
        elif not _is_canonical(content):
            self._say(place.number, Fault.NOT_CANONICAL, "its JSON is not written as a receipt's is")
            self._go_on(place.number, copy.id)
        else:
            self._holds += 1
            self._go_on(place.number, copy.id)

    def verdict(self, last: int | None = None) -> Verdict:
        """What all of them show. ``last`` is the number of the newest, where somebody says it."""
        breaks = list(self._breaks)
        if last is not None and self._due is not None and last >= self._due:
            breaks.append(Break(number=self._due, fault=Fault.MISSING, message=_span(self._due, last) + " at the end"))
        if self._expected is not None:
            text = f"the receipt {self._expected} is not in this chain: it was made anew, or let go since"
            breaks.append(Break(number=None, fault=Fault.UNKNOWN, message=text))
        return Verdict(
            holds=self._holds, first=self._first, last=self._last, last_id=self._last_id, breaks=tuple(breaks)
        )

    # --- inside -------------------------------------------------------------------------------------------------------

    def _fits(self, place: Link) -> bool:
        if self._due is None:
            return (place.number == 1) == (place.previous is None) and place.number > 0
        if place.number not in self._open:
            return False
        before = self._open[place.number]
        return before is None or place.previous in before

    def _go_on(self, number: int, *ids: str) -> None:
        """It stands where it belongs: only the next one may follow."""
        self._open.clear()
        self._follow(number, *ids)

    def _follow(self, number: int, *ids: str) -> None:
        """The one after it may follow too, whatever else may."""
        if self._first is None:
            self._first = number
        self._last, self._last_id = number, ids[0]
        self._due = number + 1
        before = self._open.get(self._due, frozenset())
        self._open[self._due] = None if before is None else before | frozenset(ids)

    def _unreadable(self) -> None:
        """Nobody knows whether it stands for the one that is due, or beside it."""
        self._say(self._due, Fault.UNREADABLE, "what stands there is no receipt")
        if self._due is not None:
            self._due += 1
            self._open[self._due] = None

    def _changed(self, copy: Copy, place: Link, true_id: str) -> None:
        """It was not sealed as it is: nothing that it says counts, and either of its ids may be named by the next."""
        number = place.number if self._due is None else self._due
        self._say(number, Fault.CONTENT, f"its bytes have the id {true_id}, and it goes by {copy.id}")
        if self._due is not None:
            self._follow(number, copy.id, true_id)

    def _misfit(self, copy: Copy, place: Link) -> None:
        number = place.number
        if self._due is None or number == self._due:
            self._say(
                number, Fault.PREVIOUS, f"it names {place.previous} as the one before it: {self._instead(number)}"
            )
            self._follow(number, copy.id)
        elif number > self._due:
            self._say(self._due, Fault.MISSING, f"{_span(self._due, number - 1)}: number {number} stands there")
            self._follow(number, copy.id)
        else:
            self._say(number, Fault.MISPLACED, f"it stands where number {self._due} should")
            if number == self._due - 1:  # twice: the one or the other may be named by the next
                self._follow(number, copy.id)

    def _instead(self, number: int) -> str:
        before = self._open.get(number)
        if not before:
            return "the first has none, and every other one"
        return f"that is {' or '.join(sorted(map(str, before)))}, so one of the two was changed"

    def _say(self, number: int | None, fault: Fault, message: str) -> None:
        self._breaks.append(Break(number=number, fault=fault, message=message))


def verify(receipts: Iterable[Copy | None], first: Link | None = None, expected: str | None = None) -> Verdict:
    """What a whole chain shows: from the place ``first`` on, and with the id ``expected`` in it."""
    chain = Chain(first, expected)
    for copy in receipts:
        chain.take(copy)
    return chain.verdict()


def line_of(copy: Copy) -> bytes:
    """A receipt as a line, without the line break: canonical, as the receipt in it is."""
    return canonical(copy)


def read_line(line: bytes) -> Copy | None:
    """The receipt of a line; None where it is none. A line has one form: a byte more, and it is none either."""
    try:
        copy = msgspec.json.decode(line, type=Copy)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return copy if line_of(copy) == line else None


def _place(copy: Copy) -> Link | None:
    try:
        return msgspec.json.decode(copy.receipt, type=Link)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _is_canonical(content: bytes) -> bool:
    try:
        return canonical(msgspec.json.decode(content)) == content
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


def _span(first: int, last: int) -> str:
    return f"number {first} is missing" if first == last else f"the numbers {first} to {last} are missing"
