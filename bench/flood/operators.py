"""What is done to the pools during a flood: engines are killed, pools drained and brought back, reloaded, led away.

Decides what is done next, from a seed, and says when it was done. One operator does one thing after the other, as an
operator would, so that of two pools at most one is taken out of service on purpose; a killer knows nothing of that.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.flood.houses import House
from bench.flood.watched import POOLS, Note, moment

BACK_S = 60.0
"""A pool that is not as it was asked to be after so long does not come back."""
PATIENT_MS = 30_000
"""So long a drain or reload lets running work finish: more than any task takes."""
ACCEPTED = 202


@dataclass
class Deeds:
    """What was done."""

    counted: Counter[str] = field(default_factory=Counter)
    harms: list[Note] = field(default_factory=list)
    """What may end a run on a pool: a killed engine, a drain or a reload without patience."""

    def harm(self, pool_id: str) -> None:
        """From now on, until the pool is usable again, its runs may come to a bad end."""
        self.harms.append(Note(moment(), "harm", pool_id))


async def ill_luck(house: House, chance: random.Random, every_s: float, deeds: Deeds) -> None:
    """Kill an engine now and then, until this is cancelled."""
    while True:
        await asyncio.sleep(every_s * (0.5 + chance.random()))
        pool_id = chance.choice(POOLS)
        deeds.harm(pool_id)
        while True:
            if await house.kill(pool_id):
                break
            await asyncio.sleep(0.02)  # an operator has ended it just now, and the next one comes
        deeds.counted["killed"] += 1


async def operate(house: House, chance: random.Random, every_s: float, deeds: Deeds) -> None:
    """Drain, reload and lead away one pool or the other, until this is cancelled."""
    async with house.session() as session:
        while True:
            await asyncio.sleep(every_s * (0.5 + chance.random()))
            pool_id = chance.choice(POOLS)
            deed = chance.choice(("drained", "reloaded", "led away"))
            operator = Operator(house, session, pool_id, deeds, patient=chance.random() < 0.75)
            match deed:
                case "drained":
                    await operator.drain()
                case "reloaded":
                    await operator.reload(house.model)
                case _:
                    await operator.reload(house.twin)
            await operator.back()
            deeds.counted[deed if operator.patient else f"{deed} at once"] += 1


@dataclass
class Operator:
    """Does one thing to one pool, and undoes it."""

    house: House
    session: aiohttp.ClientSession
    pool_id: str
    deeds: Deeds
    patient: bool

    async def drain(self) -> None:
        """Let running work finish, or not, and wait until the pool has stopped."""
        await self._ask("drain", {})
        await self._until(state="stopped")

    async def reload(self, model: str) -> None:
        """Another engine takes over. Where one of them is killed meanwhile, the pool may come back with the old one."""
        await self._ask("reload", {"new_model_ref": model})
        await self._until(state="ready", next_model_ref=None)

    async def back(self) -> None:
        """Serve again what was served at first."""
        self.patient, patient = True, self.patient
        while (await self._until(state="ready", next_model_ref=None, stopped=True)) != self.house.model:
            await self.reload(self.house.model)
        self.patient = patient

    async def _ask(self, what: str, body: dict[str, Any]) -> None:
        if not self.patient:
            self.deeds.harm(self.pool_id)
        body |= {"deadline_ms": PATIENT_MS if self.patient else 0}
        async with self.session.post(f"/v1/pools/{self.pool_id}/{what}", json=body) as answer:
            if answer.status != ACCEPTED:
                raise RuntimeError(f"{what} of {self.pool_id} was answered with {await answer.text()}")

    async def _until(self, *, stopped: bool = False, **wanted: str | None) -> str | None:
        """Wait for a state of the pool, or with ``stopped`` for that one; the model that it serves, if any."""
        async with asyncio.timeout(BACK_S):
            while True:
                async with self.session.get(f"/v1/pools/{self.pool_id}/health") as answer:
                    health = await answer.json()
                if stopped and health["state"] == "stopped":
                    return None
                if all(health.get(name) == value for name, value in wanted.items()):
                    return str(health["model_ref"])
                await asyncio.sleep(0.02)
