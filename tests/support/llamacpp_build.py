"""The whole of llama.cpp, built by the product's command line through a kill: minutes of a processor.

A program that tests/plugins/ahead.py begins; it prints ``Built`` as JSON. It has one compiler at a time, for it is not
alone, and in CI nothing of it was ever compiled before. Its place stays, so that ccache knows everything again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from contracts.config import Engine, Mode, Pool, Provisioning, SourceBuild
from daemon_core import procfs
from tests.support.llamacpp_source import KEPT, kept, llamacpp_repository

CCACHE = {"CCACHE_DIR": str(KEPT / "ccache")}
PLACE = KEPT / "place"
"""The cache and the catalog are below it."""
ONE_JOB = {"CMAKE_BUILD_PARALLEL_LEVEL": "1"}


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """What was built, and what was said until it was there."""

    repository: str
    killed: tuple[str, ...]
    """The lines of the run that was killed."""
    finished: tuple[str, ...]
    """Those of the next one, which went to the end."""


def source_pool(repo: str, ref: str = "master", *flags: str, name: str = "gpu0") -> Pool:
    """A pool whose engine is built from this repository."""
    source = SourceBuild(repo=repo, ref=ref, cmake_flags=flags)
    provisioning = Provisioning(mode=Mode.SOURCE, source=source)
    return Pool(id=name, engine=Engine.LLAMACPP, model="m.gguf", provisioning=provisioning)


class Child:
    """The command line in a process of its own, which can be killed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []

    async def until(self, text: str, at_each: Callable[[], None] = lambda: None) -> None:
        """Read on until a line says this. ``at_each`` is called with each line that comes."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.said.append(line.decode().rstrip())
            at_each()
            if text in self.said[-1]:
                return
        raise AssertionError(f"it ended without {text!r}:\n" + "\n".join(self.said))

    async def kill(self) -> None:
        """As the kernel does when memory runs out: no handler, no farewell."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def child(root: Path, pool: Pool, environ: Mapping[str, str]) -> AsyncIterator[Child]:
    """``ensure`` for this pool, in profile trial, with its cache and its catalog below ``root``."""
    source = pool.provisioning.source
    assert source is not None
    config = root / "config.yaml"
    config.write_text(
        f"profile: trial\npaths: {{cache: {root / 'cache'}, data: {root}}}\npools:\n"
        f"  - id: {pool.id}\n    engine: llamacpp\n    model: m.gguf\n"
        f"    provisioning: {{mode: source, source: {{repo: '{source.repo}', ref: {source.ref}}}}}\n"
    )
    program = "from engine_provisioner.cli import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, "ensure", "--config", str(config)),
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.terminate()  # so that it ends what it has started
        await process.communicate()


class Rank:
    """Who comes first: everybody else, until somebody waits for us."""

    def __init__(self) -> None:
        self._awaited = False

    def hurry(self) -> None:
        """Somebody waits."""
        self._awaited = True
        self.hold()

    def hold(self) -> None:
        """Give it to all that we have started. A kernel that shares its time among sessions is told for each."""
        policy, share = (os.SCHED_OTHER, 0) if self._awaited else (os.SCHED_IDLE, 19)
        family = {os.getpid()}
        for process in sorted(procfs.stats(), key=lambda stat: (stat.start_time_ticks, stat.pid)):
            if process.parent in family:
                family.add(process.pid)
        for pid in family:
            with suppress(OSError):  # it has ended, or is not ours to hurry
                os.sched_setscheduler(pid, policy, os.sched_param(0))
            with suppress(OSError):  # or this kernel does not do that
                Path(f"/proc/{pid}/autogroup").write_text(f"{share}\n")


async def _build(rank: Rank) -> Built:
    with kept():
        repository = llamacpp_repository()
    pool, environ = source_pool(repository), {**os.environ, **CCACHE, **ONE_JOB}
    with kept("place.lock"):
        shutil.rmtree(PLACE, ignore_errors=True)
        PLACE.mkdir()
        async with child(PLACE, pool, environ) as first:
            await first.until("10 % built", rank.hold)
            await first.kill()
        async with child(PLACE, pool, environ) as second:
            await second.until("record the engine", rank.hold)
            assert await second.process.wait() == 0, second.said
    return Built(repository=repository, killed=tuple(first.said), finished=tuple(second.said))


async def _main() -> None:
    me, loop, rank = asyncio.current_task(), asyncio.get_running_loop(), Rank()
    assert me is not None
    rank.hold()
    loop.add_signal_handler(signal.SIGTERM, me.cancel)

    def awaited() -> None:
        loop.remove_reader(sys.stdin)
        rank.hurry()

    loop.add_reader(sys.stdin, awaited)
    built = await _build(rank)
    sys.stdout.buffer.write(msgspec.json.encode(built))


if __name__ == "__main__":
    asyncio.run(_main())
