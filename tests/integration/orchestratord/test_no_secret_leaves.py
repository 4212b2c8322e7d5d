"""Secrets planted in everything that comes in, and looked for in everything that goes out."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts import config as configuration
from contracts.pools import Endpoint
from daemon_core import logs
from daemon_core.redaction import Redactor
from tests.integration.orchestratord.house import BODY, EVENT_STREAM, TOKEN, House, house
from tests.integration.orchestratord.manager import Manager, listening
from tests.standin.knobs import Fault, HttpError, Knobs
from tests.standin.server import StandIn
from tests.unit.orchestratord.world import snapshot

ENGINE_KEY = "k3y-of-an-engine-QWERTZ-0815"
ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
CORE = st.text(ALPHABET, min_size=20, max_size=32)
"""What must appear nowhere."""


class Planted(msgspec.Struct, frozen=True):
    """A secret, and the text that holds it."""

    core: str
    text: str


def planted(form: str) -> st.SearchStrategy[Planted]:
    return CORE.map(lambda core: Planted(core, form.format(core)))


KNOWN = st.sampled_from([TOKEN, ENGINE_KEY]).map(lambda secret: Planted(secret, secret))
SHAPES = st.one_of(
    planted("hf_{}"),
    planted("ghp_{}"),
    planted("sk-{}"),
    planted("AUTHORIZATION: bEaReR {}"),
    planted("Bearer {}"),
    planted("https://someone:{}@example.org/m.gguf"),
    planted("s3://bucket/m.gguf?X-Amz-Signature={}"),
    planted("aws_secret_access_key={}"),
    planted("HF_TOKEN={}"),
    planted('"password": "{}"'),
    planted("x-api-key: {}"),
    st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=16, max_size=16).map(lambda c: Planted(c, f"AKIA{c}")),
)
SECRETS = st.one_of(KNOWN, SHAPES)
AROUND = st.sampled_from(["{}", "it is {} indeed", "{}\n", "\n{}", "é{}", "\\{}", "x={}", "'{}'", "({})"])

Body = dict[str, Any]
FIELDS: dict[str, Callable[[str], Body]] = {
    "prompt": lambda text: {"prompt": text},
    "messages": lambda text: {"prompt": None, "messages": [{"role": "user", "content": text}]},
    "stop": lambda text: {"sampling": {"stop": [text]}},
    "grammar": lambda text: {"sampling": {"grammar": text}},
    "schema": lambda text: {"sampling": {"json_schema": {"password": text, "items": [text]}}},
    "model_ref": lambda text: {"model_ref": text},
    "task_id": lambda text: {"task_id": text},
    "session_id": lambda text: {"session_id": text},
    "output_mode": lambda text: {"output_mode": text},
    "profile": lambda text: {"sampler_profile_version": text},
    "pool": lambda text: {"placement": {"mode": "pin", "pool_id": text}},
    "avoid": lambda text: {"placement": {"avoid": [text]}},
    "unknown field": lambda text: {text: 1},
    "wrong type": lambda text: {"max_tokens": text},
    "engine": lambda text: {"engine": text},
    "priority": lambda text: {"priority": text},
}
PATHS = (
    "/v1/tasks/{}",
    "/v1/tasks/{}/stream",
    "/v1/tasks?state={}",
    "/v1/tasks?limit={}",
    "/v1/artifacts/{}",
    "/v1/pools/{}/health",
    "/v1/catalog/models/{}",
    "/v1/catalog/models?state={}",
    "/no/such/{}",
)
HEADERS = ("X-Correlation-Id", "Cookie", "User-Agent", "Last-Event-ID", "Accept", "X-Forwarded-For", "X-Request-Id")


class Running:
    """A house in a thread of its own, since what hypothesis calls is no coroutine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manager = Manager()
        self.here: House
        self.engine: StandIn
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="house")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    def do(self, work: Any) -> Any:  # noqa: ANN401 - any coroutine and what it answers
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with AsyncExitStack() as stack:
            self.engine = await stack.enter_async_context(StandIn(Knobs(), key=ENGINE_KEY))
            here = self.here = await stack.enter_async_context(house(self.folder, token=TOKEN))
            here.client.headers["Authorization"] = f"Bearer {TOKEN}"
            here.redactor.register(ENGINE_KEY)
            self.manager.pools = (snapshot("p", endpoint=self.engine_at(), slots=4, ctx_max=1 << 20),)
            await stack.enter_async_context(listening(self.manager, self.folder / "manager.sock"))
            group = await stack.enter_async_context(asyncio.TaskGroup())
            following = group.create_task(here.link.run())
            await self.manager.until(lambda each: any(call.method == "subscribe" for call in each.asked))
            while not any(entry.usable for entry in here.pools):
                await asyncio.to_thread(lambda: None)
            self._ready.set()
            await self._stop.wait()
            following.cancel()

    def engine_at(self) -> Endpoint:
        return Endpoint(url=self.engine.url, api_key=ENGINE_KEY)

    # --- what goes in, and what comes out ---

    async def post(self, path: str, body: Body | bytes, headers: dict[str, str] | None = None) -> tuple[int, str]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.here.client.post(path, data=data, headers=headers) as answer:
            return answer.status, f"{dict(answer.headers)}\n{await answer.text()}"

    async def get(self, path: str, headers: dict[str, str] | None = None) -> str:
        async with self.here.client.get(path, headers=headers) as answer:
            return f"{dict(answer.headers)}\n{await answer.text()}"

    async def kept(self) -> str:
        """Everything on the disk, and what is told to the manager and to Prometheus."""
        files = [file.read_text() for file in (self.folder / "artifacts").iterdir() if file.is_file()]
        files += [receipt.content.decode() for receipt in self.here.keeper.read(0, 100_000)]
        frames = [msgspec.json.encode(call).decode() for call in self.manager.asked]
        return "\n".join([*files, *frames, await self.get("/metrics"), await self.get("/v1/tasks")])


