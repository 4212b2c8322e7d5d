"""All systems of one run, and how much is measured. Each is started once for all rounds."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Figures
from bench.load import Target
from bench.processes import write_bytecode
from bench.systems.base import MAX_STREAMS, MAX_TOKENS, POST, System
from bench.systems.engine import Engine, stand_in
from bench.systems.floor import floor
from bench.systems.litellm import TOKEN as CHAT_TOKEN
from bench.systems.litellm import installed, litellm
from bench.systems.nginx import nginx
from bench.systems.ours import PoolOf, fast, ours, task_target
from bench.systems.real import CONTEXT, llamacpp, llamacpp_installed
from tests.standin.knobs import Knobs
from tests.standin.loops import uvloop_factory

FLOOR, OURS = "floor", "llama-orch"
WITH_UVLOOP = " + uvloop"
DIRECT, DIRECT_OPENAI = "direct", "direct, OpenAI"
_BODY = b'{"prompt":"hi","stream":true,"n_predict":@TOKENS@,"seed":0}'
_CHAT = b'{"model":"bench","messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":@TOKENS@,"seed":0}'


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured in a round."""

    rounds: int = 5
    requests: int = 200
    """Of one token, per system; a tenth of it where one takes ten milliseconds."""
    tokens: int = 128_000
    """Of one burst, shared by its streams, so that bursts take about as long."""
    shortest: int = 1_000
    """Tokens of a stream; below that a burst would measure how requests start, not how tokens flow."""
    tokens_per_write: int = 16
    """How many the engine hands to the kernel at once where it is as fast as it can be."""
    window_ms: int = 2_000
    """How long paced streams are looked at."""
    bursts: int = 2
    """Of arrivals, per system."""
    gaps: int = 80
    """Tasks before one slot."""
    queued: int = 1_000
    """Tasks that wait with an open stream."""
    cancels: int = 30
    depth_rounds: int = 15
    """Of the queue's operations."""
    waits: int = 900
    """Tasks of each load whose wait is predicted."""


QUICK = Size(
    rounds=1,
    requests=20,
    tokens=16_000,
    shortest=250,
    window_ms=400,
    bursts=1,
    gaps=24,
    queued=200,
    cancels=5,
    depth_rounds=3,
    waits=300,
)


@dataclass
class Bench:
    """What a scenario gets."""

    size: Size
    folder: Path
    systems: list[System]
    single_engine: Engine
    """A stand-in with one slot."""
    real_port: int | None = None
    """Where the real llama.cpp listens, with one slot."""
    single: dict[str, Target] = field(default_factory=dict)
    """Before the stand-in with one slot, by the name of the system."""
    real: dict[str, Target] = field(default_factory=dict)
    """Before the real llama.cpp."""
    round: int = 0
    figures: Figures = field(default_factory=Figures)

    @property
    def direct(self) -> System:
        """The engine alone."""
        return self.systems[0]

    @property
    def single_pool(self) -> PoolOf:
        """The pool of the stand-in with one slot."""
        return PoolOf("single", self.single_engine.url, slots=1, ctx=MAX_TOKENS)

    @property
    def loops(self) -> list[tuple[str, bool]]:
        """What the event loop adds to a name, and whether it is uvloop's."""
        return [("", False)] if uvloop_factory() is None else [("", False), (WITH_UVLOOP, True)]

    @property
    def hot(self) -> list[System]:
        """All that are fast enough to be measured alike."""
        return [system for system in self.systems if system.engine is self.direct.engine]

    @property
    def slow(self) -> list[System]:
        """The rest: LiteLLM with the engine that it stands before."""
        return [system for system in self.systems if system.engine is not self.direct.engine]


@asynccontextmanager
async def running(folder: Path, size: Size, *, slow: bool = True) -> AsyncIterator[Bench]:
    """All systems, up for the length of the block; nginx, LiteLLM and uvloop only where they are installed.

    Without ``slow`` LiteLLM, which takes ten seconds to start, is left out.
    """
    knobs = Knobs(tokens=MAX_TOKENS, slots=MAX_STREAMS, tokens_per_write=size.tokens_per_write)
    await write_bytecode("bench.floor", "orchestratord.app", "pool_managerd.app")
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(stand_in(knobs))
        target = Target(DIRECT, engine.port, POST.format(path="/completion").encode(), _BODY, b'"stop":false')
        single = await stack.enter_async_context(stand_in(Knobs(tokens=MAX_TOKENS, slots=1)))
        bench = Bench(size, folder, [System(target, engine, (engine.pid,))], single)
        if shutil.which("nginx"):
            bench.systems.append(await stack.enter_async_context(nginx(folder, bench.direct)))
        else:
            bench.figures.remark("nginx is not installed here, so its column is missing (Debian: apt install nginx)")
        if slow and installed():
            chat = await stack.enter_async_context(_chat_engine(knobs))
            bench.systems += [chat, await stack.enter_async_context(litellm(folder, chat))]
        elif slow:
            bench.figures.remark("LiteLLM could not be installed here, so its column is missing")
        if llamacpp_installed():
            bench.real_port = await stack.enter_async_context(llamacpp(folder))
        else:
            bench.figures.remark("llama.cpp is not installed here (the extra trial), so no cancel of it was measured")
        if len(bench.loops) == 1:
            bench.figures.remark("uvloop is not installed here, so its columns are missing")
        for suffix, uvloop in bench.loops:
            bench.systems.append(await stack.enter_async_context(floor(engine, FLOOR + suffix, uvloop=uvloop)))
        for suffix, uvloop in bench.loops:
            await _ours(stack, bench, OURS + suffix, uvloop=uvloop)
        yield bench


async def _ours(stack: AsyncExitStack, bench: Bench, name: str, *, uvloop: bool) -> None:
    engine, pools = bench.direct.engine, [fast(bench.direct.engine), bench.single_pool]
    if bench.real_port is not None:
        pools.append(PoolOf("real", f"http://127.0.0.1:{bench.real_port}", slots=1, ctx=CONTEXT))
    made = ours(bench.folder / name.replace(" ", ""), engine, name, pools, uvloop=uvloop)
    system = await stack.enter_async_context(made)
    bench.systems.append(system)
    bench.single[name] = task_target(system.target.port, "single")
    bench.real[name] = task_target(system.target.port, "real")


@asynccontextmanager
async def _chat_engine(knobs: Knobs) -> AsyncIterator[System]:
    async with stand_in(knobs, "openai") as engine:
        body = _CHAT.replace(b'"bench"', b'"%b"' % knobs.model.encode())
        target = Target(DIRECT_OPENAI, engine.port, POST.format(path="/v1/chat/completions").encode(), body, CHAT_TOKEN)
        yield System(target, engine, (engine.pid,), direct=DIRECT_OPENAI)
