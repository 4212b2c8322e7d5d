"""What becomes of the tasks that a former run has left without an end."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import RETRIABLE, ErrorCode
from contracts.pools import PoolSnapshot
from contracts.tasks import Determinism, TaskRequest
from orchestratord.determinism import comparable, difference, repeatable
from orchestratord.recovery import EndNow, Fate, RunAgain, WaitAgain, fate, outlives_a_stop
from orchestratord.task import Run
from tests.unit.orchestratord.world import request, snapshot

PINNED = snapshot(engine_digest="sha256:e")
STRICT = request(determinism=Determinism.STRICT)


def of(wanted: TaskRequest = request(), **changes: Any) -> Fate:  # noqa: ANN401, B008 - any argument; a frozen value
    given: dict[str, Any] = {
        "pools": ["p"],
        "known_pools": ["p", "q"],
        "age_ms": 100,
        "ran_on": None,
        "sent": False,
        "journaled": False,
    }
    return fate(wanted, **(given | changes))


def began(wanted: TaskRequest = STRICT, **changes: Any) -> Fate:  # noqa: ANN401 - any argument
    return of(wanted, **({"ran_on": PINNED, "sent": True, "journaled": True} | changes))


def error_of(found: Fate) -> ErrorCode:
    assert isinstance(found, EndNow)
    return found.refusal.code


def test_a_waiting_task_waits_on_in_the_lane_that_was_written() -> None:
    assert of(pools=["p", "q"], known_pools=["p", "q", "r"]) == WaitAgain(frozenset({"p", "q"}), None)


def test_a_pool_that_left_the_configuration_leaves_the_lane() -> None:
    assert of(pools=["p", "q"], known_pools=["q"]) == WaitAgain(frozenset({"q"}), None)


def test_without_any_pool_left_it_ends_and_says_which_are_gone() -> None:
    ends = of(pools=["b", "a"])
    assert error_of(ends) is ErrorCode.POOL_UNAVAILABLE
    assert isinstance(ends, EndNow)
    assert "a, b" in ends.refusal.message


@pytest.mark.parametrize(("age_ms", "left_ms"), [(100, 400), (499, 1), (500, None), (10**9, None)])
def test_a_deadline_counts_on_while_nobody_was_there(age_ms: int, left_ms: int | None) -> None:
    found = of(request(deadline_ms=500), age_ms=age_ms)
    if left_ms is None:
        assert error_of(found) is ErrorCode.ADMISSION_REJECT
    else:
        assert found == WaitAgain(frozenset({"p"}), left_ms)


@pytest.mark.req("HP-12")
def test_a_strict_task_is_run_again_behind_what_was_sent_where_it_ran() -> None:
    assert began(pools=["p", "q"]) == RunAgain(frozenset({"p"}), None)
    # A pool that came into service while it waited is none of those that were written down.
    assert began(pools=["q"]) == RunAgain(frozenset({"p"}), None)
    assert error_of(began(known_pools=["q"])) is ErrorCode.WORKER_RESET


def test_a_strict_task_whose_deadline_passed_ends_as_one_that_ran() -> None:
    late = request(determinism=Determinism.STRICT, deadline_ms=1)
    assert error_of(began(late)) is ErrorCode.DECODE_TIMEOUT


@pytest.mark.req("HP-17")
@pytest.mark.parametrize(
    "left",
    [
        began(request()),
        began(ran_on=None),
        began(journaled=False),
        began(known_pools=["q"]),
        began(ran_on=msgspec.structs.replace(PINNED, slots=2)),
        began(ran_on=msgspec.structs.replace(PINNED, model_digest=None)),
        began(ran_on=msgspec.structs.replace(PINNED, engine_digest=None)),
        began(ran_on=msgspec.structs.replace(PINNED, engine_version=None)),
    ],
    ids=["best effort", "nobody knows", "not written", "no pool", "slots", "model", "engine", "version"],
)
def test_any_other_that_had_begun_ends_and_may_be_sent_again_at_once(left: Fate) -> None:
    assert error_of(left) is ErrorCode.WORKER_RESET
    assert isinstance(left, EndNow)
    assert left.refusal.retry_after_ms == 0


def test_a_request_that_was_not_written_whole_cannot_be_run() -> None:
    left = of(veiled=True)
    assert error_of(left) is ErrorCode.WORKER_RESET
    assert isinstance(left, EndNow)
    assert "secret" in left.refusal.message


@given(
    st.sampled_from(list(Determinism)),
    st.tuples(st.sets(st.sampled_from("abp"), min_size=1), st.sets(st.sampled_from("abcp"))),
    st.tuples(st.none() | st.integers(1, 1000), st.integers(0, 1000)),
    st.none() | st.just(PINNED),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_every_task_has_a_fate_and_every_end_may_be_tried_again(
    determinism: Determinism,
    lanes: tuple[set[str], set[str]],
    times: tuple[int | None, int],
    ran_on: PoolSnapshot | None,
    flags: tuple[bool, bool, bool],
) -> None:
    (pools, known), (deadline_ms, age_ms) = lanes, times
    wanted = request(determinism=determinism, deadline_ms=deadline_ms)
    sent, journaled, veiled = flags
    match of(
        wanted,
        pools=pools,
        known_pools=known,
        age_ms=age_ms,
        ran_on=ran_on,
        sent=sent,
        journaled=journaled,
        veiled=veiled,
    ):
        case EndNow(refusal=refusal):
            assert refusal.code in RETRIABLE
        case WaitAgain(pools=lane, deadline_left_ms=left_ms):
            assert lane == pools & known != set()
            assert not sent
            assert left_ms is None or left_ms > 0
        case RunAgain(pools=lane, deadline_left_ms=left_ms):
            assert lane == {"p"} <= pools & known
            assert sent
            assert journaled
            assert ran_on is not None
            assert repeatable(wanted, ran_on)
            assert left_ms is None or left_ms > 0


def test_what_can_be_gone_on_with_is_left_to_the_next_run() -> None:
    run = Run(pool_id="p", replica_id="p-0", engine="llamacpp", engine_version="b1", at_ms=0.0, served=PINNED)
    assert outlives_a_stop(request(), None, None)
    assert outlives_a_stop(request(), None, run)  # nobody has been told anything
    assert outlives_a_stop(STRICT, 1.0, run)
    assert not outlives_a_stop(request(), 1.0, run)
    assert not outlives_a_stop(STRICT, 1.0, msgspec.structs.replace(run, served=None))


# --- whether an engine is the same ---


def test_the_same_engine_started_anew_is_the_same() -> None:
    argv = ("llama-server", "--ctx-size", "4096", "--port", "1111", "--api-key-file=/run/a", "-np", "1")
    again = ("llama-server", "--ctx-size", "4096", "--port", "2222", "--api-key-file=/run/b", "-np", "1")
    before = snapshot(argv=argv)
    assert difference(before, snapshot(argv=again, revision=9, restarts=3, replica_id="p-1")) is None
    assert comparable(argv) == ("llama-server", "--ctx-size", "4096", "-np", "1")


@pytest.mark.parametrize(
    "change",
    [
        {"engine_version": "b2"},
        {"engine_digest": "sha256:1"},
        {"model_digest": "sha256:1"},
        {"sampler_profile_version": "v2"},
        {"slots": 2},
        {"ctx_max": 1},
        {"argv": ("--flash-attn",)},
    ],
)
def test_each_fact_that_decides_a_text_tells_two_engines_apart(change: dict[str, Any]) -> None:
    told = difference(snapshot(), msgspec.structs.replace(snapshot(), **change))
    assert told is not None
    [name] = change
    assert f"{name} was " in told
