"""The line to pool-managerd, against a scripted one on a real Unix socket."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from contracts import rpc
from contracts.pools import PoolSnapshot, PoolState
from contracts.rpc import Hello, Method, Push
from orchestratord import pool_link
from orchestratord.pool_link import ManagerRefusedError, ManagerUnavailableError, PoolLink
from orchestratord.pools import LinkState
from tests.integration.orchestratord.manager import Manager, listening, params
from tests.unit.orchestratord.world import snapshot


class Followed:
    """A link that runs, and what it told."""

    def __init__(self, socket: Path) -> None:
        self.reports: list[PoolSnapshot] = []
        self.states: list[LinkState] = []
        self._news = asyncio.Event()
        self.link = PoolLink(socket, "9", on_report=self._reported, on_link=self._linked)

    def _reported(self, report: PoolSnapshot) -> None:
        self.reports.append(report)
        self._news.set()

    def _linked(self, state: LinkState) -> None:
        self.states.append(state)
        self._news.set()

    async def until(self, state: Callable[["Followed"], bool]) -> None:
        while not state(self):
            self._news.clear()
            await self._news.wait()


@asynccontextmanager
async def followed(socket: Path) -> AsyncIterator[Followed]:
    made = Followed(socket)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(made.link.run())
        try:
            yield made
        finally:
            running.cancel()


def up(times: int = 1) -> Callable[[Followed], bool]:
    return lambda link: link.states.count(LinkState.UP) == times


def down(times: int) -> Callable[[Followed], bool]:
    return lambda link: link.states.count(LinkState.DOWN) == times


def told(report: PoolSnapshot) -> Callable[[Followed], bool]:
    return lambda link: report in link.reports


async def test_hello_then_subscribe_then_every_pool_then_every_change(tmp_path: Path) -> None:
    manager = Manager(snapshot("a"), snapshot("b", PoolState.STARTING))
    async with listening(manager, tmp_path / "s"), followed(tmp_path / "s") as link:
        await link.until(lambda link: len(link.reports) == 2)
        assert [request.method for request in manager.asked] == [Method.HELLO, Method.SUBSCRIBE]
        assert params(manager.asked[0]) == {"protocol": rpc.PROTOCOL, "name": "orchestratord", "version": "9"}
        assert link.reports == list(manager.pools)
        manager.push(snapshot("b", revision=2))
        await link.until(lambda link: len(link.reports) == 3)
        assert link.reports[-1] == snapshot("b", revision=2)
        assert link.states == [LinkState.UP]


async def test_other_notifications_and_unknown_fields_are_no_trouble(tmp_path: Path) -> None:
    manager = Manager(snapshot("a"))
    async with listening(manager, tmp_path / "s"), followed(tmp_path / "s") as link:
        await link.until(lambda link: len(link.reports) == 1)
        manager.say(rpc.notification(Push.GPU_SAMPLE, rpc.GpuSet(gpus=())))
        manager.say(rpc.notification(Push.POOL_LOG, rpc.LogLine(pool_id="a", line="hello")))
        manager.say(b'{"jsonrpc":"2.0","method":"pool.dreamed","params":{"of":"sheep"}}\n')
        newer = msgspec.to_builtins(snapshot("a", revision=2)) | {"mood": "sunny"}
        manager.say(msgspec.json.encode({"jsonrpc": "2.0", "method": "pool.changed", "params": newer}) + b"\n")
        await link.until(lambda link: len(link.reports) == 2)
        assert link.reports[-1].revision == 2
        assert manager.connections == 1


async def test_it_follows_again_when_the_manager_comes_back(tmp_path: Path) -> None:
    socket = tmp_path / "s"
    async with followed(socket) as link:
        for life in range(1, 4):
            report = snapshot("a", revision=life)
            async with listening(Manager(report), socket):
                await link.until(up(life))
                await link.until(told(report))
            await link.until(down(life))
    assert link.states == [LinkState.UP, LinkState.DOWN] * 3


async def test_it_waits_for_a_manager_that_is_not_there_yet_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    dial, tries, often = asyncio.open_unix_connection, itertools.count(1), asyncio.Event()

    async def counted(path: str, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if next(tries) == 4:
            often.set()
        return await dial(path, limit=limit)

    monkeypatch.setattr(asyncio, "open_unix_connection", counted)
    async with followed(tmp_path / "s") as link:
        with pytest.raises(ManagerUnavailableError, match="pool-managerd cannot be reached"):
            await link.link.call(Method.POOL_LIST, rpc.Empty(), rpc.PoolSet)
        await often.wait()
        async with listening(Manager(), tmp_path / "s"):
            await link.until(up())
    warned = [record.message for record in caplog.records if record.name == "orchestratord.pool_link"]
    assert warned[0] == f"pool-managerd: {tmp_path / 's'}: No such file or directory"
    assert len([message for message in warned if "No such file" in message]) == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"no json\n",
        b'{"jsonrpc":"2.0","method":"\xff"}\n',
        b"\xff\xfe\n",
        b"[]\n",
        b'{"jsonrpc":"1.0","method":"x"}\n',
        b'{"jsonrpc":"2.0","method":"pool.changed","params":{"pool_id":7}}\n',
        b"[" * 100_000 + b"\n",
        b"x" * (rpc.MAX_FRAME_BYTES + 10) + b"\n",
        b"\n",
        b'{"jsonrpc":"2.0","method":"po',
    ],
    ids=["text", "latin-1", "bytes", "array", "version", "types", "deep", "huge", "empty", "cut"],
)
async def test_garbage_ends_the_connection_and_not_the_link(tmp_path: Path, garbage: bytes) -> None:
    manager = Manager(snapshot("a"))
    async with listening(manager, tmp_path / "s"), followed(tmp_path / "s") as link:
        await link.until(up())
        manager.say(garbage)
        if not garbage.endswith(b"\n"):
            manager.hang_up()
        await link.until(up(2))
        assert link.states == [LinkState.UP, LinkState.DOWN, LinkState.UP]
        manager.push(snapshot("a", revision=5))
        await link.until(lambda link: link.reports[-1].revision == 5)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda _: b"\xff\n",
        lambda _: b"x" * (rpc.MAX_FRAME_BYTES + 10) + b"\n",
        lambda request: rpc.answer(request.id, rpc.Empty()),
        lambda request: rpc.refusal(request.id, rpc.RpcCode.INTERNAL, "not now"),
        lambda _: rpc.notification(Push.POOL_CHANGED, snapshot("a")),
    ],
    ids=["bytes", "huge", "types", "refusal", "notification"],
)
@pytest.mark.parametrize("method", [Method.HELLO, Method.SUBSCRIBE])
async def test_a_bad_start_is_tried_again(
    tmp_path: Path, method: Method, wrong: Callable[[rpc.Request], bytes]
) -> None:
    manager = Manager(snapshot("a"))
    manager.answers[method] = wrong
    async with listening(manager, tmp_path / "s"), followed(tmp_path / "s") as link:
        await manager.until(lambda manager: manager.connections >= 2 and len(manager.asked) >= 2)
        assert link.states == []
        del manager.answers[method]
        await link.until(up())
        assert link.reports == [snapshot("a")]


async def test_another_protocol_is_said_with_both_versions_and_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manager = Manager(snapshot("a"))
    manager.hello = Hello(protocol="2.0", name="pool-managerd", version="7")
    async with listening(manager, tmp_path / "s"), followed(tmp_path / "s") as link:
        await manager.until(lambda manager: manager.connections >= 3)
        assert link.states == []
        manager.hello = Hello(protocol="1.9", name="pool-managerd", version="7")
        await link.until(up())
    text = "it speaks protocol 2.0, and this orchestratord 1.0: update the older one"
    assert [record.message for record in caplog.records if "protocol" in record.message] == [f"pool-managerd: {text}"]


async def test_a_manager_that_refuses_our_protocol_is_heard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = Manager()
    text = "protocol 1.0 is not 2.0"
    manager.answers[Method.HELLO] = lambda request: rpc.refusal(request.id, rpc.RpcCode.VERSION_MISMATCH, text)
    async with listening(manager, tmp_path / "s"), followed(tmp_path / "s"):
        await manager.until(lambda manager: manager.connections >= 3)
    assert [record.message for record in caplog.records if text in record.message] == [
        f"pool-managerd: it refused the connection: {text}"
    ]


async def test_a_manager_that_says_nothing_is_told_from_one_that_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_link, "CALL_TIMEOUT_S", 0.01)
    manager = Manager()
    manager.answers[Method.HELLO] = lambda _: None
    async with listening(manager, tmp_path / "s"), followed(tmp_path / "s"):
        await manager.until(lambda manager: manager.connections >= 2)
    assert caplog.messages[0] == "pool-managerd: it did not answer in time"


async def test_what_a_manager_does_not_read_does_not_pile_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that was stopped: the connection stays, and so would everything that is told it, for days."""
    manager, stopped = Manager(), asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            request = rpc.parse(await reader.readline())
            assert isinstance(request, rpc.Request)
            writer.write(manager.answer(request) or b"")
        await stopped.wait()
        writer.close()

    server = await asyncio.start_unix_server(deaf, str(tmp_path / "s"), limit=1024)
    async with server, followed(tmp_path / "s") as link:
        await link.until(up())
        jobs = rpc.JobsParams(pool_id="a", correlation_ids=("x" * 64_000,))
        told = [link.link.notify(Method.POOL_JOBS, jobs) for _ in range(64)]
        assert told == sorted(told, reverse=True)
        assert not told[-1]
        with pytest.raises(ManagerUnavailableError):
            await link.link.call(Method.POOL_LIST, rpc.Empty(), rpc.PoolSet)
        await link.until(down(1))
        stopped.set()
    assert [text for text in caplog.messages if "takes nothing" in text]


