"""Who needs which model, as far as this daemon knows: its pools, configured and running, and what runs from before.

Decides nothing: ``model_provisioner.holds`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from contracts.config import Mode, Pool
from contracts.pools import PoolSnapshot
from model_provisioner.cache import engines_left
from model_provisioner.holds import Hold


class InUse:
    """Call it for the present holds. It is called in any thread, and reads the handle files each time."""

    def __init__(self, pools: Iterable[Pool], handles: Path) -> None:
        self._pools = tuple(pools)
        self._handles = handles
        self._snapshots: Callable[[], tuple[PoolSnapshot, ...]] = tuple

    def follow(self, snapshots: Callable[[], tuple[PoolSnapshot, ...]]) -> None:
        """From now on also count what the pools serve and prepare."""
        self._snapshots = snapshots

    def __call__(self) -> tuple[Hold, ...]:
        """Every hold there is."""
        return (*self.by_pools(), *engines_left(self._handles))

    def by_pools(self) -> tuple[Hold, ...]:
        """Those of the pools alone."""
        return (*_configured(self._pools), *_running(self._snapshots()))

    def engine_of(self, by: Iterable[str]) -> str:
        """The engine of the first of these holders that is a pool: for the label of a metric."""
        names = {_name(pool.id): str(pool.engine) for pool in self._pools}
        return next((names[each] for each in by if each in names), "none")


def _configured(pools: Iterable[Pool]) -> Iterator[Hold]:
    for pool in pools:
        if pool.mode is not Mode.EXTERNAL:
            yield Hold(by=_name(pool.id), ref=pool.model)


def _running(snapshots: Iterable[PoolSnapshot]) -> Iterator[Hold]:
    for seen in snapshots:
        if seen.provisioning_mode is Mode.EXTERNAL:
            continue
        for ref in (seen.model_ref, seen.next_model_ref, seen.previous_model_ref):
            if ref is not None:
                yield Hold(by=_name(seen.pool_id), ref=ref)
        if seen.model_id is not None:
            yield Hold(by=_name(seen.pool_id), id=seen.model_id)


def _name(pool_id: str) -> str:
    return f"pool {pool_id}"
