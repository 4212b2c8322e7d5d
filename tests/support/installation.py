"""A whole installation in a temporary folder: both real daemons, a real engine, the public API.

Waits for what a daemon logs, never for time to pass. Ends what it started, by pid.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.support.ports import HeldPort
from tests.support.waiting import looked_for

TOKEN = "test-token-0123456789"
LIMIT_S = 40.0
STOP_S = 30.0
"""From TERM to KILL, when nobody needs it any more."""


class Daemon:
    """One daemon as a child process, and everything it has logged."""

    def __init__(self, module: str, config: Path, environ: Mapping[str, str]) -> None:
        self.module = module
        self.lines: list[str] = []
        self._config = config
        self._environ = environ
        self._news = asyncio.Condition()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process, while it runs."""
        assert self._process is not None
        return self._process.pid

    async def start(self, *instead: str) -> Self:
        """Start it, or another module with its arguments in its place; it may have run before."""
        module, *more = instead or (self.module,)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, "--config", str(self._config), *more),
            env=dict(self._environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        loop = asyncio.get_running_loop()
        self._reader = loop.create_task(self._read(self._process), name=f"lines of {self.module}")
        return self

    async def logged(self, *words: str, since: int = 0) -> dict[str, Any]:
        """The first log line from ``since`` on that contains every word."""

        def found() -> str | None:
            return next((line for line in self.lines[since:] if all(word in line for word in words)), None)

        try:
            async with asyncio.timeout(LIMIT_S), self._news:
                await self._news.wait_for(lambda: found() is not None)
        except TimeoutError:
            said = "\n".join(self.lines)
            raise AssertionError(
                f"{self.module} did not log {words} within {LIMIT_S:.0f} s; it said:\n{said}"
            ) from None
        line = found() or "{}"
        return dict(json.loads(line)) if line.startswith("{") else {"message": line}

    async def more(self, since: int) -> None:
        """Wait for another log line than the first ``since``."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.lines) > since)

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Send it a signal and wait for its end; the answer is its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return await self.ended()

    async def ended(self, limit_s: float = LIMIT_S) -> int:
        """Wait for its end; the answer is its exit status."""
        assert self._process is not None
        assert self._reader is not None
        async with asyncio.timeout(limit_s):
            status = await self._process.wait()
            await self._reader
        return status

    async def close(self) -> None:
        """End it if it runs: TERM, then KILL."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await self.ended(STOP_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        async for line in process.stderr:
            async with self._news:
                self.lines.append(line.decode(errors="replace").rstrip())
                self._news.notify_all()


class Installation:
    """Configuration, folders, token and both daemons. Use it as an async context manager."""

    def __init__(
        self, root: Path, model: Path | str, *, policy: Mapping[str, object] | None = None, **pool: object
    ) -> None:
        self.root = root
        self._held = HeldPort()
        self.port = self._held.number
        self.config = root / "config.json"  # JSON is YAML
        self.pool_id = "trial"
        document = {
            "profile": "trial",
            "policy": policy or {},
            "server": {"bind": f"127.0.0.1:{self.port}", "disconnect_grace_ms": 200, "drain_ms": 0},
            # Whoever plays every documented answer shows more wrong tokens than one client may.
            "auth": {"failures_per_minute": 1_000_000},
            "pools": [
                {
                    "id": self.pool_id,
                    "engine": "llamacpp",
                    "model": str(model),
                    "ctx": 512,
                    "provisioning": {"mode": "package", "package": {"name": "xllamacpp"}},
                    "restart": {"initial_ms": 50, "max_ms": 200},
                    **pool,
                }
            ],
        }
        root.mkdir(parents=True, exist_ok=True)
        self.config.write_text(json.dumps(document))
        kept = ("PATH", "LANG", "PYTHONPATH", "PYTHONWARNINGS", "LLAMA_ORCH_TEST_RUN")
        self.environ = {name: os.environ[name] for name in kept if name in os.environ} | {
            "HOME": str(root),
            "XDG_RUNTIME_DIR": str(root / "run"),
            "LLORCH_API_TOKEN": TOKEN,
        }
        self.manager = Daemon("pool_managerd", self.config, self.environ)
        self.orchestrator = Daemon("orchestratord", self.config, self.environ)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        base = f"http://127.0.0.1:{self.port}"
        self._session = aiohttp.ClientSession(base, headers={"Authorization": f"Bearer {TOKEN}"})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.close()
        await self.orchestrator.close()
        await self.manager.close()
        if (self.root / "run" / "llama-orch" / f"{self.pool_id}.pid").exists():
            # The manager was killed and its engine lives on: the next manager would end it, so start one and stop it.
            seen = len(self.manager.lines)
            await (await self.manager.start()).logged("probing -> ready", since=seen)
            await self.manager.close()
        self.forgo_port()

    async def up(self) -> Self:
        """Start both daemons and wait until the pool is ready as orchestratord sees it."""
        await self.manager.start()
        await self.orchestrator.start()
        await self.manager.logged("listening on")
        await self.orchestrator.logged("listening on")
        await self.orchestrator.logged("pool trial is ready")
        return self

    def forgo_port(self) -> None:
        """Let its port go: for who never enters it."""
        self._held.close()

    @property
    def http(self) -> aiohttp.ClientSession:
        """A client with the token."""
        assert self._session is not None
        return self._session

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON of a GET that must succeed."""
        async with self.http.get(path) as response:
            assert response.status == 200, await response.text()
            return dict(await response.json())

    @asynccontextmanager
    async def streaming(self, request: Mapping[str, object]) -> AsyncIterator[aiohttp.ClientResponse]:
        """Submit a task and read its stream from the same answer."""
        body = {"model_ref": await self.model_id(), **request}
        async with self.http.post("/v1/tasks", json=body, headers={"Accept": "text/event-stream"}) as response:
            assert response.status == 200, await response.text()
            yield response

    async def run(self, request: Mapping[str, object]) -> list[tuple[str, dict[str, Any]]]:
        """Submit a task and answer with all events of its stream."""
        async with self.streaming(request) as response:
            return parse_events(await response.read())

    async def introduced(self, *pool_ids: str) -> None:
        """Wait until the engines of these pools have said what they serve: no task is sent to a ready one before."""

        async def look() -> set[str]:
            pools = (await self.get("/v1/capabilities"))["pools"]
            return {each["pool_id"] for each in pools if each["ready"] and each["workloads"]}

        await looked_for(look, lambda found: found >= {*pool_ids}, f"what the engines of {pool_ids} serve")

    async def model_id(self) -> str:
        """The id of the one model."""
        return str((await self.get("/v1/capabilities"))["pools"][0]["model_ref"])

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """The engine takes what it is sent and says nothing: what runs there is not over before this is."""
        engine = self.engine_pid()
        os.kill(engine, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(engine, signal.SIGCONT)

    def engine_pid(self) -> int:
        """The engine process, as the manager's pid file names it."""
        text = (self.root / "run" / "llama-orch" / f"{self.pool_id}.pid").read_text()
        return int(text.split()[0])


def parse_events(body: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The (name, data) of every complete event; comments are passed over."""
    events = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "event" in fields:
            events.append((fields["event"], json.loads(fields["data"])))
    return events


def text_of(events: list[tuple[str, dict[str, Any]]]) -> str:
    """The concatenated text of all tokens."""
    return "".join(data["t"] for name, data in events if name == "token")


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
