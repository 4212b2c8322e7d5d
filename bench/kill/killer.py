"""kill -9 of each part and of several at once, at moments that a seed chooses, and each started again at once.

A moment is no time but a count: so many events after the last deed, as the clients read them, or so many lines into
what a daemon says as it begins. Every part is up again, or on its way, before the next deed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

from bench.kill.clients import Book
from bench.kill.house import LLAMAS, House
from tests.support.installation import LIMIT_S, Daemon

DEEDS = {
    "orchestratord": 8,
    "orchestratord as it begins": 3,
    "pool-managerd": 3,
    "pool-managerd as it begins": 3,
    "an engine": 3,
    "an engine and orchestratord": 2,
    "an engine and pool-managerd": 2,
    "the stand-in": 2,
    "everything": 1,
}
FIRST_LINES = {"orchestratord": 4, "pool_managerd": 12}
"""So many lines each says at least, from its start to its readiness."""


@dataclass
class Killer:
    """Kills, one deed after the other."""

    house: House
    book: Book
    chance: random.Random
    every: int
    """Events between two deeds, about."""
    deeds: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    largest_log: int = 0
    """The most bytes that SQLite's log had."""

    async def work(self) -> None:
        """Until nobody reads any more; what was begun is mended before."""
        while await self.book.heard.another(self.chance.randrange(1, 2 * self.every)):
            log = self.house.on_disk().get(f"{self.house.store.name}-wal", 0)
            self.largest_log = max(self.largest_log, log)
            deed = self.chance.choices(list(DEEDS), list(DEEDS.values()))[0]
            await self.do(deed)
            self.deeds[deed] += 1

    async def do(self, deed: str) -> None:
        """One deed, and its mending."""
        house = self.house
        match deed:
            case "orchestratord":
                await self._orchestratord()
            case "orchestratord as it begins":
                await self._kill(house.orchestrator)
                await self._begin_and_die(house.orchestrator)
                await house.serve()
            case "pool-managerd":
                await self._manager()
            case "pool-managerd as it begins":
                await self._kill(house.manager)
                await self._begin_and_die(house.manager)
                await house.manager.start()
            case "an engine":
                self._engine()
            case "an engine and orchestratord":
                self._engine()
                await self._orchestratord()
            case "an engine and pool-managerd":
                self._engine()
                await self._manager()
            case "the stand-in":
                await self._stand_in()
            case _:
                await self._everything()

    async def _orchestratord(self) -> None:
        await self._kill(self.house.orchestrator)
        await self.house.serve()

    async def _manager(self) -> None:
        await self._kill(self.house.manager)
        await self.house.manager.start()

    def _engine(self) -> None:
        if self.house.kill_engine(self.chance.choice(LLAMAS)):
            self.killed["engine"] += 1

    async def _stand_in(self) -> None:
        await self.house.standin.kill()
        self.killed["stand-in"] += 1
        await self.house.standin.start()

    async def _everything(self) -> None:
        await self._kill(self.house.orchestrator)
        await self._kill(self.house.manager)
        for pool_id in LLAMAS:
            self.killed["engine"] += self.house.kill_engine(pool_id)
        await self._stand_in()
        await self.house.manager.start()
        await self.house.serve()

    async def _kill(self, daemon: Daemon) -> None:
        await daemon.kill()
        self.killed[daemon.module] += 1

    async def _begin_and_die(self, daemon: Daemon) -> None:
        """Start it, and kill it when it has said so many lines, from none at all to all that it says."""
        said = len(daemon.lines) + self.chance.randrange(FIRST_LINES[daemon.module] + 1)
        await daemon.start()
        async with asyncio.timeout(LIMIT_S):
            await daemon.more(said - 1)
        await self._kill(daemon)
