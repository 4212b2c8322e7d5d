"""A workstation for the stories: both real daemons, and engines that a story can hold up, kill or look into.

The engines are stand-ins behind endpoints (``slow``), the real llama.cpp server (``real``), or stand-ins that the
manager itself starts on the GPUs of NVML's stand-in (``on_gpus``). A step awaits what a daemon says, and never time.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from llama_orch.trial import haiku_model_path
from tests.standin.knobs import Knobs, Stats
from tests.standin.process import StandInProcess, standin_process
from tests.support.installation import LIMIT_S, Installation
from tests.support.nvml import GIB, FakeGpus
from tests.support.stream_grammar import Said, check
from tests.support.waiting import looked_for

Result = TypeVar("Result")
STREAM = {"Accept": "text/event-stream"}
SLOW = Knobs(token_delay_ms=20, tokens_per_write=1)

_ON_A_GPU = """#!{python} -P
import os, sys
asked = sys.argv[1:]
if asked == ["--version"]:
    print("version: 5001 (c0ffee1)")
elif asked == ["--help"]:
    print({help!r})
elif asked == ["--list-devices"]:
    print("Available devices:")
    for number, uuid in enumerate(each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each):
        print(f"  CUDA{{number}}: NVIDIA {{uuid}} (24135 MiB, 23860 MiB free)")
else:
    port = asked[asked.index("--port") + 1]
    os.chdir({root!r})
    os.execv(sys.executable, [sys.executable, "-m", "tests.standin", "--port", port, "--knobs", {knobs!r}])
"""


class Asked(msgspec.Struct):
    """One client's request, and what came of it."""

    status: int = 0
    headers: dict[str, str] = {}
    body: dict[str, Any] = {}
    stream: aiohttp.ClientResponse | None = None
    got: bytes = b""

    @property
    def task_id(self) -> str:
        """The task that was accepted."""
        assert self.status in {200, 202}, self.body
        return self.headers["location"].rpartition("/")[2]


