"""Log lines that wait for a moment of leisure: their order, their time, and when they do not wait."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from contracts.config import Logging
from daemon_core import unhurried
from daemon_core.logs import setup
from daemon_core.redaction import Redactor
from daemon_core.unhurried import BUSY_S, LINES_AT_ONCE, LONGEST_S, PAUSE_S, unhurried_logs
from tests.support.virtual_loop import VirtualTimeLoop, pass_time

log = logging.getLogger("tests.unhurried")


@contextmanager
def written() -> Iterator[io.StringIO]:
    """What a daemon writes; the test's own handlers stay."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    setup("d", Logging(format="json"), Redactor(("sesame-open",)), stream)
    try:
        yield stream
    finally:
        root.handlers[:], root.level = handlers, level
        logging.captureWarnings(capture=False)


def messages(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["message"] for line in stream.getvalue().splitlines()]


def run(scene: object) -> None:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(scene)  # type: ignore[arg-type]


def test_lines_are_written_a_little_later_in_their_order_and_redacted() -> None:
    async def scene() -> None:
        async with unhurried_logs():
            for number in range(3):
                log.info("line %d %s", number, "sesame-open")
            assert messages(stream) == []
            await pass_time(PAUSE_S)
            assert messages(stream) == [f"line {number} ***" for number in range(3)]

    with written() as stream:
        run(scene())


def test_many_lines_leave_the_loop_to_others_between_them() -> None:
    async def scene() -> None:
        async with unhurried_logs():
            for number in range(3 * LINES_AT_ONCE):
                log.info("%d", number)
            await pass_time(PAUSE_S)
            seen = {len(messages(stream))}
            while len(messages(stream)) < 3 * LINES_AT_ONCE:
                await asyncio.sleep(0)
                seen.add(len(messages(stream)))
            assert seen >= {2 * LINES_AT_ONCE, 3 * LINES_AT_ONCE}

    with written() as stream:
        run(scene())


class BusyLoop(VirtualTimeLoop):
    """Every turn takes its time."""

    turn_s = 0.0

    def time(self) -> float:
        self._jumping.now += self.turn_s
        return super().time()


def test_while_the_loop_has_other_work_it_goes_first_and_not_for_ever() -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, BusyLoop)
        async with unhurried_logs():
            loop.turn_s = 2 * BUSY_S
            log.info("line")
            await pass_time(LONGEST_S / 2)
            assert messages(stream) == []
            await pass_time(LONGEST_S)
            assert messages(stream) == ["line"]
            loop.turn_s = 0.0
            log.info("line")
            await pass_time(PAUSE_S)
            assert messages(stream) == ["line", "line"]

    with written() as stream, asyncio.Runner(loop_factory=BusyLoop) as runner:
        runner.run(scene())


def test_a_warning_does_not_wait_and_nothing_overtakes_it() -> None:
    async def scene() -> None:
        async with unhurried_logs():
            log.info("before")
            log.warning("now")
            assert messages(stream) == ["before", "now"]
            log.info("after")
        assert messages(stream) == ["before", "now", "after"]  # whoever leaves leaves nothing behind

    with written() as stream:
        run(scene())


def test_a_line_of_another_thread_and_too_many_lines_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with unhurried_logs():
            await asyncio.to_thread(log.info, "from afar")
            assert messages(stream) == ["from afar"]
            for number in range(4):
                log.info("%d", number)
            assert messages(stream) == ["from afar", "0", "1", "2", "3"]

    monkeypatch.setattr(unhurried, "MOST_LINES", 4)
    with written() as stream, asyncio.Runner() as runner:
        runner.run(scene())


def test_after_a_bug_the_lines_before_it_are_there() -> None:
    async def scene() -> None:
        async with unhurried_logs():
            log.info("before")
            raise RuntimeError("bug")

    with written() as stream:
        with pytest.raises(RuntimeError, match="bug"):
            run(scene())
        assert messages(stream) == ["before"]
