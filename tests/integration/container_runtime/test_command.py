"""Real programs: how long they may take, what is kept of them, and that they end with all they started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from pathlib import Path
from typing import Any

import pytest

from container_runtime.command import LINE_BYTES, OUTPUT_BYTES, Command
from container_runtime.errors import ContainerError, RuntimeCause

pytestmark = pytest.mark.req("CR-01")

SH = Command("sh", {"PATH": os.environ["PATH"], "OWN": "own"})


async def test_it_has_its_own_environment_and_what_is_added_and_nothing_else() -> None:
    done = await SH.run("-c", "echo $OWN $ADDED $HOME; echo bad >&2; exit 3", timeout_s=60, environ={"ADDED": "added"})
    assert (done.status, done.stdout, done.stderr) == (3, "own added\n", "bad\n")
    assert done.output == "own added\n\nbad"


async def test_its_lines_are_shown_as_they_come() -> None:
    # It goes on only when its first line has been seen.
    seen: list[str] = []
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)

    def take(line: str) -> None:
        seen.append(line)
        if line == "first":
            Path(f"/proc/self/fd/{writer}").write_text("go\n")

    script = f"echo first; read x < /proc/{os.getpid()}/fd/{reader}; printf 'half\\rwhole\\nno end' >&2"
    await SH.run("-c", script, timeout_s=60, on_line=take)
    os.close(reader)
    os.close(writer)
    assert seen == ["first", "half", "whole", "no end"]


async def test_one_that_takes_too_long_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, timeout = asyncio.get_running_loop(), asyncio.timeout
    begun: list[asyncio.Timeout] = []

    def noted(delay: float | None) -> asyncio.Timeout:
        begun.append(timeout(delay))
        return begun[-1]

    def over(_line: str) -> None:
        """Its time is over, once it has begun."""
        begun[0].reschedule(loop.time())

    monkeypatch.setattr(asyncio, "timeout", noted)
    script = f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/self; echo begun; wait"
    with pytest.raises(ContainerError, match=r"sh -c did not answer within 600 s") as caught:
        await SH.run("-c", f"{script}; sleep 1000", timeout_s=600, on_line=over)
    assert caught.value.cause is RuntimeCause.NO_ANSWER
    await gone(int((tmp_path / "child").read_text()), int((tmp_path / "self").read_text()))


async def test_one_whose_caller_is_cancelled_is_ended_with_its_children(tmp_path: Path) -> None:
    started = asyncio.Event()
    script = f"sleep 1000 & echo $! > {tmp_path}/child; echo started; wait"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(SH.run("-c", script, timeout_s=None, on_line=lambda _line: started.set()))
        await started.wait()
        task.cancel()
    await gone(int((tmp_path / "child").read_text()))


async def test_one_that_is_given_up_before_its_start_is_known_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may run, and have said something, before the event loop says that it was started."""
    start, printed, known = asyncio.create_subprocess_exec, asyncio.Event(), asyncio.Event()

    async def late(*argv: Any, **settings: Any) -> asyncio.subprocess.Process:  # noqa: ANN401 - as asyncio's own
        process = await start(*argv, **settings)
        await known.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", late)
    script = f"sleep 1000 & echo $! > {tmp_path}/child; echo started; wait"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(SH.run("-c", script, timeout_s=None, on_line=lambda _line: printed.set()))
        await printed.wait()
        task.cancel()
        await asyncio.sleep(0)
        known.set()
    await gone(int((tmp_path / "child").read_text()))


async def test_a_helper_that_holds_its_output_does_not_hold_it_up(tmp_path: Path) -> None:
    script = f"setsid sleep 1000 & echo $! > {tmp_path}/helper; echo done"
    done = await SH.run("-c", script, timeout_s=60)
    assert (done.status, done.stdout) == (0, "done\n")
    helper = int((tmp_path / "helper").read_text())
    os.kill(helper, 9)  # it lives: podman's helpers must
    await gone(helper)


async def test_what_is_kept_of_its_output_is_bounded() -> None:
    lines: list[str] = []
    script = f"head -c {OUTPUT_BYTES + 1000} /dev/zero | tr '\\0' x; echo; echo last"
    done = await SH.run("-c", script, timeout_s=60, on_line=lines.append)
    assert len(done.stdout) == OUTPUT_BYTES
    assert [len(line) for line in lines] == [LINE_BYTES, 4]


async def test_a_program_that_is_not_there_is_no_runtime() -> None:
    with pytest.raises(ContainerError, match="nothere cannot be started: No such file or directory") as caught:
        await Command("nothere", {"PATH": "/bin"}).run("info", timeout_s=60)
    assert caught.value.cause is RuntimeCause.NO_RUNTIME


async def test_lines_of_both_outputs_stay_whole() -> None:
    script = "printf 'one '; echo err >&2; echo line; printf end >&2"
    async with contextlib.aclosing(SH.lines("-c", script)) as lines:
        assert sorted([line async for line in lines]) == ["end", "err", "one line"]


async def test_a_reader_that_is_slower_holds_the_program_up_and_loses_nothing() -> None:
    count = 50_000
    async with contextlib.aclosing(SH.lines("-c", f"seq {count}")) as lines:
        numbers = [int(line) async for line in lines]
    assert numbers == list(range(1, count + 1))


async def test_what_nobody_reads_is_not_gathered(tmp_path: Path) -> None:
    async with contextlib.aclosing(
        SH.lines("-c", f"echo $$ > {tmp_path}/self; exec seq --format=%01000g 20000")
    ) as lines:
        assert int(await anext(lines)) == 1
        process = os.pidfd_open(int((tmp_path / "self").read_text()))
        # It would have ended long before, had anybody taken all it has to say.
        assert not (await asyncio.to_thread(select.select, [process], [], [], 1.5))[0]
        os.close(process)


async def test_a_reader_that_leaves_ends_the_program(tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/self; while true; do echo tick; sleep 0.01; done"
    async with contextlib.aclosing(SH.lines("-c", script)) as lines:
        async for line in lines:
            assert line == "tick"
            break
    await gone(int((tmp_path / "self").read_text()))


@pytest.mark.parametrize("turns", range(8))
async def test_one_that_is_given_up_while_it_starts_leaves_no_pipe(turns: int) -> None:
    async with asyncio.TaskGroup() as group:
        await group.create_task(SH.run("-c", "true", timeout_s=60))
    before, others = pipes(), children()
    task = asyncio.get_running_loop().create_task(SH.run("-c", "sleep 1000", timeout_s=None))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(30):
        while not children() <= others:  # noqa: ASYNC110 - the end of what was begun: nobody tells us of it
            await asyncio.sleep(0)
    for _ in range(5):  # what is closed is closed in the loop's next turns
        await asyncio.sleep(0)
    assert pipes() <= before


def children() -> set[str]:
    """The processes that this one has started and not yet seen the end of."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def pipes() -> set[str]:
    """The pipes that this process holds."""
    links = (link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink())
    return {str(link) for link in links if str(link).startswith("pipe:")}


async def gone(*pids: int) -> None:
    """Waits until none of these processes runs."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            assert (await asyncio.to_thread(select.select, [process], [], [], 30))[0]
            os.close(process)
