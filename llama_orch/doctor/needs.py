"""What a configuration needs of this machine: only that may fail, all else is skipped with its reason.

Decides it from the configuration alone.
"""

from __future__ import annotations

from contracts.base import Message
from contracts.config import Config, Mode, Pool, Profile


class Needs(Message, frozen=True, kw_only=True):
    """The pools that need each thing, by id."""

    no_gpu: str | None = None
    """Why no GPU is needed; None where one is."""
    containers: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()
    """Their engine is compiled here."""
    programs: tuple[str, ...] = ()
    """Their engine is a program of this machine, wherever it came from."""
    keys: tuple[str, ...] = ()
    """Names of environment variables that hold keys of external endpoints."""
    tasks_are_kept: bool = True


def needs_of(config: Config | None, asks: str | None = None) -> Needs:
    """What is needed; without a configuration what the home profile would need, or nothing on a client's machine."""
    if asks is not None:
        return Needs(no_gpu=f"this machine asks {asks}, and needs none")
    if config is None:
        return Needs()
    local = [pool for pool in config.pools if pool.mode is not Mode.EXTERNAL]
    return Needs(
        no_gpu=_no_gpu(config, local),
        containers=tuple(pool.id for pool in local if pool.mode is Mode.CONTAINER),
        builds=tuple(pool.id for pool in local if pool.mode is Mode.SOURCE),
        programs=tuple(pool.id for pool in local if pool.mode is not Mode.CONTAINER),
        keys=tuple(sorted({key for pool in config.pools if (key := _key(pool)) is not None})),
        tasks_are_kept=config.store.durability != "memory",
    )


def _no_gpu(config: Config, local: list[Pool]) -> str | None:
    if config.profile is Profile.TRIAL:
        return "profile trial needs none"
    return None if local else "every pool has its engine elsewhere, and needs none"


def _key(pool: Pool) -> str | None:
    external = pool.provisioning.external
    return external.api_key_env if external is not None and pool.mode is Mode.EXTERNAL else None