# --- calls ------------------------------------------------------------------------------------------------------------


async def test_a_call_is_answered(tmp_path: Path) -> None:
    manager = Manager(snapshot("a"))
    async with listening(manager, tmp_path / "s"), followed(tmp_path / "s") as link:
        await link.until(up())
        wanted = rpc.DrainParams(pool_id="a", deadline_ms=7)
        assert await link.link.call(Method.POOL_DRAIN, wanted, rpc.Empty) == rpc.Empty()
        assert params(manager.asked[-1]) == {"pool_id": "a", "deadline_ms": 7}


async def test_calls_are_told_apart_when_the_answers_come_in_another_order(tmp_path: Path) -> None:
    manager = Manager()
    held: list[rpc.Request] = []

    def hold(request: rpc.Request) -> None:
        held.append(request)

    manager.answers[Method.POOL_LIST] = hold
    async with listening(manager, tmp_path / "s"), followed(tmp_path / "s") as link:
        await link.until(up())
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(link.link.call(Method.POOL_LIST, rpc.Empty(), rpc.PoolSet)) for _ in range(3)]
            await manager.until(lambda _: len(held) == 3)
            for number, request in reversed(list(enumerate(held))):
                manager.say(rpc.answer(request.id, rpc.PoolSet(revision=number, pools=())))
            manager.say(rpc.answer(4711, rpc.Empty()))
            manager.say(rpc.answer(held[0].id, rpc.PoolSet(revision=99, pools=())))
        assert [call.result().revision for call in calls] == [0, 1, 2]


