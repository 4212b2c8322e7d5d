"""Random lives of conversations on engines that keep real caches: what we say of them is what they have."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import takewhile
from typing import Any

import msgspec
import pytest

from adapters.base import Batch, EngineError, Failure, Finished, Generation
from contracts.config import Sessions
from contracts.events import FinishReason
from contracts.pools import Endpoint
from contracts.tasks import KvHint, TaskState
from orchestratord.errors import ApiError
from orchestratord.task import Task
from tests.support.virtual_loop import pass_time
from tests.unit.orchestratord.frames import frames_of
from tests.unit.orchestratord.world import ScriptedAdapter, World, config, ended, pool, snapshot, world

SLOTS = 3
DELETED = "cd"
"""A new session of the same name may run beside what is left of the one that was deleted."""
LIMITS = Sessions(ttl_ms=2_000, max_turns=4, max_sessions=3, token_budget=400, time_budget_ms=5_000)


class Caching(ScriptedAdapter):
    """An engine with a cache in each slot, one token a letter, which takes nothing in a slot that is busy."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.caches = [""] * SLOTS
        self.busy_slots: set[int] = set()
        self.running: Counter[str] = Counter()
        """How many turns of each conversation run, by the first letter of their prompts."""
        self.wrong: list[str] = []
        self._chance = chance

    async def count_tokens(self, generation: Generation) -> int:
        await asyncio.sleep(0)
        return len(generation.prompt or "")

    async def erase(self, slot: int) -> None:
        if slot in self.busy_slots:
            self.wrong.append(f"slot {slot} is erased while it is busy")
        self.busy_slots.add(slot)
        await pass_time(0.01)
        self.busy_slots.discard(slot)
        self.caches[slot] = ""

    @asynccontextmanager
    async def submit(self, generation: Generation) -> AsyncIterator[AsyncIterator[Batch]]:
        slot, prompt = generation.slot, generation.prompt or ""
        assert slot is not None
        if slot in self.busy_slots:
            self.wrong.append(f"slot {slot} is busy")
        if self.running[prompt[0]] and prompt[0] not in DELETED:
            self.wrong.append(f"two turns of {prompt[0]} run")
        if self._chance.random() < 0.05:
            raise EngineError(Failure.BROKEN, "its connection broke")
        open_run = [prompt]
        self.busy_slots.add(slot)
        self.running[prompt[0]] += 1
        try:
            yield self._stream(slot, open_run, generation)
        finally:
            self._over(slot, open_run)

    async def _stream(self, slot: int, open_run: list[str], generation: Generation) -> AsyncIterator[Batch]:
        prompt = open_run[0]
        common = len(list(takewhile(lambda each: each[0] == each[1], zip(prompt, self.caches[slot], strict=False))))
        cached = min(common, len(prompt) - 1) if generation.cache_prompt else 0
        self.caches[slot] = prompt
        await pass_time(self._chance.choice((0.0, 0.02, 0.3)))
        made = 0
        while made < min(generation.max_tokens or 99, self._chance.randrange(1, 9)):
            made += 1
            self.caches[slot] += "+"
            yield Batch(["+"])
            await pass_time(self._chance.choice((0.0, 0.01, 0.1)))
        self._over(slot, open_run)
        end = Finished(
            reason=FinishReason.STOP, tokens_in=len(prompt), tokens_out=made, cached_tokens=cached, decode_ms=1.0
        )
        yield Batch([], end)

    def _over(self, slot: int, open_run: list[str]) -> None:
        if open_run:
            self.busy_slots.remove(slot)
            self.running[open_run.pop()[0]] -= 1


