"""Decides what a changed configuration file means for a daemon that runs: values in, values and lines out.

Nothing is applied here, and an engine that serves is never touched because a file changed. Parts are named as in the
file: a section (``limits``), a key of one (``server.drain_ms``), or a key of every pool (``pools.queue``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec.structs import fields, replace

from contracts.config import Config, Pool

POOLS = "pools"
Section = TypeVar("Section", bound=msgspec.Struct)


def taken_over(running: Config, read: Config, at_once: Collection[str]) -> Config:
    """The configuration that runs, with the parts named in ``at_once`` as they were read."""
    after = {pool.id: pool for pool in read.pools}
    keys = [name for name in at_once if name.startswith(f"{POOLS}.")]
    pools = tuple(_with(pool, after.get(pool.id, pool), keys, f"{POOLS}.") for pool in running.pools)
    changes: dict[str, Any] = {POOLS: pools}
    for name in _sections():
        mine = getattr(running, name)
        theirs = getattr(read, name)
        if name in at_once:
            changes[name] = theirs
        elif isinstance(mine, msgspec.Struct):
            changes[name] = _with(mine, theirs, at_once, f"{name}.")
    return replace(running, **changes)


def needs_restart(
    running: Config, read: Config, *, at_once: Collection[str] = ("logging",), elsewhere: Collection[str] = ()
) -> tuple[str, ...]:
    """What differs and takes effect at the daemon's next start only; ``elsewhere`` is what this daemon does not use."""
    passed_over = {*at_once, *elsewhere}
    changed = [name for name in _changed(running, read) if passed_over.isdisjoint({name, name.partition(".")[0]})]
    before = {pool.id: pool for pool in running.pools}
    after = {pool.id: pool for pool in read.pools}
    added = [f"pool {name} is new" for name in after if name not in before]
    removed = [f"pool {name} is gone" for name in before if name not in after]
    edited = [_edited(before[name], after[name], passed_over) for name in before if name in after]
    return (*changed, *added, *removed, *(each for each in edited if each))


def _changed(running: Config, read: Config) -> Iterator[str]:
    for name in _sections():
        mine, theirs = getattr(running, name), getattr(read, name)
        if isinstance(mine, msgspec.Struct):
            yield from (f"{name}.{key}" for key in _differences(mine, theirs))
        elif mine != theirs:
            yield name


def _sections() -> list[str]:
    return [field.name for field in fields(Config) if field.name != POOLS]


def _with(mine: Section, theirs: Section, at_once: Collection[str], prefix: str) -> Section:
    keys = [field.name for field in fields(type(mine)) if f"{prefix}{field.name}" in at_once]
    return replace(mine, **{key: getattr(theirs, key) for key in keys})


def _differences(mine: msgspec.Struct, theirs: msgspec.Struct) -> list[str]:
    return [field.name for field in fields(type(mine)) if getattr(mine, field.name) != getattr(theirs, field.name)]


def _edited(before: Pool, after: Pool, passed_over: Collection[str]) -> str:
    names = [name for name in _differences(before, after) if f"{POOLS}.{name}" not in passed_over]
    return f"pool {before.id}: {', '.join(names)}" if names else ""
