"""The clients of a flood, each with habits of its own, and what each saw of its task.

Decides who does what, from a seed. A client holds what it reads to the contract: one terminal event, the last one;
tokens numbered without a gap; the text that the hash in ``end`` stands for.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from bench.flood.houses import POOLS, House

EVENT_STREAM = {"Accept": "text/event-stream"}
WORDS = ("the", "old", "river", "carries", "small", "stones", "down", "to", "a", "quiet", "sea")
SESSIONS = 40


@dataclass
class Seen:
    """What all clients saw."""

    accepted: Counter[str] = field(default_factory=Counter)
    """Tasks that were let in, by priority."""
    habits: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    """How their streams ended."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests that were not let in, and were sent again."""
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    """What breaks the contract."""
    prediction_error_ms: list[float] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many tasks were let in."""
        return self.accepted.total()


@dataclass(frozen=True)
class Plan:
    """One task: what is asked, and what its client does."""

    habit: str
    body: dict[str, Any]
    patience: int
    """After so many events the client leaves, or cancels."""


def plan(chance: random.Random, model: str, longest: int) -> Plan:
    """The next client."""
    priority = "interactive" if chance.random() < 0.25 else "batch"
    body: dict[str, Any] = {
        "model_ref": model,
        "priority": priority,
        "prompt": " ".join(chance.choices(WORDS, k=chance.choice((1, 5, 20, 60)))),
        "max_tokens": chance.randrange(2, longest),
        "seed": chance.randrange(1, 1_000),
    }
    if chance.random() < 0.2:
        body["session_id"] = f"session-{chance.randrange(SESSIONS)}"
    pool_id = chance.choice(POOLS)
    wishes: list[dict[str, Any]] = [{"mode": "pin", "pool_id": pool_id}, {"mode": "prefer", "prefer": [pool_id]}]
    body["placement"] = chance.choice([*wishes, {"avoid": [pool_id]}, *[{}] * 9])
    habit = chance.choices(
        ("reads", "reads later", "returns", "cancels", "leaves", "never reads"), (50, 20, 12, 8, 5, 5)
    )[0]
    if habit == "leaves":
        body["max_tokens"] *= 10  # so that it is not over before anybody notices
    return Plan(habit, body, chance.randrange(1, 8))


class Client:
    """One task from its request to its last event."""

    def __init__(self, house: House, session: aiohttp.ClientSession, seen: Seen, chosen: Plan) -> None:
        self._house = house
        self._session = session
        self._seen = seen
        self._plan = chosen
        self._path = ""
        self._stream = b""

    async def live(self) -> None:
        """Do what was planned, then look at the whole stream."""
        streams = self._plan.habit not in {"reads later", "never reads"}
        while not await self._ask(streams=streams):  # noqa: ASYNC110 - another process has no event of ours
            await asyncio.sleep(0.05)
        self._seen.habits[self._plan.habit] += 1
        self._seen.accepted[self._plan.body["priority"]] += 1

    async def check(self) -> None:
        """Read the whole stream from its beginning, to its end, and hold it to the contract."""
        whole = await self._read()
        if not whole.startswith(self._stream):
            self._wrong("what a client read in pieces is not what one reads at once")
        names, data = _events(whole)
        terminal = [name for name in names if name in {"end", "error"}]
        if terminal != names[-1:]:
            self._wrong(f"its events are {names[-4:]} at the end, with {len(terminal)} that should be the last")
            return
        texts = [each["t"] for name, each in zip(names, data, strict=True) if name == "token"]
        if [each["i"] for name, each in zip(names, data, strict=True) if name == "token"] != list(range(len(texts))):
            self._wrong("its tokens have gaps")
        last = data[-1]
        if names[-1] == "end" and last["stream_sha256"] != hashlib.sha256("".join(texts).encode()).hexdigest():
            self._wrong("its text is not what its hash says")
        self._seen.tokens += len(texts)
        self._seen.ends[last["code"] if names[-1] == "error" else last["finish_reason"]] += 1
        for name, each in zip(names, data, strict=True):
            if name == "started" and names[-1] == "end":
                self._seen.prediction_error_ms.append(abs(last["queue_time_ms"] - each["predicted_start_ms"]))

    async def _ask(self, *, streams: bool) -> bool:
        """Send the task; False where it was refused for the moment."""
        headers = EVENT_STREAM if streams else {}
        async with self._session.post("/v1/tasks", json=self._plan.body, headers=headers) as answer:
            if answer.status not in {200, 202}:
                self._seen.refused[(await answer.json())["code"]] += 1
                return False
            self._path = answer.headers["Location"]
            match self._plan.habit:
                case "reads":
                    self._stream = await answer.read()
                case "returns" | "leaves" | "cancels":
                    await self._some(answer)
                case _:
                    pass
        match self._plan.habit:
            case "returns":
                await self._return()
            case "cancels":
                async with self._session.post(f"{self._path}/cancel") as canceled:
                    if canceled.status != 204:
                        self._wrong(f"a cancel was answered with {canceled.status}")
            case "reads later":
                self._stream = await self._read()
            case _:
                pass
        return True

    async def _some(self, answer: aiohttp.ClientResponse) -> None:
        """Read a few events, then leave in the middle of it."""
        while self._stream.count(b"\n\n") < self._plan.patience:
            more = await answer.content.readany()
            if not more:
                return
            self._stream += more
        answer.close()

    async def _return(self) -> None:
        """Come back for the rest, behind the last token that was seen whole."""
        kept = self._stream[: self._stream.rfind(b"\n\n") + 2]
        token = kept.rfind(b"\nid: ")
        if token < 0:
            self._stream = await self._read()
            return
        number = kept[token + 5 : kept.index(b"\n", token + 5)].decode()
        self._stream = kept[: kept.index(b"\n\n", token) + 2]
        self._stream += await self._read({"Last-Event-ID": number})

    async def _read(self, headers: dict[str, str] | None = None) -> bytes:
        async with self._session.get(f"{self._path}/stream", headers=headers) as answer:
            if answer.status != 200:
                self._wrong(f"its stream was answered with {answer.status}")
                return b""
            return await answer.read()

    def _wrong(self, what: str) -> None:
        self._seen.wrong.append(f"{self._path}, whose client {self._plan.habit}: {what}")


def _events(stream: bytes) -> tuple[list[str], list[dict[str, Any]]]:
    """The names and the data of all events."""
    names, data = [], []
    for block in stream.split(b"\n\n"):
        for line in block.split(b"\n"):
            if line.startswith(b"event: "):
                names.append(line[7:].decode())
            elif line.startswith(b"data: "):
                data.append(msgspec.json.decode(line[6:]))
    return names, data


async def flood(house: House, tasks: int, at_once: int, chance: random.Random, longest: int) -> Seen:
    """All clients, so many at once, one after the other; then every stream once more."""
    seen, clients = Seen(), []
    plans = iter([plan(chance, house.model, longest) for _ in range(tasks)])
    async with house.session() as session:

        async def one_after_the_other() -> None:
            for chosen in plans:
                client = Client(house, session, seen, chosen)
                await client.live()
                clients.append(client)

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(one_after_the_other())
        for client in clients:
            await client.check()
    return seen
