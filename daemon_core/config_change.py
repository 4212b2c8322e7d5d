"""Decides what a changed configuration file means for a daemon that runs: values in, lines for the operator out.

Nothing here is applied: an engine that serves is never touched because a file changed.
"""

from __future__ import annotations

from msgspec.structs import fields

from contracts.config import Config, Pool


def needs_restart(running: Config, read: Config) -> tuple[str, ...]:
    """What differs and takes effect at the daemon's next start only; the section ``logging`` is applied at once."""
    sections = [field.name for field in fields(Config) if field.name not in {"pools", "logging"}]
    changed = [name for name in sections if getattr(running, name) != getattr(read, name)]
    before = {pool.id: pool for pool in running.pools}
    after = {pool.id: pool for pool in read.pools}
    added = [f"pool {name} is new" for name in after if name not in before]
    removed = [f"pool {name} is gone" for name in before if name not in after]
    edited = [_edited(before[name], after[name]) for name in before if name in after and before[name] != after[name]]
    return (*changed, *added, *removed, *edited)


def _edited(before: Pool, after: Pool) -> str:
    names = [field.name for field in fields(Pool) if getattr(before, field.name) != getattr(after, field.name)]
    return f"pool {before.id}: {', '.join(names)}"
