import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from llama_orch.children import Daemons, child_environment, children_of
from tests.support.waiting import until

PROGRAM = "tests.integration.llama_orch.program"


class Started:
    """Daemons with stand-ins, and what they said."""

    def __init__(self, behaviour: str, programs: int = 2) -> None:
        self.said: list[tuple[str, str]] = []
        self.ready = asyncio.Event()
        self._programs = programs
        self.daemons = Daemons(
            Path("/config.yaml"),
            dict(os.environ) | {"TEST_BEHAVIOUR": behaviour},
            self._hear,
            readable_logs=True,
            programs=[(f"d{number}", PROGRAM) for number in range(programs)],
        )

    def _hear(self, name: str, line: str) -> None:
        self.said.append((name, line))
        if sum(line == "ready" for _, line in self.said) == self._programs:
            self.ready.set()

    async def start(self) -> Daemons:
        await self.daemons.start()
        await self.ready.wait()
        return self.daemons


async def test_two_start_speak_and_stop() -> None:
    started = Started("good")
    daemons = await started.start()
    assert daemons.dead is None
    assert await daemons.stop(grace_s=50) == {}
    assert [child.status for child in daemons.children] == [-signal.SIGTERM] * 2
    said = {"hello", "no line break at the end", "ready"}
    await until(lambda: said == {line for _, line in started.said if line}, "the line that only the end ends")
    assert "d1 | hello" in daemons.last_lines(10)
    assert not {child.name for child in daemons.children} - {name for name, _ in started.said}


async def test_one_that_does_not_stop_is_killed() -> None:
    daemons = await Started("stubborn").start()
    assert await daemons.stop(grace_s=0.05) == {}
    assert [child.status for child in daemons.children] == [-signal.SIGKILL] * 2


async def test_a_second_ctrl_c_hurries_and_a_third_does_not_wait() -> None:
    daemons = await Started("stubborn").start()
    async with asyncio.TaskGroup() as group:
        stopping = group.create_task(daemons.stop(grace_s=600))
        daemons.hurry()
        assert not any(child.exited.is_set() for child in daemons.children)
        daemons.hurry()
    assert stopping.result() == {}
    assert [child.status for child in daemons.children] == [-signal.SIGKILL] * 2


async def test_who_is_hurried_may_end_in_order() -> None:
    daemons = await Started("good").start()
    daemons.hurry()
    assert await daemons.stop(grace_s=50) == {}
    assert [child.status for child in daemons.children] == [-signal.SIGTERM] * 2


async def test_what_a_daemon_leaves_behind_is_ended_and_reported() -> None:
    daemons = await Started("leaves-child").start()
    left = await daemons.stop(grace_s=50)
    assert list(left.values()) == ["sleep 600"] * 2
    assert not left.keys() & children_of(os.getpid()).keys()


async def test_the_death_of_one_is_noticed() -> None:
    started = Started("dies")
    await started.daemons.start()
    await started.daemons.changed.wait()
    assert started.daemons.dead is not None
    assert started.daemons.dead.status == 78
    await started.daemons.stop(grace_s=50)


ORPHAN = f"""
import asyncio, os, sys
from pathlib import Path
from llama_orch.children import Daemons

async def main():
    daemons = Daemons(Path("/c"), os.environ, lambda name, line: print(line, flush=True), readable_logs=True,
                      programs=[("d", {PROGRAM!r})])
    await daemons.start()
    print("it is", daemons.children[0]._transport.get_pid(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_they_do_not_outlive_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        missing, pid = {"ready", "it is"}, 0  # in whatever order
        while missing:
            line = next(parent.stdout).strip()
            pid = int(line.removeprefix("it is ")) if line.startswith("it is ") else pid
            missing -= {word for word in missing if line.startswith(word)}
        descriptor = os.pidfd_open(pid)
        parent.kill()
    try:
        assert select.select([descriptor], [], [], 50)[0], "it still runs"
    finally:
        os.close(descriptor)


def test_a_daemon_does_not_inherit_what_systemd_told_us() -> None:
    environ = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1", "HF_TOKEN": "x", "PYTHONPATH": "/mine"}
    result = child_environment(environ, readable_logs=False)
    assert result.keys() == {"HF_TOKEN", "PYTHONPATH", "LLORCH_LOG_FORMAT"}
    assert result["PYTHONPATH"].endswith(":/mine")
    assert (result["HF_TOKEN"], result["LLORCH_LOG_FORMAT"]) == ("x", "json")
