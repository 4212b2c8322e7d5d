from __future__ import annotations

import pytest

from contracts.pools import Cause, PoolError, PoolHealth, PoolState
from llama_orch.waiting import EARLY_LOOKS, Ended, drain_ended, reload_ended
from tests.unit.llama_orch.fake import FakeDaemon

LATER = EARLY_LOOKS + 1
OLD, NEW = "old.gguf", "new.gguf"
BEFORE = PoolError(cause=Cause.ENGINE_EXIT, message="long ago", at_ms=1)
ERROR = PoolError(cause=Cause.MODEL_MISSING, message="there is no such file", at_ms=2)


def pool(state: PoolState = PoolState.READY, model_ref: str = OLD, **more: object) -> PoolHealth:
    return FakeDaemon().health(state, model_ref, **{"last_error": BEFORE, **more})


def test_a_drain_ends_with_a_stopped_pool() -> None:
    assert drain_ended(pool(), looks=1) is None, "it may not have begun"
    assert drain_ended(pool(PoolState.DRAINING), looks=99) is None
    assert drain_ended(pool(PoolState.STOPPED), looks=1) == Ended(good=True, text="trial is drained and stopped")


def test_a_drain_that_somebody_undoes_is_not_waited_for() -> None:
    ended = drain_ended(pool(PoolState.STARTING), looks=LATER)
    assert ended == Ended(good=False, text="trial is starting: somebody asked for it again")


def test_a_reload_ends_when_the_new_model_serves() -> None:
    def ended(now: PoolHealth, looks: int = 1) -> Ended | None:
        return reload_ended(pool(), now, model_ref=NEW, looks=looks)

    assert ended(pool(), LATER) is None
    assert ended(pool(next_model_ref=NEW), LATER) is None
    assert ended(pool(PoolState.RELOADING, NEW), LATER) is None
    assert ended(pool(model_ref=NEW)) == Ended(good=True, text="trial serves new.gguf")


def test_a_reload_that_failed_is_told_with_what_serves_now() -> None:
    ended = reload_ended(pool(), pool(last_error=ERROR), model_ref=NEW, looks=1)
    assert ended == Ended(good=False, text="trial still serves old.gguf", error=ERROR)


def test_a_reload_to_the_same_model_is_not_done_before_it_began() -> None:
    def ended(now: PoolHealth, looks: int) -> Ended | None:
        return reload_ended(pool(), now, model_ref=OLD, looks=looks)

    assert ended(pool(), 1) is None
    assert ended(pool(next_model_ref=OLD), LATER) is None
    assert ended(pool(), LATER) == Ended(good=True, text="trial serves old.gguf")
    failed = ended(pool(last_error=ERROR), LATER)
    assert failed is not None
    assert not failed.good


@pytest.mark.parametrize("state", [PoolState.BACKOFF, PoolState.BROKEN, PoolState.QUARANTINED])
def test_a_pool_that_was_started_again_may_fail_again(state: PoolState) -> None:
    broken = pool(PoolState.BROKEN)
    assert reload_ended(broken, pool(state), model_ref=OLD, looks=LATER) is None, "it is as it was"
    ended = reload_ended(broken, pool(state, last_error=ERROR), model_ref=OLD, looks=1)
    assert ended == Ended(good=False, text=f"trial is {state}", error=ERROR)
    assert reload_ended(broken, pool(last_error=ERROR), model_ref=OLD, looks=1) == Ended(
        good=True, text="trial serves old.gguf"
    )


def test_a_pool_that_somebody_drains_meanwhile_is_not_waited_for() -> None:
    stopped = pool(PoolState.STOPPED)
    assert reload_ended(stopped, stopped, model_ref=OLD, looks=1) is None
    ended = reload_ended(stopped, stopped, model_ref=OLD, looks=LATER)
    assert ended == Ended(good=False, text="trial is stopped: somebody drained it")
