"""The real socket, with peers that behave and peers that do not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from contracts.config import Engine, Pool, Restart
from contracts.engines import Finding, Plan, PlanStep, PreparedEngine
from contracts.pools import Cause, PoolSnapshot, PoolState
from contracts.rpc import MAX_FRAME_BYTES, PROTOCOL, RpcCode
from daemon_core.errors import StartupError
from daemon_core.paths import make_private_dir
from pool_managerd import rpc_server
from pool_managerd.devices import DeviceProcess, GpuEvent, Inventory
from pool_managerd.errors import StepError
from pool_managerd.host import Progress
from pool_managerd.hub import Hub
from pool_managerd.instance_lock import single_instance
from pool_managerd.life import DrainAsked, Event, Life, ReloadAsked, RestartAsked
from pool_managerd.log_feed import BURST_LINES, LINES_PER_S, LogFeed
from pool_managerd.rpc_methods import PoolMethods
from pool_managerd.rpc_server import RpcServer
from pool_managerd.snapshot import snapshot
from pool_managerd.taking_over import TakingOver
from tests.integration.pool_managerd.support import Peer
from tests.support.waiting import until

POOL = Pool(id="gpu0", engine=Engine.LLAMACPP, model="file:/m")


def settled() -> TakingOver:
    taking_over = TakingOver()
    taking_over.begin(())
    return taking_over


class NoGpus:
    def inventory(self) -> Inventory:
        return Inventory(problem="no driver")

    def processes(self) -> tuple[DeviceProcess, ...]:
        return ()

    def events(self) -> tuple[GpuEvent, ...]:
        return ()


class Planned:
    def plan(self, pool: Pool) -> Plan:
        return Plan(pool_id=pool.id, steps=(PlanStep(kind="find", detail="find it"),))

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        raise StepError(Cause.ENGINE_MISSING, "there is no engine", "install one")

    async def ensure(self, pool: Pool, progress: Progress) -> PreparedEngine:
        raise NotImplementedError


class Served:
    """A server on a socket of its own, and what its pools were asked."""

    def __init__(self, path: Path, uid: int | None = None) -> None:
        self.path = path
        self.hub = Hub([snapshot(POOL, Life(rules=Restart(), model_ref=POOL.model), wall_offset_ms=0)])
        self.asked: list[tuple[str, Event]] = []
        self.now = 0.0
        self.feed = LogFeed(lambda: self.now, lambda _, write: write())
        methods = PoolMethods(
            version="1.2.3",
            hub=self.hub,
            post=lambda pool_id, event: self.asked.append((pool_id, event)),
            gpus=NoGpus(),
            pools={"gpu0": POOL},
            engines={"gpu0": Planned()},
            feed=self.feed,
            logs=path.parent,
            taking_over=settled(),
        )
        self.server = RpcServer(path, methods, uid=uid)

    def publish(self, **changes: Any) -> None:  # noqa: ANN401 - any field of a snapshot
        self.hub.publish(replace(self.hub.pools().pools[0], **changes))


Connect = Callable[[], Any]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    one = Served(make_private_dir(tmp_path / "run") / "pool-managerd.sock")
    await one.server.start()
    yield one
    await one.server.close()


@pytest.fixture
async def connect(served: Served) -> AsyncIterator[Connect]:
    peers: list[Peer] = []

    async def connect() -> Peer:
        peers.append(Peer(*await asyncio.open_unix_connection(served.path, limit=2 * MAX_FRAME_BYTES)))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.writer.close()


@pytest.fixture
async def peer(connect: Connect) -> Peer:
    one: Peer = await connect()
    await one.hello()
    return one


def code(answer: dict[str, Any]) -> int:
    assert "result" not in answer
    return int(answer["error"]["code"])


# --- hello ------------------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-05")
async def test_the_two_say_hello(connect: Connect) -> None:
    peer = await connect()
    answer = await peer.hello()
    assert answer["result"] == {"protocol": PROTOCOL, "name": "pool-managerd", "version": "1.2.3"}
    assert answer["id"] == "hello"
    assert answer["jsonrpc"] == "2.0"


@pytest.mark.req("PM-05")
async def test_another_major_version_is_refused_with_both_named_and_the_connection_ends(connect: Connect) -> None:
    peer = await connect()
    answer = await peer.hello("2.0")
    assert code(answer) == RpcCode.VERSION_MISMATCH
    text = "pool-managerd speaks protocol 1.0, test speaks 2.0: update the older one"
    assert answer["error"]["message"] == text
    assert answer["error"]["data"] == {"ours": "1.0", "theirs": "2.0"}
    assert await peer.reader.read() == b""


async def test_another_minor_version_is_welcome(connect: Connect) -> None:
    peer = await connect()
    assert "result" in await peer.hello("1.9")


async def test_nothing_is_answered_before_hello(connect: Connect) -> None:
    peer = await connect()
    assert code(await peer.call("pool.list")) == RpcCode.HELLO_FIRST
    assert code(await peer.call("subscribe")) == RpcCode.HELLO_FIRST
    assert "result" in await peer.hello()


# --- calls ------------------------------------------------------------------------------------------------------------


async def test_pools_and_their_health_are_told(peer: Peer) -> None:
    listed = await peer.call("pool.list")
    assert (listed["result"]["revision"], listed["result"]["pools"][0]["pool_id"]) == (0, "gpu0")
    page = await peer.call("pool.health", pool_id="gpu0")
    assert (page["result"]["state"], page["result"]["ready"]) == ("stopped", False)


async def test_what_is_asked_of_a_pool_goes_to_its_owner(peer: Peer, served: Served) -> None:
    for method, params in (
        ("pool.drain", {"deadline_ms": 5}),
        ("pool.drain", {}),
        ("pool.restart", {}),
        ("pool.reload", {"new_model_ref": "file:/n", "deadline_ms": 7}),
    ):
        answer = await peer.call(method, pool_id="gpu0", **params)
        assert answer["result"] == {}
    assert served.asked == [
        ("gpu0", DrainAsked(deadline_ms=5)),
        ("gpu0", DrainAsked(deadline_ms=30_000)),
        ("gpu0", RestartAsked()),
        ("gpu0", ReloadAsked(model_ref="file:/n", deadline_ms=7)),
    ]


async def test_a_machine_without_gpus_lists_none(peer: Peer) -> None:
    assert (await peer.call("gpu.list"))["result"] == {"gpus": []}


async def test_a_plan_is_told_and_a_failing_preflight_is_an_error_with_its_cause(peer: Peer) -> None:
    planned = await peer.call("engine.plan", pool_id="gpu0")
    assert planned["result"]["steps"] == [{"kind": "find", "detail": "find it"}]
    refused = await peer.call("engine.preflight", pool_id="gpu0")
    assert code(refused) == RpcCode.CONFLICT
    assert refused["error"]["data"] == {"pool_id": "gpu0", "cause": "engine_missing", "hint": "install one"}


@pytest.mark.parametrize(
    ("method", "params", "number", "words"),
    [
        ("pool.health", {"pool_id": "gpu7"}, RpcCode.UNKNOWN_POOL, "no pool 'gpu7'; there are: gpu0"),
        ("pool.drain", {"pool_id": "gpu7"}, RpcCode.UNKNOWN_POOL, "gpu7"),
        ("pool.health", {}, RpcCode.INVALID_PARAMS, "the required field 'pool_id' is missing"),
        ("pool.drain", {"pool_id": "gpu0", "deadline_ms": "x"}, RpcCode.INVALID_PARAMS, "deadline_ms: expected int"),
        ("pool.dance", {}, RpcCode.METHOD_NOT_FOUND, "no method 'pool.dance'; there are: catalog.delete"),
        ("", {}, RpcCode.METHOD_NOT_FOUND, "no method ''"),
    ],
)
async def test_a_bad_call_gets_an_error_that_says_why(
    peer: Peer, method: str, params: dict[str, object], number: int, words: str
) -> None:
    answer = await peer.call(method, **params)
    assert code(answer) == number
    assert words in answer["error"]["message"]
    assert "result" in await peer.call("pool.list")


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-05")
@pytest.mark.parametrize(
    ("raw", "number"),
    [
        (b"{", RpcCode.PARSE),
        (b"\xff\xfe", RpcCode.PARSE),
        (b"[1]", RpcCode.PARSE),
        (b'"text"', RpcCode.PARSE),
        (b'{"jsonrpc": "1.0", "method": "pool.list"}', RpcCode.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "method": 7}', RpcCode.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "result": {}}', RpcCode.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": {}, "method": "pool.list"}', RpcCode.INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "pool.health", "params": [1]}', RpcCode.INVALID_PARAMS),
        (b"{" * 5000, RpcCode.PARSE),
    ],
)
async def test_a_malformed_frame_gets_an_error_and_the_connection_goes_on(peer: Peer, raw: bytes, number: int) -> None:
    await peer.send(raw + b"\n")
    assert code(await peer.read()) == number
    assert "result" in await peer.call("pool.list")


async def test_empty_lines_mean_nothing(peer: Peer) -> None:
    await peer.send(b"\n \n\r\n")
    assert "result" in await peer.call("pool.list")


@pytest.mark.req("PM-05")
async def test_a_frame_over_the_limit_gets_an_error_and_ends_only_its_own_connection(
    peer: Peer, connect: Connect
) -> None:
    peer.writer.write(b"[" + b"1," * MAX_FRAME_BYTES)
    answer = await peer.read()
    assert code(answer) == RpcCode.FRAME_TOO_LARGE
    other = await connect()
    assert "result" in await other.hello()


async def test_a_peer_that_leaves_in_the_middle_of_a_frame_disturbs_nobody(peer: Peer, connect: Connect) -> None:
    await peer.send(b'{"jsonrpc": "2.0", "met')
    peer.writer.transport.abort()
    other = await connect()
    assert "result" in await other.hello()


# --- subscriptions ----------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-05")
async def test_a_subscriber_gets_every_pool_then_every_change_whole_with_a_growing_revision(
    peer: Peer, served: Served
) -> None:
    first = await peer.call("subscribe")
    assert (first["result"]["revision"], len(first["result"]["pools"])) == (0, 1)
    served.publish(state=PoolState.STARTING)
    served.publish(state=PoolState.PROBING, restarts=1)
    changes = [await peer.read(), await peer.read()]
    assert [change["method"] for change in changes] == ["pool.changed"] * 2
    assert all("id" not in change or change["id"] is None for change in changes)
    snapshots = [msgspec.convert(change["params"], PoolSnapshot) for change in changes]
    assert [(one.revision, one.state) for one in snapshots] == [(1, PoolState.STARTING), (2, PoolState.PROBING)]
    assert "result" in await peer.call("pool.list")


async def test_subscribing_twice_sends_nothing_twice(peer: Peer, served: Served) -> None:
    await peer.call("subscribe")
    await peer.call("subscribe")
    served.publish(restarts=1)
    served.publish(restarts=2)
    assert [(await peer.read())["params"]["revision"] for _ in range(2)] == [1, 2]


@pytest.mark.req("PM-05")
async def test_a_subscriber_that_does_not_read_is_cut_off_and_the_others_are_not(
    connect: Connect, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rpc_server, "MAX_UNSENT_BYTES", 1 << 16)
    slow, good = await connect(), await connect()
    for one in (slow, good):
        await one.hello()
        await one.call("subscribe")
    slow.writer.transport.pause_reading()
    for number in range(1, 3000):
        served.publish(restarts=number)
        if number % 10 == 0:
            # The good one reads along.
            while (await good.read())["params"]["restarts"] < number:
                pass
        if "cut off" in caplog.text:
            break
    assert "cut off a peer that does not read" in caplog.text
    slow.writer.transport.resume_reading()
    with contextlib.suppress(ConnectionError):
        assert (await slow.reader.read(MAX_FRAME_BYTES)) is not None
        while await slow.reader.read(MAX_FRAME_BYTES):
            pass
    await until(lambda: served.hub.listeners == 1, "the end of its subscription")
    served.publish(restarts=-1)
    while (await good.read())["params"]["restarts"] != -1:
        pass


async def test_a_subscriber_that_left_is_forgotten(peer: Peer, served: Served) -> None:
    await peer.call("subscribe")
    peer.writer.transport.abort()
    await until(lambda: not served.hub.listeners, "the subscription to end")


# --- what the engines say ---------------------------------------------------------------------------------------------


@pytest.mark.req("HP-22")
async def test_who_reads_along_gets_the_latest_lines_and_then_each_new_one_with_the_jobs_behind_it(
    peer: Peer, served: Served
) -> None:
    (served.path.parent / "gpu0.log").write_text("".join(f"line {number}\n" for number in range(9)))
    answer = await peer.call("pool.log", pool_id="gpu0", lines=2)
    assert answer["result"]["lines"] == [
        {"pool_id": "gpu0", "line": f"line {number}", "correlation_ids": [], "left_out": 0} for number in (7, 8)
    ]
    await peer.send(b'{"jsonrpc":"2.0","method":"pool.jobs","params":{"pool_id":"gpu0","correlation_ids":["a","b"]}}\n')
    assert "result" in await peer.call("pool.list")  # which was read after it
    served.feed.said("gpu0", "a new one")
    told = await peer.next_told()
    assert (told["method"], told["params"]) == (
        "pool.log",
        {"pool_id": "gpu0", "line": "a new one", "correlation_ids": ["a", "b"], "left_out": 0},
    )


async def test_of_every_pool_where_none_is_named_and_never_of_one_that_is_not_there(peer: Peer, served: Served) -> None:
    assert (await peer.call("pool.log"))["result"] == {"lines": []}
    served.feed.said("gpu0", "here")
    assert (await peer.next_told())["params"]["line"] == "here"
    assert code(await peer.call("pool.log", pool_id="gpu7")) == RpcCode.UNKNOWN_POOL
    served.feed.said("gpu0", "still")
    assert (await peer.next_told())["params"]["line"] == "still"


async def test_an_engine_that_floods_its_log_floods_nobody_and_what_was_left_out_is_counted(
    peer: Peer, served: Served
) -> None:
    await peer.call("pool.log")
    for number in range(BURST_LINES + 100):
        served.feed.said("gpu0", f"line {number}")
    served.now = 1.0
    served.feed.said("gpu0", "later")
    told = [await peer.next_told() for _ in range(BURST_LINES + 1)]
    assert [each["params"]["left_out"] for each in told] == [0] * BURST_LINES + [100]
    assert told[-1]["params"]["line"] == "later"
    for _ in range(int(LINES_PER_S) + 50):
        served.feed.said("gpu0", "more")
    assert "result" in await peer.call("pool.list")
    assert len(peer.told) == LINES_PER_S - 1


async def test_long_lines_and_many_of_them_fit_into_a_frame(peer: Peer, served: Served) -> None:
    (served.path.parent / "gpu0.log").write_text(("\x01" * 6_000 + "\n") * 100)
    lines = (await peer.call("pool.log", lines=100_000))["result"]["lines"]
    assert 0 < len(lines) < 100
    served.feed.said("gpu0", "x" * 50_000)
    assert len((await peer.next_told())["params"]["line"]) < 3_000


async def test_who_has_left_reads_no_more(peer: Peer, served: Served) -> None:
    await peer.call("pool.log")
    peer.writer.transport.abort()
    await until(lambda: not served.feed.readers, "the reader to be forgotten")


@pytest.mark.req("HP-22")
async def test_a_call_that_a_client_caused_is_logged_with_its_correlation_id(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await peer.send(
        b'{"jsonrpc":"2.0","id":1,"method":"pool.drain","params":{"pool_id":"gpu0"},"correlation_id":"corr-7"}\n'
    )
    assert (await peer.read())["result"] == {}
    [record] = [each for each in caplog.records if "asks for pool.drain" in each.message]
    assert vars(record)["correlation_id"] == "corr-7"


# --- who may listen and who may connect -------------------------------------------------------------------------------


@pytest.mark.req("PM-05")
def test_the_socket_is_this_users_alone(served: Served) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.path.parent.stat().st_mode) == 0o700


@pytest.mark.req("PM-05")
async def test_another_user_is_refused_whatever_the_modes_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    served = Served(tmp_path / "sock", uid=os.getuid() + 1)
    await served.server.start()
    reader, writer = await asyncio.open_unix_connection(served.path)
    assert await reader.read() == b""
    assert f"refused a connection of user {os.getuid()} (pid {os.getpid()})" in caplog.text
    writer.close()
    await served.server.close()


async def test_a_second_instance_is_refused_and_the_first_goes_on(served: Served, peer: Peer) -> None:
    second = Served(served.path)
    with pytest.raises(StartupError) as caught:
        await second.server.start()
    assert caught.value.exit_code == 1
    assert str(caught.value) == f"another pool-managerd already runs here: it holds {served.path}"
    assert "result" in await peer.call("pool.list")


def test_a_state_directory_has_one_manager(tmp_path: Path) -> None:
    with (
        single_instance(tmp_path / "lock"),
        pytest.raises(StartupError, match="already runs here"),
        single_instance(tmp_path / "lock"),
    ):
        pass
    with single_instance(tmp_path / "lock"):
        pass


async def test_a_socket_that_a_dead_manager_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(path))
    dead.listen()
    dead.close()
    served = Served(path)
    await served.server.start()
    reader, writer = await asyncio.open_unix_connection(path)
    assert "result" in await Peer(reader, writer).hello()
    writer.close()
    await served.server.close()
    assert not path.exists()


async def test_a_file_in_the_way_is_left_alone_and_named(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    path.write_text("precious")
    with pytest.raises(StartupError, match="is in the way and is no socket"):
        await Served(path).server.start()
    assert path.read_text() == "precious"


async def test_a_path_too_long_for_a_socket_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120) / "sock"
    path.parent.mkdir()
    with pytest.raises(StartupError, match="cannot listen on"):
        await Served(path).server.start()
