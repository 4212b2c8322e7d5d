"""The machine's clock: not before this program was made, and held by somebody.

Decides both from numbers. Never reads a clock.
"""

from __future__ import annotations

from contracts.base import Message
from llama_orch.doctor.base import Kind, Result, ok

CHECK = "clock"
DAY_S = 86_400

BEHIND = Kind(
    id="clock.behind",
    what="the clock shows a time before this program was installed",
    why="certificates are not valid yet by it, so nothing can be fetched; deadlines and records are wrong",
    mend="sudo timedatectl set-ntp true; a clock that is lost when the power is off wants a new battery",
)
UNSYNCHRONIZED = Kind(
    id="clock.unsynchronized",
    what="nobody keeps the clock right",
    why="it drifts; when it is far off, certificates are refused and models cannot be fetched",
    mend="sudo timedatectl set-ntp true (or start chronyd)",
    note=True,
)


class Facts(Message, frozen=True, kw_only=True):
    """Seconds since 1970: now, and when the files of this program were written."""

    now_s: float
    installed_s: float
    synchronized: bool | None = None
    """As the kernel says; None where it does not."""
    in_container: bool = False


def judge(facts: Facts, shown: str) -> list[Result]:
    """``shown`` is now, for people."""
    if facts.now_s < facts.installed_s - DAY_S:
        days = (facts.installed_s - facts.now_s) / DAY_S
        return [BEHIND.found(f"it is {shown} by the clock, {days:.0f} days before this program was installed")]
    if facts.synchronized is False and not facts.in_container:
        return [UNSYNCHRONIZED.found(f"it is {shown} by a clock that is not synchronized")]
    held = ", synchronized" if facts.synchronized else ""
    return [ok(CHECK, f"{shown}{held}")]