@pytest.fixture
def said() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What the daemon logs, as JSON and as text."""
    root, level = logging.getLogger(), logging.getLogger().level
    before = root.handlers[:]
    redactor = Redactor((TOKEN, ENGINE_KEY))
    streams = io.StringIO(), io.StringIO()
    made = []
    for stream, form in zip(streams, ("json", "text"), strict=True):
        root.handlers = before[:]
        logs.setup("orchestratord", configuration.Logging(format=form, level="debug"), redactor, stream)
        made += [each for each in root.handlers if each not in before]
    root.handlers = [*before, *made]
    yield streams
    root.handlers = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path) as made:
        yield made


@pytest.mark.timeout(60)
@pytest.mark.req("ORCH-3811", "EP-13")
def test_no_secret_leaves_whatever_it_was_planted_in(running: Running, said: tuple[io.StringIO, io.StringIO]) -> None:
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(SECRETS, AROUND, st.sampled_from([*FIELDS, *PATHS, *HEADERS, "token", "artifact", "body"]))
    def check(secret: Planted, around: str, where: str) -> None:
        text = around.format(secret.text)
        out = running.do(_planted(running, text, secret, where))
        everything = {
            "an answer": out,
            "the disk, the manager or the metrics": running.do(running.kept()),
            "the log in JSON": said[0].getvalue(),
            "the log as text": said[1].getvalue(),
        }
        for place, content in everything.items():
            assert secret.core not in content, f"planted in {where} as {text!r}, it is in {place}"

    check()


async def _planted(running: Running, text: str, secret: Planted, where: str) -> str:
    """Send something that holds the text, and answer with all that comes back."""
    if where in FIELDS:
        body = BODY | FIELDS[where](text)
        status, out = await running.post("/v1/tasks", body)
        if status == 202:
            task_id = json.loads(out.partition("\n")[2])["task_id"]
            out += await running.get(f"/v1/tasks/{task_id}/stream") + await running.get(f"/v1/tasks/{task_id}")
        return out
    if where in PATHS:
        return await running.get(where.format(quote(text, safe="")))
    if where in HEADERS:
        plain = text.encode("ascii", "ignore").decode().replace("\n", "")
        return (await running.post("/v1/tasks", BODY, {where: plain, "Content-Type": "application/json"}))[1]
    if where == "token":
        return await running.get("/v1/pools", {"Authorization": f"Bearer {secret.core}x"})
    if where == "artifact":
        body = {"content": {"log": [text], "password": secret.core}, "tags": [text[:128]]}
        return (await running.post("/v1/artifacts", body))[1]
    return (await running.post("/v1/tasks", b'{"model_ref": "' + text.encode()))[1]


@pytest.mark.timeout(60)
@pytest.mark.req("ORCH-3811", "EP-13")
def test_no_secret_that_an_engine_says_is_passed_on_as_an_error_or_kept(
    running: Running, said: tuple[io.StringIO, io.StringIO]
) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(SECRETS, AROUND, st.sampled_from([400, 401, 500, 503]), st.integers(1, 40))
    def check(secret: Planted, around: str, status: int, place: int) -> None:
        text = around.format(secret.text)
        error = {"error": {"code": status, "message": text, "type": "server_error"}}
        refused = HttpError(status=status, body=json.dumps(error))
        outs = [running.do(_run(running, Knobs(http_error=refused)))]
        # In an answer the client gets what the engine said; what is kept of it is another matter.
        pieces = (f"x {text[:place]}", f"{text[place:]} ")
        running.do(_run(running, Knobs(words=pieces, tokens=2, fault=Fault.ERROR_DONE, fault_after=2)))
        running.do(_run(running, Knobs(words=pieces, tokens=2)))
        everything = {
            "an error": "\n".join(outs),
            "the disk, the manager or the metrics": running.do(running.kept()),
            "the log in JSON": said[0].getvalue(),
            "the log as text": said[1].getvalue(),
        }
        for where, content in everything.items():
            assert secret.core not in content, f"said as {text!r}, it is in {where}"

    check()


async def _run(running: Running, knobs: Knobs) -> str:
    running.engine.set(knobs)
    seeded = BODY | {"seed": 0}
    async with running.here.client.post("/v1/tasks", json=seeded, headers={"Accept": EVENT_STREAM}) as answer:
        out = await answer.text()
    running.engine.set(Knobs())
    while not any(entry.usable for entry in running.here.pools):
        await asyncio.to_thread(lambda: None)
    return out