class Machine:
    """One workstation and its clients, by their names."""

    def __init__(self, runner: asyncio.Runner, root: Path) -> None:
        self._runner = runner
        self._stack = AsyncExitStack()
        self.root = root
        self.installation = Installation(root / "home", haiku_model_path())
        self.document: dict[str, Any] = json.loads(self.installation.config.read_text())
        self.document["server"]["disconnect_grace_ms"] = 100
        self.real_pool = self.document["pools"].pop()
        self.engines: dict[str, StandInProcess] = {}
        self.asked: dict[str, Asked] = {}
        self.last = Asked()
        self.gpus: FakeGpus | None = None

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run one step to its end."""
        return self._runner.run(work)

    async def close(self) -> None:
        for each in self.asked.values():
            if each.stream is not None:
                each.stream.close()
        await self._stack.aclose()
        self.installation.forgo_port()

    # --- what there is ------------------------------------------------------------------------------------------------

    def real(self) -> None:
        """A pool with the real llama.cpp server."""
        self.document["pools"].append(self.real_pool)

    async def slow(self, pool_id: str, model: str, slots: int) -> None:
        """A pool whose engine takes its time."""
        engine = await self._stack.enter_async_context(standin_process(msgspec.structs.replace(SLOW, slots=slots)))
        self.engines[pool_id] = engine
        endpoint = {"mode": "external", "external": {"url": engine.url}}
        self.document["pools"].append(
            {"id": pool_id, "engine": "llamacpp", "model": model, "slots": slots, "provisioning": endpoint}
        )

    def on_gpus(self, gpus: FakeGpus, model: str) -> None:
        """A card of 24 GB and one of 12 GB, each with a pool that serves the same model."""
        gpus.engines_hold(GIB)
        self.gpus = gpus
        self.installation.environ.update(gpus.env)
        self.document["profile"] = "home"
        file = self.root / f"{model}.gguf"
        shutil.copy(haiku_model_path(), file)
        server = self.root / "bin/llama-server"
        server.parent.mkdir()
        root, knobs = str(Path(__file__).parents[2]), msgspec.json.encode(SLOW).decode()
        server.write_text(_ON_A_GPU.format(python=sys.executable, help=_help(), root=root, knobs=knobs))
        server.chmod(0o755)
        for pool_id, device in (("large", 0), ("small", 1)):
            self.document["pools"].append(
                {
                    "id": pool_id,
                    "engine": "llamacpp",
                    "model": str(file),
                    "devices": [device],
                    "ctx": 512,
                    "provisioning": {"mode": "binary", "binary": {"path": str(server)}},
                    "restart": {"initial_ms": 50, "max_ms": 200},
                }
            )

    async def up(self) -> None:
        """Both daemons run, and every pool takes tasks."""
        self.installation.config.write_text(json.dumps(self.document))
        await self._stack.enter_async_context(self.installation)
        await self.installation.manager.start()
        await (await self.installation.orchestrator.start()).logged("listening on")
        await self.installation.introduced(*(each["id"] for each in self.document["pools"]))

    # --- clients ------------------------------------------------------------------------------------------------------

    async def ask(self, who: str, method: str, path: str, body: object = None, **headers: str) -> Asked:
        """Send a request and read its answer."""
        async with self.installation.http.request(method, path, json=body, headers=headers) as answer:
            asked = await _answer(answer)
        self.asked[who] = self.last = asked
        return asked

    async def submit(self, who: str, **fields: object) -> Asked:
        """Send a task and read where it stands."""
        model = self.document["pools"][0]["model"]
        return await self.ask(who, "POST", "/v1/tasks", {"model_ref": model, "prompt": "Snow.", "seed": 1} | fields)

    async def stream(self, who: str, tokens: int, **fields: object) -> Asked:
        """Send a task and read its stream until so many tokens have come."""
        body = {"model_ref": self.document["pools"][0]["model"], "prompt": "Snow.", "seed": 1} | fields
        answer = await self.installation.http.post("/v1/tasks", json=body, headers=STREAM)
        self.asked[who] = self.last = Asked(answer.status, _headers(answer), stream=answer)
        assert answer.status == 200, await answer.text()
        while self.last.got.count(b"event: token") < tokens:
            more = await answer.content.readany()
            assert more, self.last.got
            self.last.got += more
        return self.last

    async def rest(self, who: str, *, after: int = -1) -> Said:
        """A client's stream to its end, which has to be a right one."""
        asked = self.asked[who]
        if asked.stream is None or after >= 0:
            headers = {"Last-Event-ID": str(after)} if after >= 0 else {}
            async with self.installation.http.get(f"/v1/tasks/{asked.task_id}/stream", headers=headers) as answer:
                return check(await answer.read(), after=after)
        async with asyncio.timeout(LIMIT_S):
            while more := await asked.stream.content.readany():
                asked.got += more
        return check(asked.got)

    def hang_up(self, who: str) -> None:
        """Close a client's connection without a word."""
        stream = self.asked[who].stream
        assert stream is not None
        stream.close()

    # --- looking ------------------------------------------------------------------------------------------------------

    async def until(self, path: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """What is served at a path as soon as it is as wanted."""
        return await looked_for(lambda: self.installation.get(path), holds, path)

    async def until_there(self, path: str) -> dict[str, Any]:
        """What is served at a path as soon as there is something."""

        async def look() -> dict[str, Any]:
            async with self.installation.http.get(path) as answer:
                return dict(await answer.json()) if answer.status == 200 else {}

        return await looked_for(look, bool, path)

    async def engine_is(self, pool_id: str, holds: Callable[[Stats], bool]) -> Stats:
        """What a pool's engine saw of its clients, as soon as it is as wanted."""
        return await looked_for(self.engines[pool_id].stats, holds, f"the engine of {pool_id}")

    async def task(self, who: str) -> dict[str, Any]:
        """Where a client's task stands."""
        return await self.installation.get(f"/v1/tasks/{self.asked[who].task_id}")

    async def task_is(self, who: str, *states: str) -> dict[str, Any]:
        """A client's task, as soon as it is in one of these states."""
        path = f"/v1/tasks/{self.asked[who].task_id}"
        return await self.until(path, lambda task: task["state"] in states)


async def _answer(answer: aiohttp.ClientResponse) -> Asked:
    body = await answer.json() if answer.content_type == "application/json" else {}
    return Asked(answer.status, _headers(answer), body)


def _headers(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in answer.headers.items()}


def _help() -> str:
    from engine_provisioner import wheel_server  # noqa: PLC0415 - only the stories with GPUs need it

    flags = [*wheel_server.FLAGS, "--n-gpu-layers", "--fit"]
    return "\n".join(f"{flag} {'VALUE' if flag in wheel_server.VALUES else ''}" for flag in flags)
