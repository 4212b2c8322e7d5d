"""All systems of one run, and how much is measured. Each is started once for all rounds."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Figures
from bench.load import Target
from bench.systems.base import MAX_STREAMS, MAX_TOKENS, POST, System
from bench.systems.engine import stand_in
from bench.systems.floor import floor
from bench.systems.litellm import TOKEN as CHAT_TOKEN
from bench.systems.litellm import installed, litellm
from bench.systems.nginx import nginx
from bench.systems.ours import fast, ours
from tests.standin.__main__ import uvloop_factory
from tests.standin.knobs import Knobs

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
    tokens: int = 64_000
    """Of one burst, shared by its streams, so that bursts take about as long."""
    shortest: int = 1_000
    """Tokens of a stream; below that a burst would measure how requests start, not how tokens flow."""
    tokens_per_write: int = 16
    """How many the engine hands to the kernel at once where it is as fast as it can be."""


QUICK = Size(rounds=1, requests=20, tokens=16_000, shortest=250)


@dataclass
class Bench:
    """What a scenario gets."""

    size: Size
    folder: Path
    systems: list[System]
    figures: Figures = field(default_factory=Figures)

    @property
    def direct(self) -> System:
        """The engine alone."""
        return self.systems[0]

    @property
    def hot(self) -> list[System]:
        """All that are fast enough to be measured alike."""
        return [system for system in self.systems if system.engine is self.direct.engine]

    @property
    def slow(self) -> list[System]:
        """The rest: LiteLLM with the engine that it stands before."""
        return [system for system in self.systems if system.engine is not self.direct.engine]


@asynccontextmanager
async def running(folder: Path, size: Size) -> AsyncIterator[Bench]:
    """All systems, up for the length of the block; nginx, LiteLLM and uvloop only where they are installed."""
    knobs = Knobs(tokens=MAX_TOKENS, slots=MAX_STREAMS, tokens_per_write=size.tokens_per_write)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(stand_in(knobs))
        target = Target(DIRECT, engine.port, POST.format(path="/completion").encode(), _BODY, b'"stop":false')
        bench = Bench(size, folder, [System(target, engine, (engine.pid,))])
        if shutil.which("nginx"):
            bench.systems.append(await stack.enter_async_context(nginx(folder, bench.direct)))
        else:
            bench.figures.remark("nginx is not installed here, so its column is missing (Debian: apt install nginx)")
        if installed():
            chat = await stack.enter_async_context(_chat_engine(knobs))
            bench.systems += [chat, await stack.enter_async_context(litellm(folder, chat))]
        else:
            bench.figures.remark("LiteLLM could not be installed here, so its column is missing")
        for suffix, uvloop in _loops(bench.figures):
            bench.systems.append(await stack.enter_async_context(floor(engine, FLOOR + suffix, uvloop=uvloop)))
        for suffix, uvloop in _loops(bench.figures):
            name = OURS + suffix
            made = ours(folder / name.replace(" ", ""), engine, name, [fast(engine)], uvloop=uvloop)
            bench.systems.append(await stack.enter_async_context(made))
        yield bench


@asynccontextmanager
async def _chat_engine(knobs: Knobs) -> AsyncIterator[System]:
    async with stand_in(knobs, "openai") as engine:
        body = _CHAT.replace(b'"bench"', b'"%b"' % knobs.model.encode())
        target = Target(DIRECT_OPENAI, engine.port, POST.format(path="/v1/chat/completions").encode(), body, CHAT_TOKEN)
        yield System(target, engine, (engine.pid,), direct=DIRECT_OPENAI)


def _loops(figures: Figures) -> list[tuple[str, bool]]:
    if uvloop_factory() is None:
        figures.remark("uvloop is not installed here, so its columns are missing")
        return [("", False)]
    return [("", False), (WITH_UVLOOP, True)]
