"""The hot loop against scripted engines, on virtual time."""

import asyncio
import math

import pytest

from adapters.base import Batch, EngineError, Failure, Finished, Generation
from contracts.errors import ErrorCode
from contracts.events import FinishReason
from orchestratord.relay import Limits, relay
from orchestratord.retry import Failed
from tests.support.virtual_loop import LoopClock, pass_time
from tests.unit.orchestratord.frames import events_of, text_of
from tests.unit.orchestratord.test_task import started
from tests.unit.orchestratord.world import HANG, STOPPED_WELL, Pause, Script, ScriptedAdapter, Step, ticking

LIMITS = Limits(wall_ms=10_000, idle_ms=1_000)


async def run(script: Script, limits: Limits = LIMITS) -> tuple[Finished | Failed, str, ScriptedAdapter, float]:
    """The outcome, the text, the engine, and how many milliseconds it took."""
    task, engine, clock = started(), ScriptedAdapter(script), LoopClock()
    before = clock.monotonic_ms()
    outcome = await relay(task, engine, Generation(prompt="p"), limits, clock)
    assert not task.finished, "the caller closes the log"
    return outcome, text_of(task.log.read(0)), engine, clock.monotonic_ms() - before


async def failed(script: Script, limits: Limits = LIMITS) -> tuple[Failed, str, ScriptedAdapter, float]:
    outcome, text, engine, took = await run(script, limits)
    assert isinstance(outcome, Failed)
    assert (engine.open, engine.closed) == (0, 1)
    return outcome, text, engine, took


async def test_a_good_generation() -> None:
    outcome, text, engine, _ = await run(Script(["Hel", Pause(0.9), "lo", STOPPED_WELL]))
    assert outcome is STOPPED_WELL
    assert text == "Hello"
    assert (engine.open, engine.closed) == (0, 1)


async def test_everything_one_read_brings_is_one_append() -> None:
    task, engine = started(), ScriptedAdapter(Script([["a", "b", "c"], Batch(["d", "e"], STOPPED_WELL)]))
    wakes: list[str] = []
    task.log.subscribe(lambda: wakes.append(text_of(task.log.read(0))))
    await relay(task, engine, Generation(prompt="p"), LIMITS, LoopClock())
    assert wakes == ["abc", "abcde"]


async def test_the_first_text_goes_out_before_anything_behind_it_is_looked_at() -> None:
    """A short answer comes whole, and what its end takes is not the first token's to wait for."""
    loop, task = asyncio.get_running_loop(), started()
    engine = ScriptedAdapter(Script([Batch(["a"]), Batch(["b"], STOPPED_WELL)]))
    written: list[str] = []

    def wake() -> None:
        loop.call_soon(lambda: written.append(text_of(task.log.read(0))))

    task.log.subscribe(wake)
    await relay(task, engine, Generation(prompt="p"), LIMITS, LoopClock())
    assert written == ["a"]


async def test_a_read_without_text_appends_nothing() -> None:
    task, engine = started(), ScriptedAdapter(Script([[], [], STOPPED_WELL]))
    wakes: list[int] = []
    task.log.subscribe(lambda: wakes.append(1))
    await relay(task, engine, Generation(prompt="p"), LIMITS, LoopClock())
    assert wakes == []
    assert task.status.first_token_ms is None


async def test_nothing_is_read_behind_the_final_event() -> None:
    outcome, text, _, _ = await run(Script(["a", STOPPED_WELL, "late", RuntimeError("never reached")]))
    assert outcome is STOPPED_WELL
    assert text == "a"


@pytest.mark.req("HP-17")
@pytest.mark.parametrize("silence", ["middle", "end"])
async def test_an_engine_that_falls_silent_is_given_up_at_the_idle_limit(silence: str) -> None:
    script = {"middle": Script(["a", HANG, "b"]), "end": Script(["a", "b", HANG])}[silence]
    outcome, text, _, took = await failed(script)
    assert outcome == Failed(
        code=ErrorCode.DECODE_TIMEOUT,
        message="the engine was given up after 1000 ms (idle limit)",
        hint="timeouts.idle_ms of the pool sets this limit",
        engine_suspect=True,
        hung=True,
    )
    assert text == {"middle": "a", "end": "ab"}[silence]
    assert took == pytest.approx(1_000, abs=1)


