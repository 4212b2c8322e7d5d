"""Decides what the unit's status line says of this daemon. Numbers in, one line out."""

from __future__ import annotations

import msgspec


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to say."""

    ready: int
    pools: int
    managed: bool
    """Whether pool-managerd can be reached."""
    queued: int
    running: int
    draining: bool
    trouble: str | None = None
    """Why nobody can be let in."""


def status_line(now: Present) -> str:
    """One line, as ``systemctl --user status`` shows it."""
    if now.draining:
        streams = f"{now.running} stream{'' if now.running == 1 else 's'} left"
        kept = f"; {now.queued} queued for the next start" if now.queued else ""
        return f"draining, {streams}{kept}"
    away = "" if now.managed else "; pool-managerd is away"
    trouble = "" if now.trouble is None else f"; {now.trouble}"
    return f"{now.ready}/{now.pools} pools ready, {now.queued} queued, {now.running} running{away}{trouble}"
