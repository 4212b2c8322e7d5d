"""Decides whether a daemon is alive: from when each owner task last showed life, and whether it has ended.

An owner task is one without which the daemon answers and yet does not do its work. Time is an argument, and counts only
while the event loop turns: an owner that could not run is not to blame for it.
"""

from __future__ import annotations

from contracts.base import Message

MOST_TURN_S = 2.0
"""So much of the time between two looks counts at most."""
HELD_UP_S = 1.0
"""A loop that is late by so much was held up: no token was passed on meanwhile."""


class Sign(Message, frozen=True, kw_only=True):
    """What is seen of one owner."""

    name: str
    ended: bool = False
    """Its task is over, though nobody has stopped the daemon."""
    resting: bool = False
    """It waits for something that may take any time."""
    silent_s: float = 0.0
    """How long the loop has turned since it last showed life."""
    every_s: float = 0.0
    """How often it shows life when all is well."""
    where: str = ""
    """The line that it waits in."""


class Ailing(Message, frozen=True, kw_only=True):
    """An owner that does not do its work."""

    name: str
    ended: bool
    text: str


def ailing(signs: tuple[Sign, ...], patience_s: float) -> tuple[Ailing, ...]:
    """The owners that are dead, and those that have been silent for longer than ``patience_s`` beyond their pace."""
    return tuple(found for sign in signs if (found := _judge(sign, patience_s)) is not None)


def turned_s(elapsed_s: float) -> float:
    """How much of the time since the last look counts: not what the loop, the process or the machine has slept."""
    return max(0.0, min(elapsed_s, MOST_TURN_S))


def held_up_s(elapsed_s: float, planned_s: float) -> float | None:
    """How late the loop is, where that is worth a line."""
    late_s = elapsed_s - planned_s
    return late_s if late_s >= HELD_UP_S else None


def _judge(sign: Sign, patience_s: float) -> Ailing | None:
    if sign.ended:
        return Ailing(name=sign.name, ended=True, text=f"{sign.name} has ended, and nobody does its work")
    if sign.resting or sign.silent_s <= 2 * sign.every_s + patience_s:
        return None
    where = f"; it waits in {sign.where}" if sign.where else ""
    text = f"{sign.name} has shown no life for {sign.silent_s:.0f} s{where}"
    return Ailing(name=sign.name, ended=False, text=text)