class Lives:
    """Clients that do what comes to their minds."""

    def __init__(self, here: World, chance: random.Random, engines: list[Caching]) -> None:
        self.here = here
        self.engines = engines
        """All that there were."""
        self.chance = chance
        self.tasks: list[Task] = []
        self.said: dict[str, int] = {}
        self.strangers = 0

    async def step(self) -> None:
        kinds = {"turn": 16, "stranger": 6, "cancel": 4, "delete": 2, "wait": 8, "reload": 1}
        match self.chance.choices(list(kinds), list(kinds.values()))[0]:
            case "turn":
                await self._turn(self.chance.choice("abcd"))
            case "stranger":
                self.strangers += 1
                await self._submit(prompt=chr(ord("A") + self.strangers % 26) + "?" * 20)
            case "cancel" if self.tasks:
                self.here.orchestrator.cancel(self.chance.choice(self.tasks), "client")
            case "delete":
                with suppress(ApiError):  # there may be no such session
                    await self.here.orchestrator.turns.delete(self.chance.choice(DELETED))
            case "reload":
                self._reload(self.chance.choice("pq"))
            case _:
                await pass_time(self.chance.choice((0.05, 0.5, 2.5)))

    def _reload(self, pool_id: str) -> None:
        """Another engine takes over; what runs on the old one goes on."""
        engine = self.here.engines[pool_id] = Caching(self.chance)
        self.engines.append(engine)
        endpoint = Endpoint(url=f"http://{pool_id}/{len(self.engines)}")
        self.here.orchestrator.report(snapshot(pool_id, slots=SLOTS, endpoint=endpoint))

    async def _turn(self, session: str) -> None:
        self.said[session] = min(self.said.get(session, 10) + 3, 60)
        await self._submit(
            session_id=session,
            prompt=session * self.said[session],
            kv_hint=self.chance.choice((KvHint.REUSE, KvHint.REUSE, KvHint.COLD)),
            max_tokens=self.chance.choice((None, 5, 40)),
        )

    async def _submit(self, **changes: Any) -> None:  # noqa: ANN401 - any field of the request
        try:
            self.tasks.append(await self.here.submit(**changes))
        except ApiError as error:
            assert error.refusal.policy_label in {  # noqa: PT017 - a refusal is one of the things that happen
                "session_turns",
                "session_tokens",
                "session_time",
                "max_sessions",
                "reject",
            }


def warm(task: Task) -> bool:
    """Whether a turn was expected to be warm and was: every turn begins like the one before."""
    frames = frames_of(task.log.read(0))
    expected = any(frame.data["kv_warmth"] for frame in frames if frame.event == "started")
    said = [frame.data["kv_warmth"] for frame in frames if frame.event == "metrics" and "kv_warmth" in frame.data]
    if task.state is TaskState.DONE and expected and task.attempts == 1:
        assert said == []  # where the cache was said to be, it was
        return True
    return False


@pytest.mark.req("HP-07", "HP-15", "HP-16")
@pytest.mark.parametrize("seed", range(12))
async def test_whatever_clients_do(seed: int) -> None:
    chance = random.Random(seed)
    settings = msgspec.structs.replace(config(pool("p"), pool("q")), sessions=LIMITS)
    engines = {each: Caching(chance) for each in "pq"}
    adapters: dict[str, ScriptedAdapter] = {**engines}
    reports = lambda each: snapshot(each, slots=SLOTS)  # noqa: E731 - shorter than a function
    async with world(settings=settings, engines=adapters, snapshots=reports) as here:
        lives = Lives(here, chance, list(engines.values()))
        for _ in range(150):
            await lives.step()
        for task in lives.tasks:
            await ended(task)
        await pass_time(0.05)  # what was just told to erase a slot has done so
        for session in "abcd":
            try:
                seen = here.orchestrator.turns.info(session)
            except ApiError:
                continue
            assert seen.budgets.tokens_remaining is not None
            assert seen.turns <= LIMITS.max_turns
        assert [wrong for engine in lives.engines for wrong in engine.wrong] == []
        assert not any(engine.busy_slots for engine in lives.engines)
        assert "INTERNAL" not in {task.status.error_code for task in lives.tasks}
        states = {task.state for task in lives.tasks}
        assert TaskState.DONE in states
        assert sum(warm(task) for task in lives.tasks) > 3
        assert not states & {TaskState.QUEUED, TaskState.RUNNING}
