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

from bench.flood.houses import GRACE_MS, House
from bench.flood.watched import POOLS

PAUSES_S = (0.0, 0.0, GRACE_MS / 2000, GRACE_MS / 500)
"""So long a reader stays away: an interactive task is still there, or is not any more."""
CLOSED = {"POOL_UNREADY", "POOL_UNAVAILABLE", "MODEL_UNAVAILABLE"}
"""Refusals of a task whose pools do not take any at the moment."""
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
    returns: int = 0
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
    pauses_s: tuple[float, ...] = ()
    """How often it leaves and returns, and how long it stays away."""

    @property
    def cancelable(self) -> bool:
        """Whether it may end before its time, because of what its client does."""
        given_up = self.body["priority"] == "interactive" and self.habit in {"leaves", "returns"}
        return given_up or self.habit in {"cancels", "cancels at once"}


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
        ("reads", "reads later", "returns", "cancels", "cancels at once", "leaves", "never reads"),
        (46, 20, 14, 7, 3, 5, 5),
    )[0]
    if habit == "leaves":
        body["max_tokens"] *= 10  # so that it is not over before anybody notices
    pauses_s = tuple(chance.choices(PAUSES_S, k=chance.randrange(1, 4))) if habit == "returns" else ()
    return Plan(habit, body, chance.randrange(1, 8), pauses_s)


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
        streams = self._plan.habit not in {"reads later", "never reads", "cancels at once"}
        while not await self._ask(streams=streams):  # noqa: ASYNC110 - another process has no event of ours
            await asyncio.sleep(0.05)
        self._seen.habits[self._plan.habit] += 1
        self._seen.accepted[self._plan.body["priority"]] += 1

    async def check(self) -> None:
        """Read the whole stream from its beginning, to its end, and hold it to the contract."""
        whole = await self._read()
        if not whole.startswith(self._stream):
            self._wrong("what a client read in pieces is not what one reads at once")
        names, data = events_of(whole)
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
        how = last["code"] if names[-1] == "error" else last["finish_reason"]
        self._seen.ends[how] += 1
        if how == "canceled" and not self._plan.cancelable:
            self._wrong("it was canceled, and nobody had asked for that")
        for name, each in zip(names, data, strict=True):
            if name == "started" and names[-1] == "end":
                self._seen.prediction_error_ms.append(abs(last["queue_time_ms"] - each["predicted_start_ms"]))

    async def _ask(self, *, streams: bool) -> bool:
        """Send the task; False where it was refused for the moment."""
        headers = EVENT_STREAM if streams else {}
        async with self._session.post("/v1/tasks", json=self._plan.body, headers=headers) as answer:
            if answer.status not in {200, 202}:
                refusal = await answer.json()
                self._seen.refused[refusal["code"]] += 1
                if refusal["code"] not in CLOSED:
                    raise RuntimeError(f"a task was refused: {refusal}")
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
            case "cancels" | "cancels at once":
                await self._cancel()
            case "reads later":
                self._stream = await self._read()
            case _:
                pass
        return True

    async def _cancel(self) -> None:
        """End it. What can be read then is whole, and stays as it is."""
        async with self._session.post(f"{self._path}/cancel") as canceled:
            if canceled.status != 204:
                self._wrong(f"a cancel was answered with {canceled.status}")
        self._stream = await self._read()

    async def _some(self, answer: aiohttp.ClientResponse) -> None:
        """Read a few events more, then leave in the middle of it."""
        enough = self._stream.count(b"\n\n") + self._plan.patience
        while self._stream.count(b"\n\n") < enough:
            more = await answer.content.readany()
            if not more:
                return
            self._stream += more
        answer.close()

    async def _return(self) -> None:
        """Come back for what is missing, and leave again; at last stay to the end."""
        *visits, last = self._plan.pauses_s
        for pause_s in visits:
            await asyncio.sleep(pause_s)
            async with self._session.get(f"{self._path}/stream", headers=self._behind()) as answer:
                await self._some(answer)
        await asyncio.sleep(last)
        headers = self._behind()
        self._stream += await self._read(headers)
        self._seen.returns += len(self._plan.pauses_s)

    def _behind(self) -> dict[str, str]:
        """Keep what there is up to the last token that was seen whole, and say which it was."""
        whole = self._stream[: self._stream.rfind(b"\n\n") + 2]
        token = whole.rfind(b"\nid: ")
        self._stream = b"" if token < 0 else whole[: whole.index(b"\n\n", token) + 2]
        return {} if token < 0 else {"Last-Event-ID": whole[token + 5 : whole.index(b"\n", token + 5)].decode()}

    async def _read(self, headers: dict[str, str] | None = None) -> bytes:
        async with self._session.get(f"{self._path}/stream", headers=headers) as answer:
            if answer.status != 200:
                self._wrong(f"its stream was answered with {answer.status}")
                return b""
            return await answer.read()

    def _wrong(self, what: str) -> None:
        self._seen.wrong.append(f"{self._path}, whose client {self._plan.habit}: {what}")


def events_of(stream: bytes) -> tuple[list[str], list[dict[str, Any]]]:
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