@pytest.mark.req("HP-17")
@pytest.mark.parametrize("silence", ["headers", "first", "without text"])
async def test_before_the_first_token_only_the_wall_limit_counts(silence: str) -> None:
    beats = ticking("", 0.5, 100)
    nothing: list[Step] = [[] if beat == "" else beat for beat in beats]
    script = {"headers": Script(headers=[HANG]), "first": Script([HANG]), "without text": Script(nothing)}[silence]
    outcome, text, _, took = await failed(script)
    assert outcome == Failed(
        code=ErrorCode.DECODE_TIMEOUT,
        message="the engine was given up after 10000 ms (wall limit), before its first token",
        hint="timeouts.wall_ms of the pool sets this limit",
        engine_suspect=True,
        hung=True,
    )
    assert text == ""
    assert took == pytest.approx(10_000, abs=1)


@pytest.mark.req("HP-17")
async def test_a_prompt_that_takes_longer_than_the_idle_limit_is_answered() -> None:
    outcome, text, _, took = await run(Script(headers=[Pause(4)], body=[Pause(5), "a", Pause(0.9), "b", STOPPED_WELL]))
    assert outcome is STOPPED_WELL
    assert text == "ab"
    assert took == pytest.approx(9_900, abs=1)


@pytest.mark.req("HP-17")
async def test_an_event_without_text_is_a_sign_of_life_among_tokens() -> None:
    outcome, _, _, took = await failed(Script(["a", Pause(0.9), [], Pause(0.9), [], HANG]))
    assert outcome.code is ErrorCode.DECODE_TIMEOUT
    assert took == pytest.approx(2_800, abs=1)


@pytest.mark.req("HP-17")
async def test_every_read_starts_the_idle_limit_anew() -> None:
    outcome, text, _, took = await run(Script(ticking("x", 0.99, 8, STOPPED_WELL)))
    assert outcome is STOPPED_WELL
    assert text == "x" * 8
    assert took == pytest.approx(8 * 990, abs=1)


@pytest.mark.req("HP-17")
async def test_the_idle_limit_counts_from_the_last_read() -> None:
    outcome, _, _, took = await failed(Script(["a", Pause(0.7), "b", HANG]))
    assert outcome.code is ErrorCode.DECODE_TIMEOUT
    assert took == pytest.approx(1_700, abs=1)


@pytest.mark.req("HP-17")
async def test_an_engine_that_never_ends_is_given_up_at_the_wall_limit() -> None:
    outcome, text, _, took = await failed(Script(ticking("x", 0.5, 30, STOPPED_WELL)))
    assert outcome == Failed(
        code=ErrorCode.DECODE_TIMEOUT,
        message="the engine was given up after 10000 ms (wall limit)",
        hint="timeouts.wall_ms of the pool sets this limit",
        engine_suspect=False,
    )
    assert took == pytest.approx(10_000, abs=1)
    assert text == "x" * 20


async def test_an_engine_that_sends_too_much_is_given_up_before_the_memory_is_full() -> None:
    """Whatever it was told by ``max_tokens``, and however quickly it does so."""
    piece = "x" * (4 * 1024 * 1024)
    outcome, text, _, _ = await failed(Script([[piece] for _ in range(100)]))
    assert (outcome.code, outcome.message) == (ErrorCode.WORKER_RESET, "the engine has sent more than 32 MiB")
    assert (outcome.failure, outcome.engine_suspect) == (Failure.PROTOCOL, False), "another attempt would do the same"
    assert 7 <= len(text) / len(piece) <= 8


FAILURES = (
    (Failure.REFUSED, ErrorCode.WORKER_RESET, "send the task again", True),
    (Failure.LOADING, ErrorCode.POOL_UNREADY, None, True),
    (Failure.OVERLOADED, ErrorCode.REPLICA_EXHAUSTED, None, False),
    (Failure.INVALID, ErrorCode.INVALID_PARAMS, None, False),
    (Failure.CONTEXT, ErrorCode.INVALID_PARAMS, None, False),
    (Failure.UNAUTHORIZED, ErrorCode.POOL_UNREADY, "correct the pool's key: no task gets through before", False),
    (Failure.BROKEN, ErrorCode.WORKER_RESET, "send the task again", True),
    (Failure.PROTOCOL, ErrorCode.WORKER_RESET, "send the task again", False),
    (Failure.TIMEOUT, ErrorCode.DECODE_TIMEOUT, None, True),
)


