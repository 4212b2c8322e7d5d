"""Remembers which catalogued models are out of use, so that a pool that serves one says so.

Decides how that reads. Never decides that a model is Retired, ends no engine, and reads no file: whoever watches the
catalog tells it.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from contracts.engines import ModelEntry, ModelState
from contracts.pools import Cause, PoolError, PoolSnapshot


class Retired:
    """The models that are Retired, by id, each with why."""

    def __init__(self) -> None:
        self._why: dict[str, PoolError] = {}

    def seen(self, entries: Iterable[ModelEntry], now_ms: int) -> bool:
        """Take over what the catalog says now; whether that changed anything."""
        now = {entry.id: entry for entry in entries if entry.state is ModelState.RETIRED}
        before, self._why = self._why, {}
        for identifier, entry in now.items():
            error = _error(entry, now_ms)
            known = before.get(identifier)
            same = known is not None and known.message == error.message
            self._why[identifier] = known if known is not None and same else error
        return self._why != before

    def show(self, snapshot: PoolSnapshot) -> PoolSnapshot:
        """The snapshot of a pool, with what there is to say about the model that it serves."""
        if snapshot.model_id is None:
            return snapshot
        why = self._why.get(snapshot.model_id)
        if why is None:
            return replace(snapshot, model_state=ModelState.ACTIVE)
        error = why if snapshot.live else snapshot.last_error
        return replace(snapshot, model_state=ModelState.RETIRED, last_error=error)


def _error(entry: ModelEntry, now_ms: int) -> PoolError:
    why = f" ({entry.state_reason})" if entry.state_reason else ""
    text = f"{entry.id} was taken out of use{why}; an engine that has it goes on until its pool is reloaded or drained"
    hint = f"`llama-orch models activate {entry.id}` brings it back; or reload the pool with another model"
    return PoolError(cause=Cause.MODEL_RETIRED, message=text, hint=hint, at_ms=now_ms)
