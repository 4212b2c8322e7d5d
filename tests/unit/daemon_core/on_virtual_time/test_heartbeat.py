"""Owners that live, rest, hang and die, on a loop whose clock jumps."""

import asyncio
import logging
from collections.abc import Callable, Coroutine

import pytest

from daemon_core.heartbeat import PATIENCE_S, Heart, Heartbeats, feed_watchdog
from daemon_core.notify import Notifier
from tests.support.virtual_loop import pass_time

pytestmark = pytest.mark.req("OP-01")


class Systemd(Notifier):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__({})
        self.heard_lines: list[str] = []

    def _send(self, state: str, status: str = "") -> bool:
        self.heard_lines += [line for line in (state, status) if line]
        return True


@pytest.fixture
def systemd() -> Systemd:
    return Systemd()


async def watching(
    beats: Heartbeats, systemd: Systemd, seconds: float, *, interval_s: float | None = 15.0, stopping: bool = False
) -> None:
    stop = asyncio.Event()
    if stopping:
        stop.set()
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(feed_watchdog(beats, systemd, interval_s, stop))
        await pass_time(seconds)
        feeding.cancel()


def spawn(
    group: asyncio.TaskGroup, beats: Heartbeats, rounds: Callable[[Heart], Coroutine[None, None, None]]
) -> asyncio.Task[None]:
    async def run() -> None:
        await rounds(beats.owner("attendant", 0.5))

    return group.create_task(run(), name="attendant")


async def lives(heart: Heart) -> None:
    while True:
        heart.beat()
        await pass_time(0.5)


async def hangs(_heart: Heart) -> None:
    await asyncio.Event().wait()


async def rests(heart: Heart) -> None:
    with heart.resting():
        await asyncio.Event().wait()


async def test_an_owner_that_lives_has_the_watchdog_fed(systemd: Systemd) -> None:
    beats = Heartbeats()
    async with asyncio.TaskGroup() as group:
        task = spawn(group, beats, lives)
        await watching(beats, systemd, 100)
        task.cancel()
    assert set(systemd.heard_lines) == {"WATCHDOG=1"}
    assert len(systemd.heard_lines) >= 99


async def test_one_that_hangs_is_named_once_with_the_place_and_the_watchdog_goes_hungry(
    systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    beats = Heartbeats()
    async with asyncio.TaskGroup() as group:
        task = spawn(group, beats, hangs)
        await watching(beats, systemd, 29)
        fed = systemd.heard_lines.count("WATCHDOG=1")
        await watching(beats, systemd, 60)
        task.cancel()
    assert fed >= 29
    assert systemd.heard_lines.count("WATCHDOG=1") - fed <= 4
    errors = [each.message for each in caplog.records if each.levelno == logging.ERROR]
    assert [vars(each).get("owner") for each in caplog.records] == ["attendant"]
    assert len(errors) == 1
    assert errors[0].startswith("attendant has shown no life for 3")
    assert "it waits in test_heartbeat.py:" in errors[0]
    assert errors[0].endswith("the service manager starts this daemon again")


async def test_one_that_has_ended_is_not_waited_for(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    beats = Heartbeats()
    async with asyncio.TaskGroup() as group:
        task = spawn(group, beats, rests)
        await watching(beats, systemd, 300)
        assert "WATCHDOG=trigger" not in systemd.heard_lines
        task.cancel()  # a task group says nothing about a child that was cancelled
        await asyncio.sleep(0)
        await watching(beats, systemd, 3)
    assert "WATCHDOG=trigger" in systemd.heard_lines
    assert "attendant has ended, and nobody does its work" in caplog.text


async def test_owners_that_end_because_something_else_has_failed_are_not_blamed(
    systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    beats, stop = Heartbeats(), asyncio.Event()

    async def fails() -> None:
        await pass_time(3)
        raise ZeroDivisionError

    async def daemon() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                _ = spawn(group, beats, lives)
                group.create_task(fails())
                with beats.while_serving():
                    await stop.wait()
        finally:
            await pass_time(5)  # connections get to take their last bytes

    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(feed_watchdog(beats, systemd, 15.0, stop))
        with pytest.raises(ExceptionGroup):
            await daemon()
        feeding.cancel()
    assert set(systemd.heard_lines) == {"WATCHDOG=1"}
    assert len(systemd.heard_lines) <= 5, "the way out has the watchdog's time, and no more"
    assert not caplog.records


async def test_one_with_an_inbox_answers_or_does_not(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    beats, inbox = Heartbeats(), list[Callable[[], None]]()
    beats.ask("the owner of pool a", lambda answer: answer())
    await watching(beats, systemd, 100)
    assert set(systemd.heard_lines) == {"WATCHDOG=1"}
    beats.ask("the owner of pool b", inbox.append)
    await watching(beats, systemd, 100)
    assert len(inbox) == 1  # not a second question before the first is answered
    assert "the owner of pool b has shown no life" in caplog.text
    inbox.pop()()
    systemd.heard_lines.clear()
    await watching(beats, systemd, 5)
    assert "WATCHDOG=1" in systemd.heard_lines


async def test_a_task_that_is_guarded_may_do_as_it_likes_but_end(systemd: Systemd) -> None:
    beats = Heartbeats()
    async with asyncio.TaskGroup() as group:
        beats.guard(group.create_task(pass_time(50), name="pools"))
        await watching(beats, systemd, 49)
        assert set(systemd.heard_lines) == {"WATCHDOG=1"}
        await watching(beats, systemd, 5)
    assert "WATCHDOG=trigger" in systemd.heard_lines


async def test_one_that_comes_back_has_it_fed_again(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    async def stumbles(heart: Heart) -> None:
        await pass_time(40)
        await lives(heart)

    beats = Heartbeats()
    async with asyncio.TaskGroup() as group:
        task = spawn(group, beats, stumbles)
        await watching(beats, systemd, 60)
        task.cancel()
    assert "attendant shows life again" in caplog.text
    assert systemd.heard_lines[-1] == "WATCHDOG=1"


async def test_without_a_watchdog_it_is_only_said(systemd: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    beats = Heartbeats()
    async with asyncio.TaskGroup() as group:
        task = spawn(group, beats, hangs)
        await watching(beats, systemd, PATIENCE_S + 5, interval_s=None)
        task.cancel()
    assert caplog.text.count("restart this daemon") == 1


async def test_on_the_way_out_owners_may_end(systemd: Systemd) -> None:
    beats = Heartbeats()
    async with asyncio.TaskGroup() as group:
        spawn(group, beats, rests).cancel()
        await asyncio.sleep(0)
    await watching(beats, systemd, 100, stopping=True)
    assert set(systemd.heard_lines) == {"WATCHDOG=1"}
