"""Which bytes of a file an answer brings.

Decides from its status and headers alone where the bytes begin and how many the file has, what a server that
contradicts itself is worth, and which answers may be other ones later. Never believes more than it can check: what is
said to continue must continue at the very byte, and what is known of the size must agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from contracts.base import Message

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})

_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(?:(\d{1,19})|\*)")
_UNSATISFIED = re.compile(r"bytes \*/(\d{1,19})")
_LENGTH = re.compile(r"\d{1,19}")


class Span(Message, frozen=True, kw_only=True):
    """The body begins at the byte ``start`` of the file, which has ``total`` bytes (None: nobody says)."""

    start: int
    total: int | None


class Whole(Message, frozen=True, kw_only=True):
    """There is nothing to bring: all of it is here."""


class StartOver(Message, frozen=True, kw_only=True):
    """What is here is of no use to this server: the whole file has to be asked for."""


class Refused(Message, frozen=True, kw_only=True):
    """The server does not give the file. ``transient`` where another attempt may bring it."""

    transient: bool


class WrongSize(Message, frozen=True, kw_only=True):
    """The file there is another one: it has ``total`` bytes."""

    total: int


Answer = Span | Whole | StartOver | Refused | WrongSize


def read_answer(status: int, headers: Mapping[str, str], *, have: int, named: str | None, size: int | None) -> Answer:
    """What an answer means where ``have`` bytes are here, called ``named``, of a file of ``size`` bytes.

    ``headers`` is looked up in the usual spelling of a header's name. ``named`` is the ETag or date that was sent as
    ``If-Range``; ``size`` is None where nobody knows.
    """
    match status:
        case 200:
            return _checked(Span(start=0, total=_length(headers)), size)
        case 206 if have:
            return _continued(headers, have, size)
        case 416 if have and _ends_here(headers, have, named, size):
            return Whole()
        case 206 | 416:
            return StartOver()
        case _:
            return Refused(transient=status in TRANSIENT)


def validator_of(headers: Mapping[str, str]) -> str | None:
    """What ``If-Range`` may name: a strong ETag, else the date of the last change."""
    etag = headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")


def _continued(headers: Mapping[str, str], have: int, size: int | None) -> Answer:
    found = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or int(found[1]) != have:
        return StartOver()
    last, total = int(found[2]), None if found[3] is None else int(found[3])
    length = _length(headers)
    if last < have or (total is not None and last != total - 1) or (length is not None and length != last - have + 1):
        return StartOver()
    return _checked(Span(start=have, total=last + 1 if total is None else total), size)


def _checked(span: Span, size: int | None) -> Answer:
    total = size if span.total is None else span.total
    if total is not None and size is not None and total != size:
        return WrongSize(total=total)
    return Span(start=span.start, total=total)


def _ends_here(headers: Mapping[str, str], have: int, named: str | None, size: int | None) -> bool:
    """Whether "no such range" means that nothing is missing: the file ends where we do, and is still the same."""
    found = _UNSATISFIED.fullmatch(headers.get("Content-Range", ""))
    if found is None or int(found[1]) != have or size not in {None, have}:
        return False
    return named is not None and validator_of(headers) == named


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if _LENGTH.fullmatch(text) else None