async def test_a_refused_call_carries_the_managers_words(tmp_path: Path) -> None:
    manager = Manager()
    manager.answers[Method.POOL_RELOAD] = lambda request: rpc.refusal(
        request.id, rpc.RpcCode.CONFLICT, "it is draining"
    )
    async with listening(manager, tmp_path / "s"), followed(tmp_path / "s") as link:
        await link.until(up())
        with pytest.raises(ManagerRefusedError, match="it is draining") as caught:
            await link.link.call(Method.POOL_RELOAD, rpc.ReloadParams(pool_id="a", new_model_ref="m"), rpc.Empty)
        assert caught.value.error.code == rpc.RpcCode.CONFLICT
        assert link.states == [LinkState.UP]


async def test_a_call_that_is_open_when_the_manager_goes_fails_at_once(tmp_path: Path) -> None:
    manager = Manager()

    def leave(_: rpc.Request) -> None:
        manager.hang_up()

    manager.answers[Method.POOL_DRAIN] = leave
    async with listening(manager, tmp_path / "s"), followed(tmp_path / "s") as link:
        await link.until(up())
        with pytest.raises(ManagerUnavailableError, match="went away before it answered"):
            await link.link.call(Method.POOL_DRAIN, rpc.DrainParams(pool_id="a"), rpc.Empty)
