"""What a connection is about, and until when its client has to go on.

Decides when a client is too slow with its request, asks for too much in a head, or has been idle for too long; who has
never shown a token may be idle for less long. Never reads a clock, parses HTTP or closes anything: ``now`` is an
argument, in monotonic seconds, and what comes back is a fault or the moment to look again.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

BLANK = b"\r\n\r\n"
"""The end of a head."""
LINE_BREAK = b"\r\n"
"""Before a request such bytes say nothing; some clients send them behind a body."""
ROUNDS = 4
"""So many times as long as a body may stand still, the whole of it may take, and longer by what came of it."""
BODY_RATE = 4_096
"""Bytes in a second that are fast enough: each that came gives the rest of its body more time."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much a connection may do, and how long it may take."""

    header_s: float
    body_s: float
    idle_s: float
    header_bytes: int
    body_bytes: int
    stranger_s: float = 0.0
    """So long one may be idle that has shown no token: no longer than one that says nothing at all."""
    soonest_s: float = 0.0
    """No bound is met sooner than so long after a look that met none, whatever begins in between."""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "stranger_s", min(self.header_s, self.idle_s))
        msgspec.structs.force_setattr(self, "soonest_s", min(self.stranger_s, self.body_s))


class Phase(StrEnum):
    """Where a connection is between two requests."""

    OPEN = "open"
    """Nothing has come."""
    HEAD = "head"
    """A request has begun, and is not yet with its handler."""
    BUSY = "busy"
    """A request is with its handler."""
    REST = "rest"
    """The last request was answered."""
    LINGER = "linger"
    """It was, before its body had come. How long that may take is not decided here."""


class Fault(StrEnum):
    """Why a connection is closed."""

    SILENT = "silent"
    IDLE = "idle"
    SLOW_HEAD = "slow head"
    SLOW_BODY = "slow body"
    LARGE_HEAD = "large head"


class Conduct:
    """One connection, from when it was opened."""

    __slots__ = ("_bounds", "_entered", "_more", "_seam", "_since", "_size", "_whole", "begun", "known", "phase")

    def __init__(self, bounds: Bounds, now: float) -> None:
        self._bounds = bounds
        self.phase = Phase.OPEN
        self.begun = False
        """Whether the answer to the request has begun: then nothing else may be said in its place."""
        self.known = False
        """Whether a request of this connection was let in."""
        self._since = self._entered = now
        self._size = 0
        self._seam = b""
        self._whole = False
        self._more = False

    @property
    def awaited(self) -> bool:
        """Whether what its client wants is still to come, or to be parsed."""
        return self.phase in {Phase.OPEN, Phase.HEAD}

    def received(self, data: bytes, now: float, *, body_open: bool) -> Fault | None:
        """Bytes came. ``body_open``: the body of the request at hand had not come as a whole before them."""
        if self.phase is Phase.BUSY:
            if body_open:
                self._since = now
                self._size += len(data)
            elif data.lstrip(LINE_BREAK):
                self._more = True
            return None
        if self.phase is Phase.LINGER:
            if body_open:
                return None
            self.phase = Phase.REST
        if self.phase is not Phase.HEAD:
            if data[0] in LINE_BREAK:
                data = data.lstrip(LINE_BREAK)
                if not data:
                    return None
            self._begin(now)
        return self._count(data)

    def entered(self, now: float) -> None:
        """A request is with its handler."""
        self.phase, self._since, self.begun, self._more = Phase.BUSY, now, False, False
        self._entered, self._size = now, 0

    def answered(self, now: float, *, body_open: bool) -> None:
        """The request was answered."""
        if body_open:
            self.phase = Phase.LINGER
        elif self._more:
            self._begin(now)  # of the next request something is here
        else:
            self.phase = Phase.REST
        self._since = now

    def look(self, now: float, *, body_open: bool) -> Fault | float:
        """What is wrong, or when to look again."""
        if self.phase is Phase.LINGER and not body_open:
            self.phase, self._since = Phase.REST, now
        due, fault = self._due(body_open=body_open)
        soonest = now + self._bounds.soonest_s
        if fault is None:
            return soonest
        return fault if now >= due else min(due, soonest)

    def _due(self, *, body_open: bool) -> tuple[float, Fault | None]:
        bounds = self._bounds
        match self.phase:
            case Phase.OPEN:
                return self._since + bounds.header_s, Fault.SILENT
            case Phase.HEAD:
                return self._since + bounds.header_s, Fault.SLOW_HEAD
            case Phase.BUSY if body_open and not self.begun:
                return min(self._since + bounds.body_s, self._whole_body_due()), Fault.SLOW_BODY
            case Phase.REST:
                return self._since + (bounds.idle_s if self.known else bounds.stranger_s), Fault.IDLE
            case _:
                return 0.0, None

    def _whole_body_due(self) -> float:
        """Until when all of a body must have come, so that none lasts for as long as a byte comes now and then."""
        bounds = self._bounds
        return self._entered + ROUNDS * bounds.body_s + min(self._size, bounds.body_bytes) / BODY_RATE

    def _begin(self, now: float) -> None:
        # A first request has the time since the connection was opened, not since its first byte.
        since = self._since if self.phase is Phase.OPEN else now
        self.phase, self._since, self._size, self._seam, self._whole = Phase.HEAD, since, 0, b"", False

    def _count(self, data: bytes) -> Fault | None:
        """Count what belongs to the head; what stands behind it may be as long as it likes."""
        if self._whole:
            return None
        at_seam = (self._seam + data[:3]).find(BLANK) if self._seam else -1
        end = data.find(BLANK)
        if at_seam >= 0:
            self._whole = True
            self._size += max(0, at_seam + len(BLANK) - len(self._seam))
        elif end >= 0:
            self._whole = True
            self._size += end + len(BLANK)
        else:
            self._size += len(data)
            self._seam = (self._seam + data[-3:])[-3:]
        return Fault.LARGE_HEAD if self._size > self._bounds.header_bytes else None