@pytest.mark.req("AD-02")
@pytest.mark.parametrize(("failure", "code", "hint", "suspect"), FAILURES)
@pytest.mark.parametrize("where", ["headers", "body"])
async def test_an_engines_failure_in_our_words(
    failure: Failure, code: ErrorCode, hint: str | None, suspect: bool, where: str
) -> None:
    error = EngineError(failure, "it said so")
    outcome, text, _, _ = await failed(Script(headers=[error]) if where == "headers" else Script(["a", error]))
    assert outcome == Failed(
        code=code,
        message="it said so",
        hint=hint,
        engine_suspect=suspect,
        failure=failure,
        may_go_on=failure is not Failure.REFUSED,
    )
    assert text == ("" if where == "headers" else "a")


def test_every_failure_has_been_decided_about() -> None:
    assert {failure for failure, _, _, _ in FAILURES} == set(Failure)


@pytest.mark.req("HP-17")
async def test_a_stream_that_ends_without_its_final_event_is_a_dead_worker() -> None:
    outcome, text, _, took = await failed(Script(["a", "b"]))
    assert outcome == Failed(
        code=ErrorCode.WORKER_RESET,
        message="the engine's stream ended without its final event",
        hint="send the task again",
        engine_suspect=True,
        failure=Failure.BROKEN,
    )
    assert text == "ab"
    assert took == 0


@pytest.mark.parametrize(
    ("status", "may_go_on", "unknown"),
    [(None, True, False), (200, True, False), (503, False, False), (404, False, True)],
)
async def test_what_an_answers_status_says(status: int | None, may_go_on: bool, unknown: bool) -> None:
    outcome, _, _, _ = await failed(Script(headers=[EngineError(Failure.BROKEN, "no", status=status)]))
    assert (outcome.may_go_on, outcome.unknown) == (may_go_on, unknown)


@pytest.mark.req("HP-11")
@pytest.mark.parametrize("script", [Script(headers=[HANG]), Script([HANG]), Script(["a", HANG])], ids=str)
async def test_a_cancel_closes_the_connection_and_is_no_timeout(script: Script) -> None:
    task, engine = started(), ScriptedAdapter(script)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(relay(task, engine, Generation(prompt="p"), LIMITS, LoopClock()))
        await pass_time(0.5)
        assert engine.open == 1
        running.cancel()
        await pass_time(0)
        await pass_time(0)
        assert (engine.open, engine.closed) == (0, 1)
    assert running.cancelled()
    assert events_of(task.log.read(0))[-1:] in (["token"], ["started"])


async def test_a_cancel_that_meets_the_limit_stays_a_cancel() -> None:
    task, engine = started(), ScriptedAdapter(Script([HANG]))
    async with asyncio.TaskGroup() as group:
        running = group.create_task(relay(task, engine, Generation(prompt="p"), LIMITS, LoopClock()))
        asyncio.get_running_loop().call_later(1.0, running.cancel)
        await pass_time(2)
        assert running.cancelled()
    assert engine.open == 0


async def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        await run(Script(["a", ZeroDivisionError()]))


async def test_no_timer_is_left_behind() -> None:
    before = len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]  # noqa: SLF001 - nothing else shows it
    await run(Script(["a", STOPPED_WELL]), Limits(wall_ms=1e9, idle_ms=1e9))
    timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]  # noqa: SLF001 - as above
    assert [timer for timer in timers if not timer.cancelled()][before:] == []


async def test_the_length_of_an_answer_is_the_engines_to_say() -> None:
    outcome, _, _, _ = await run(
        Script(["a", Finished(reason=FinishReason.LENGTH)]), Limits(wall_ms=math.inf, idle_ms=1)
    )
    assert outcome == Finished(reason=FinishReason.LENGTH)
