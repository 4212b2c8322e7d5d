"""How long a certificate is good for who is shown it.

Decides from what a handshake with it said, and from now. Which files are good enough, ``certificate_files`` decides.
"""

from __future__ import annotations

from enum import StrEnum

from contracts.base import Message

DAY_S = 24 * 3600
SOON_DAYS = 14
RENEW = "put a new one in its place, and: systemctl --user reload orchestratord"
_EXPIRED, _NOT_YET = 10, 9
"""Numbers of OpenSSL for the two ways of a certificate not to be valid now."""


class Standing(StrEnum):
    """What a client makes of a certificate whose issuer it trusts."""

    GOOD = "good"
    SOON = "soon"
    """It is good, and ends in less than ``SOON_DAYS`` days."""
    EXPIRED = "expired"
    REFUSED = "refused"
    """Not valid yet, or for another reason no client takes it."""
    UNKNOWN = "unknown"
    """The handshake failed over something else."""


class Validity(Message, frozen=True, kw_only=True):
    """How a certificate stands, in a word and as the rest of a sentence about it."""

    standing: Standing
    words: str
    days: int | None = None
    """How many more whole days it is good, where it is."""


def shaken(until_s: float, now_s: float) -> Validity:
    """A client shook hands with it; it ends at ``until_s``, in seconds since 1970."""
    days = int((until_s - now_s) // DAY_S)
    standing = Standing.SOON if days < SOON_DAYS else Standing.GOOD
    return Validity(standing=standing, words=f"expires in {days} days", days=days)


def refused(code: int, words: str) -> Validity:
    """A client refused it with this number and these words of OpenSSL's."""
    if code == _EXPIRED:
        return Validity(standing=Standing.EXPIRED, words="has expired")
    what = "is not valid yet" if code == _NOT_YET else f"is refused: {words}"
    return Validity(standing=Standing.REFUSED, words=what)


def untried(words: str) -> Validity:
    """Client and server did not come together, for a reason that is not the certificate's."""
    return Validity(standing=Standing.UNKNOWN, words=f"could not be tried: {words}")
