"""The clients, each with a task id and habits of its own, and what each saw of its task over all deaths of the daemon.

Decides who does what, from a seed, and what a client may see: numbers without gaps or repeats over reconnects, the same
tokens however often it reads them, and one terminal event that never changes. A client that knows of no answer sends
the same request again; one that was answered comes back behind the last token that it saw.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.flood.clients import CLOSED, EVENT_STREAM, WORDS, events_of
from bench.kill.house import LLAMAS, House

STRICT_PROMPTS = ("once upon a time", "the old river carries small stones", "a quiet sea", "down to")
STRICT_SEEDS = (1, 2, 3)
STRICT_TOKENS = (40, 120)
SESSIONS = 30
TERMINAL = {"end", "error"}
HABITS = {"streams": 40, "asks again": 12, "reads later": 12, "returns": 14, "cancels": 8, "cancels at once": 4}
HABITS |= {"never reads": 10}


class Heard:
    """How many events all clients have read; somebody may wait for more."""

    def __init__(self) -> None:
        self.count = 0
        self._due: tuple[int, asyncio.Event] | None = None
        self._over = False

    def more(self, count: int) -> None:
        """So many more were read."""
        self.count += count
        if self._due is not None and self.count >= self._due[0]:
            self._due[1].set()

    async def another(self, count: int) -> bool:
        """Wait until so many more were read; False where there will be no more."""
        self._due = self.count + count, asyncio.Event()
        if not self._over:
            await self._due[1].wait()
        self._due = None
        return not self._over

    def end(self) -> None:
        """Nobody reads any more."""
        self._over = True
        if self._due is not None:
            self._due[1].set()


@dataclass
class Book:
    """What all clients saw."""

    heard: Heard = field(default_factory=Heard)
    wrong: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """Requests that were not let in, and were sent again."""
    returns: int = 0
    """How often a client came back after the daemon had died."""


@dataclass(frozen=True)
class Plan:
    """One task: what is asked, and what its client does."""

    habit: str
    body: dict[str, Any]
    patience: int = 0
    """After so many events the client leaves, or cancels."""

    @property
    def strict(self) -> bool:
        """Whether the same is asked for byte for byte."""
        return self.body.get("determinism") == "strict"

    @property
    def question(self) -> tuple[str, int, int]:
        """What a strict answer depends on."""
        return self.body["prompt"], self.body["seed"], self.body["max_tokens"]


def plan(chance: random.Random, task_id: str, model: str) -> Plan:
    """The next client."""
    kind = chance.choices(("strict", "loose", "shared"), (45, 10, 45))[0]
    body: dict[str, Any] = {
        "task_id": task_id,
        "model_ref": "standin" if kind == "shared" else model,
        "priority": "interactive" if chance.random() < 0.3 else "batch",
    }
    if kind == "strict":
        body |= {"determinism": "strict", "prompt": chance.choice(STRICT_PROMPTS), "seed": chance.choice(STRICT_SEEDS)}
        body["max_tokens"] = chance.choice(STRICT_TOKENS)
    else:
        body["prompt"] = " ".join(chance.choices(WORDS, k=chance.choice((1, 5, 20))))
        body |= {"seed": chance.randrange(1, 1_000), "max_tokens": chance.randrange(2, 60)}
        if chance.random() < 0.2:
            body["session_id"] = f"{kind}-{chance.randrange(SESSIONS)}"
    if kind != "shared" and chance.random() < 0.6:
        body["placement"] = {"mode": "pin", "pool_id": chance.choice(LLAMAS)}
    habit = chance.choices(list(HABITS), list(HABITS.values()))[0]
    return Plan(habit, body, chance.randrange(1, 12))


class Client:
    """One task from its request to its last event."""

    def __init__(self, house: House, session: aiohttp.ClientSession, book: Book, chosen: Plan) -> None:
        self._house = house
        self._session = session
        self._book = book
        self.plan = chosen
        self.task_id: str = chosen.body["task_id"]
        self.known = False
        """The daemon has told of it: it must never be forgotten."""
        self.tokens: list[str] = []
        """The most that was seen of its stream."""
        self.final: bytes | None = None
        """Its terminal event, as it was read first."""
        self.accepted: bytes | None = None
        self.whole = b""
        """Its stream, as it is read when everything is over."""

    @property
    def _path(self) -> str:
        return f"/v1/tasks/{self.task_id}"

    async def live(self) -> None:
        """Do what was planned."""
        habit = self.plan.habit
        if habit in {"streams", "returns", "cancels", "asks again"}:
            await self._persist(self._ask_for_the_stream)
        else:
            await self._persist(self._ask)
        if habit in {"cancels", "cancels at once"} and self.final is None:
            await self._persist(self._cancel)
        if habit == "never reads":
            return
        if habit == "reads later":
            await self._persist(self._ask)
        again = self._ask_for_the_stream if habit == "asks again" else self._return
        while self.final is None:
            await self._persist(again)

    async def check(self, session: aiohttp.ClientSession) -> None:
        """Read the whole stream once more, from its beginning."""
        async with session.get(f"{self._path}/stream") as answer:
            if answer.status != 200:
                self.wrong(f"its stream was answered with {answer.status}")
                return
            self.whole = await answer.read()
        names, _ = events_of(self.whole)
        terminal = [name for name in names if name in TERMINAL]
        if len(terminal) != 1 or names[-1] not in TERMINAL:
            self.wrong(f"its events are {names[-4:]} at the end, with {len(terminal)} that should be the last")
        self._take(self.whole, 0)

    def wrong(self, what: str) -> None:
        """Something breaks the contract."""
        asked = "strict " if self.plan.strict else ""
        self._book.wrong.append(f"{self.task_id} ({asked}{self.plan.body['priority']}, {self.plan.habit}): {what}")

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _persist(self, attempt: Callable[[], Awaitable[bool]]) -> None:
        """Try until it was answered, over any number of deaths of the daemon."""
        while True:
            run, lines = self._house.runs, len(self._house.orchestrator.lines)
            try:
                if await attempt():
                    return
            except aiohttp.ClientError:
                await self._house.served_again(run)
                self._book.returns += 1
            else:
                await self._house.orchestrator.more(lines)  # what keeps it out will be over some time, and said

    async def _ask(self) -> bool:
        """Have the task let in; the answer is the same however often."""
        async with self._session.post("/v1/tasks", json=self.plan.body) as answer:
            if not await self._let_in(answer, 202):
                return False
            accepted = await answer.read()
        if self.accepted is not None and accepted != self.accepted:
            self.wrong(f"the answer to its admission was {self.accepted!r} and is {accepted!r}")
        self.accepted = accepted
        return True

    async def _ask_for_the_stream(self) -> bool:
        """The same, and the stream from its beginning."""
        async with self._session.post("/v1/tasks", json=self.plan.body, headers=EVENT_STREAM) as answer:
            if not await self._let_in(answer, 200):
                return False
            await self._listen(answer, 0)
        return True

    async def _return(self) -> bool:
        """The stream behind the last token that was seen."""
        seen = len(self.tokens)
        headers = {"Last-Event-ID": str(seen - 1)} if seen else {}
        async with self._session.get(f"{self._path}/stream", headers=headers) as answer:
            if answer.status != 200:
                self.wrong(f"its stream was answered with {answer.status}")
                self.final = b""
                return True
            await self._listen(answer, seen)
        return True

    async def _cancel(self) -> bool:
        async with self._session.post(f"{self._path}/cancel") as answer:
            if answer.status != 204:
                self.wrong(f"a cancel was answered with {answer.status}")
        return True

    async def _let_in(self, answer: aiohttp.ClientResponse, status: int) -> bool:
        if answer.status == status:
            self.known = True
            return True
        refusal = await answer.json()
        self._book.refused[refusal["code"]] += 1
        if self.known or refusal["code"] not in CLOSED:
            self.wrong(f"was refused, {'after' if self.known else 'before'} it was let in: {refusal}")
            raise RuntimeError(self._book.wrong[-1])
        return False

    # --- what is read -------------------------------------------------------------------------------------------------

    async def _listen(self, answer: aiohttp.ClientResponse, at: int) -> None:
        """Read the tokens from number ``at`` on, until it ends, or until the client has had enough for now."""
        leaves = self.plan.habit in {"returns", "cancels"} and not self.tokens
        pending, events = b"", 0
        async for chunk in answer.content.iter_any():
            pending += chunk
            cut = pending.rfind(b"\n\n") + 2 if b"\n\n" in pending else 0
            events += pending.count(b"\n\n", 0, cut)
            at = self._take(pending[:cut], at)
            pending = pending[cut:]
            if leaves and events >= self.plan.patience:
                answer.close()
                return

    def _take(self, frames: bytes, at: int) -> int:
        """Hold whole events to what was seen before; the number of the token that is due then."""
        names, data = events_of(frames)
        self._book.heard.more(len(names))
        for name, each in zip(names, data, strict=True):
            if name == "token":
                self._token(each["i"], each["t"], at)
                at += 1
        last = frames.rfind(b"event: ") if names and names[-1] in TERMINAL else -1
        if last >= 0:
            self._end(frames[last:], at, data[-1].get("code", ""))
        return at

    def _token(self, number: int, text: str, due: int) -> None:
        if number != due:
            self.wrong(f"its token {number} came where {due} was due")
        if number < len(self.tokens):
            if self.tokens[number] != text:
                self.wrong(f"its token {number} was {self.tokens[number]!r} and is {text!r}")
        elif self.final is not None:
            self.wrong(f"its token {number} came after its end")
        else:
            self.tokens.append(text)

    def _end(self, frame: bytes, at: int, code: str) -> None:
        if self.final is not None and frame != self.final:
            self.wrong(f"its end was {self.final!r} and is {frame!r}")
        if at < len(self.tokens) and (self.plan.strict or code != "WORKER_RESET"):
            self.wrong(f"{len(self.tokens)} of its tokens were seen, and {at} are there at its end, {frame!r}")
        self.final = frame


async def undisturbed(house: House, name: str) -> dict[tuple[str, int, int], str]:
    """What every strict question is answered with while nothing dies."""
    book = Book()
    answers: dict[tuple[str, int, int], str] = {}
    async with house.session() as session:
        for question in itertools.product(STRICT_PROMPTS, STRICT_SEEDS, STRICT_TOKENS):
            body = dict(zip(("prompt", "seed", "max_tokens"), question, strict=True))
            body |= {"task_id": f"{name}-{len(answers)}", "model_ref": house.model, "determinism": "strict"}
            client = Client(house, session, book, Plan("streams", body))
            await client.live()
            answers[question] = "".join(client.tokens)
    if book.wrong:
        raise RuntimeError(f"something is wrong before anything dies: {book.wrong}")
    return answers


async def crowd(
    house: House, plans: list[Plan], book: Book, at_once: int, session: aiohttp.ClientSession
) -> list[Client]:
    """All clients, so many at once, one after the other."""
    clients = [Client(house, session, book, each) for each in plans]
    waiting = iter(clients)

    async def one_after_the_other() -> None:
        for client in waiting:
            await client.live()

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one_after_the_other())
    return clients
