"""What is remembered of engines that were looked at."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Coroutine

import pytest

from orchestratord.looks import MAX_HANGS, Looks
from orchestratord.pools import PoolEntry
from tests.unit.orchestratord.world import ScriptedAdapter, pool


class Heard:
    """What looks lead to; nothing of it is begun."""

    def __init__(self) -> None:
        self.restarted: list[str] = []
        self.looks = Looks(learned=lambda _: None, usable=lambda: None, restart=self._restart, start=self._start)

    def _restart(self, pool_id: str) -> bool:
        self.restarted.append(pool_id)
        return True

    def _start(self, work: Coroutine[None, None, None], _name: str) -> None:
        work.close()


def serving(adapter: ScriptedAdapter) -> PoolEntry:
    entry = PoolEntry(pool())
    entry.adapter = adapter
    return entry


@pytest.mark.parametrize("works_after", [None, MAX_HANGS - 1])
def test_only_hangs_in_a_row_are_worth_a_new_start(works_after: int | None) -> None:
    heard, adapter = Heard(), ScriptedAdapter()
    entry = serving(adapter)
    for number in range(MAX_HANGS):
        if number == works_after:
            heard.looks.worked(adapter)
        heard.looks.hung(entry, adapter)
    assert heard.restarted == ([] if works_after else [entry.id])


def test_an_engine_that_is_gone_is_not_remembered_for_having_hung() -> None:
    heard, adapter = Heard(), ScriptedAdapter()
    entry = serving(adapter)
    heard.looks.hung(entry, adapter)
    gone = weakref.ref(adapter)
    entry.adapter = ScriptedAdapter()
    del adapter
    gc.collect()
    assert gone() is None
