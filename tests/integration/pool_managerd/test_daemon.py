"""The daemon as systemd starts it: a process of its own, the real provisioners, the real engine of profile trial."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from contracts.pools import Cause, Endpoint, GateState, PoolState
from tests.integration.pool_managerd.home import Home, marked
from tests.integration.pool_managerd.support import alive
from tests.plugins.failures import OperatorSees
from tests.support.waiting import until

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


async def generate(endpoint: Endpoint) -> None:
    """One token, as orchestratord would ask for it."""
    headers = {"Authorization": f"Bearer {endpoint.api_key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as client,
        client.post(f"{endpoint.url}/completion", json={"prompt": "a", "n_predict": 1}) as response,
    ):
        assert response.status == 200


# --- ready ------------------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3821", "EP-12", "EP-15")
async def test_the_real_engine_gets_ready_through_the_gates_and_is_handed_over(home: Home, model: Path) -> None:
    await home.start()
    ready = await home.ready()
    assert {ready.gates.model, ready.gates.engine, ready.gates.health} == {GateState.OK}
    assert (ready.ctx_max, ready.slots, ready.replica_id) == (256, 1, "trial-0")
    assert (ready.model_ref, (ready.model_digest or "")[:7]) == (str(model), "sha256:")
    assert (ready.engine_version or "").startswith("xllamacpp-")
    assert ready.endpoint is not None
    assert f"Endpoint(url='{ready.endpoint.url}', api_key=***)" == repr(ready.endpoint)
    assert alive(home.engine())
    await until((home.run / "engines" / "trial.json").exists, "the hand-off file")
    assert json.loads((home.run / "engines" / "trial.json").read_text())["url"] == ready.endpoint.url


@pytest.mark.req("EP-13", "EP-16")
async def test_the_key_is_in_no_file_and_in_no_log(home: Home) -> None:
    manager = await home.start()
    ready = await home.ready()
    assert ready.endpoint is not None
    key = ready.endpoint.api_key
    assert key
    line = await manager.logged("pool_managerd.engine_log")
    assert line["pool_id"] == "trial"
    log = home.state / "logs" / "trial.log"
    await until(lambda: "listening on" in log.read_text(), "the engine's own word that it listens")
    await until((home.run / "engines" / "trial.json").exists, "the hand-off file, which is written last")
    contents = [path.read_bytes() for path in home.root.rglob("*") if path.is_file()]
    assert not any(key.encode() in content for content in contents)
    assert not any(key in line for line in manager.lines)
    environ = Path(f"/proc/{home.engine()}/environ").read_bytes()
    assert f"LLAMA_API_KEY={key}".encode() in environ
    assert b"hf-of-a-test" not in environ
    assert key.encode() not in Path(f"/proc/{home.engine()}/cmdline").read_bytes()


@pytest.mark.req("PM-05")
async def test_it_listens_on_a_private_socket_and_on_no_port(home: Home) -> None:
    manager = await home.start()
    await home.ready()
    assert stat.S_IMODE(home.run.stat().st_mode) == 0o700
    assert stat.S_IMODE((home.run / "pool-managerd.sock").stat().st_mode) == 0o600
    inodes = set()
    for link in Path(f"/proc/{manager.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            inodes.add(str(link.readlink()))
    listening = [
        fields
        for table in ("tcp", "tcp6", "udp", "udp6")
        for fields in map(str.split, Path(f"/proc/{manager.pid}/net/{table}").read_text().splitlines()[1:])
        if f"socket:[{fields[9]}]" in inodes and fields[3] == "0A"
    ]
    assert listening == []


async def test_systemd_is_told_when_it_listens_how_many_pools_are_ready_and_that_it_lives(
    home: Home, tmp_path: Path
) -> None:
    told: list[str] = []
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        loop.add_reader(systemd, lambda: told.extend(systemd.recv(4096).decode().splitlines()))
        home.environ |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        manager = await home.start()
        await home.ready()
        await until(lambda: {"STATUS=1/1 pools ready", "WATCHDOG=1"} <= set(told), "what systemd must know")
        assert told.index("READY=1") < told.index("STATUS=1/1 pools ready")
        assert "STATUS=0/1 pools ready; trial: fetching or checking" in "\n".join(told)
        assert b"NOTIFY_SOCKET" not in Path(f"/proc/{home.engine()}/environ").read_bytes()
        assert await manager.kill(signal.SIGTERM) == 0
        await until(lambda: any(each.startswith("STATUS=draining, ") for each in told), "the last word to systemd")
        assert "STOPPING=1" in told
        loop.remove_reader(systemd)


# --- engines that fail ------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-01", "PM-05")
async def test_a_killed_engine_comes_back_before_the_eyes_of_a_subscriber(home: Home) -> None:
    await home.start()
    await home.ready()
    async with home.follow() as follower:
        killed = home.engine()
        os.kill(killed, signal.SIGKILL)
        failed = await follower.reached(PoolState.FAILED)
        assert failed.last_error is not None
        assert failed.last_error.cause is Cause.ENGINE_EXIT
        assert "was ended by SIGKILL" in failed.last_error.message
        again = await follower.reached(PoolState.READY)
        assert again.restarts == 1
        assert home.engine() != killed
        assert follower.states()[1:4] == ["failed", "backoff", "staging_model"]
        revisions = [seen.revision for seen in follower.history]
        assert revisions == sorted(set(revisions))


@pytest.mark.req("ORCH-3821", "PM-01")
async def test_an_engine_that_cannot_load_its_model_says_so_in_its_own_words(
    homes: Callable[..., Home], broken_model: Path
) -> None:
    home = homes(broken_model)
    await home.start()
    async with home.follow() as follower:
        broken = follower.history[-1]
        while broken.state is not PoolState.BROKEN:
            broken = await follower.reached(PoolState.BROKEN)
        assert broken.last_error is not None
        assert broken.last_error.cause is Cause.MODEL_INVALID
        assert broken.last_error.message.startswith("the engine cannot load this model")
        assert "output_norm" in broken.last_error.message
        assert str(home.state / "logs" / "trial.log") in (broken.last_error.hint or "")
        assert broken.gates == msgspec.structs.replace(broken.gates, health=GateState.FAILED)
        assert broken.restarts == 2
    assert not (home.run / "trial.pid").exists()


@pytest.mark.parametrize(
    ("how", "cause", "gate", "words"),
    [
        ({"model": "/no/such.gguf"}, Cause.MODEL_MISSING, "model", "/no/such.gguf"),
        ({"model": "/bin/sh"}, Cause.MODEL_INVALID, "model", "/bin/sh"),
        (
            {"provisioning": {"mode": "package", "package": {"name": "xllamacpp", "version": "0"}}},
            Cause.ENGINE_MISSING,
            "engine",
            "xllamacpp",
        ),
        ({"flags": ["--no-such-flag"]}, Cause.ENGINE_FLAGS, "health", "--no-such-flag"),
    ],
    ids=["missing-model", "no-gguf", "no-such-engine", "bad-flag"],
)
@pytest.mark.req("ORCH-3821")
async def test_what_is_wrong_is_told_at_its_gate_with_its_cause_and_mend(
    homes: Callable[..., Home], model: Path, *, how: dict[str, Any], cause: Cause, gate: str, words: str
) -> None:
    home = homes(model)
    home.document["pools"][0] |= how
    home.write()
    await home.start()
    async with home.follow() as follower:
        last = follower.history[-1]
        while last.last_error is None or getattr(last.gates, gate) is not GateState.FAILED:  # as in another attempt
            last = await follower.reached(PoolState.FAILED)
        assert last.last_error.cause is cause
        assert words in last.last_error.message
        assert last.last_error.hint


@pytest.mark.req("ORCH-3803")
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a driver")
async def test_without_a_gpu_a_home_pool_fails_and_nothing_computes_on_the_cpu(
    homes: Callable[..., Home], model: Path
) -> None:
    home = homes(model, profile="home", devices=[0], provisioning={"mode": "binary", "binary": {"path": "/bin/true"}})
    await home.start()
    async with home.follow() as follower:
        last = follower.history[-1]
        while last.last_error is None:
            last = await follower.reached(PoolState.FAILED)
        assert last.last_error.cause is Cause.NO_GPU
        assert "install the NVIDIA driver" in (last.last_error.hint or "")
        listed = await follower.peer.call("gpu.list")
        assert listed["result"] == {"gpus": []}
    assert not list((home.state / "logs").iterdir())


# --- the end of a manager ---------------------------------------------------------------------------------------------


@pytest.mark.req("EP-12", "EP-15", "EP-17")
async def test_term_stops_everything_and_leaves_nothing(home: Home) -> None:
    manager = await home.start()
    await home.ready()
    engine = home.engine()
    assert await manager.kill(signal.SIGTERM) == 0
    assert not alive(engine)
    assert [path for path in home.run.rglob("*") if not path.is_dir()] == []
    assert list((home.state / "handles").iterdir()) == []


async def test_subscribers_see_the_end_coming(home: Home) -> None:
    manager = await home.start()
    await home.ready()
    async with home.follow() as follower:
        os.kill(manager.pid, signal.SIGTERM)
        await follower.reached(PoolState.DRAINING)
        await follower.reached(PoolState.STOPPED)
        assert await follower.peer.reader.read() == b""
    assert await manager.ended() == 0


@pytest.mark.req("PM-07")
@pytest.mark.parametrize(
    "moment", ["-> staging_model", "-> ensuring_engine", "-> starting", "-> probing", "-> ready", "-> backoff"]
)
async def test_after_kill_9_at_any_step_the_next_start_gets_ready_with_one_engine(home: Home, moment: str) -> None:
    first = await home.launch()
    if moment == "-> backoff":
        await first.logged("-> ready")
        os.kill(home.engine(), signal.SIGKILL)
    await first.logged(moment)
    await first.kill(signal.SIGKILL)
    orphans = marked(home)
    second = await home.start()
    ready = await home.ready()
    assert ready.restarts == 0
    assert marked(home) == {home.engine()}
    if moment == "-> ready":
        assert orphans == {home.engine()}
    assert await second.kill(signal.SIGTERM) == 0
    assert marked(home) == set()


@pytest.mark.req("PM-07")
async def test_the_next_manager_takes_over_the_very_same_engine_with_its_key_and_its_log(home: Home) -> None:
    first = await home.start()
    before = await home.ready()
    pid = home.engine()
    await first.kill(signal.SIGKILL)
    assert before.endpoint is not None
    # Nobody but the engine knows its key, and it still serves; what it says meanwhile is not lost.
    await generate(before.endpoint)
    second = await home.start()
    after = await home.ready()
    assert (home.engine(), after.endpoint, after.restarts) == (pid, before.endpoint, 0)
    await second.logged("taking over the engine that runs on port")
    # It is looked after as if this manager had started it.
    async with home.follow() as follower:
        os.kill(pid, signal.SIGKILL)
        failed = await follower.reached(PoolState.FAILED)
        assert failed.last_error is not None
        assert "the engine has ended" in failed.last_error.message
        ready = await follower.reached(PoolState.READY)
    assert home.engine() != pid
    # Who follows the pools hears nothing else than before, and not before all is said.
    await second.kill(signal.SIGKILL)
    third = await home.start()
    async with home.follow() as follower:
        (now,) = follower.history
    assert (now.state, now.endpoint, now.restarts) == (PoolState.READY, ready.endpoint, 1)
    assert await third.kill(signal.SIGTERM) == 0
    assert marked(home) == set()


@pytest.mark.req("HP-21", "PM-07")
async def test_the_command_line_that_is_told_is_the_engines_own_and_the_same_after_every_start(home: Home) -> None:
    first = await home.start()
    told = (await home.ready()).argv
    pid = home.engine()
    ran = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
    port = ran[ran.index("--port") + 1]
    assert told[-len(ran) :] == tuple("{port}" if each == port else each for each in ran)
    await first.kill(signal.SIGKILL)
    await home.start()
    assert (await home.ready()).argv == told  # it was taken over
    async with home.follow() as follower:
        os.kill(pid, signal.SIGKILL)
        await follower.reached(PoolState.FAILED)
        again = await follower.reached(PoolState.READY)
    assert home.engine() != pid
    assert again.argv == told


@pytest.mark.req("PM-07")
@pytest.mark.parametrize("change", [{"ctx": 128}, {"env": {"GREETING": "hello"}}], ids=["context", "environment"])
async def test_an_engine_that_would_be_started_differently_now_is_ended_first(
    home: Home, change: dict[str, object]
) -> None:
    first = await home.start()
    await home.ready()
    pid = home.engine()
    await first.kill(signal.SIGKILL)
    home.document["pools"][0] |= change
    home.write()
    await home.start()
    await home.ready()
    assert not alive(pid)
    assert marked(home) == {home.engine()}


@pytest.mark.req("PM-07")
async def test_an_orphan_is_ended_even_when_its_handle_was_lost_and_a_stranger_is_not(home: Home) -> None:
    first = await home.start()
    await home.ready()
    orphan = home.engine()
    await first.kill(signal.SIGKILL)
    handle = home.state / "handles" / "trial.json"
    document = json.loads(handle.read_text())
    # The pid of somebody else, as after a reuse: this test.
    handle.write_text(json.dumps(document | {"pid": os.getpid()}))
    second = await home.start()
    await second.logged("a former manager left an engine running", str(orphan))
    await home.ready()
    assert not alive(orphan)


@pytest.mark.req("PM-07")
async def test_the_engine_of_a_pool_that_left_the_configuration_is_ended(home: Home) -> None:
    first = await home.start()
    await home.ready()
    orphan = home.engine()
    await first.kill(signal.SIGKILL)
    home.document["pools"][0]["id"] = "other"
    home.write()
    await home.start()
    await home.ready()
    await until(lambda: not alive(orphan), "the orphan's end")
    await until(lambda: not (home.run / "trial.pid").exists(), "the end of its files")


async def test_a_second_instance_is_refused_and_the_first_goes_on(home: Home) -> None:
    await home.start()
    await home.ready()
    engine = home.engine()
    second = await home.launch()
    assert await second.ended() == 1
    assert any("another pool-managerd already runs here" in line for line in second.lines)
    assert not any("Traceback" in line for line in second.lines)
    assert (await home.ready()).restarts == 0
    assert home.engine() == engine


async def test_a_wrong_configuration_is_told_with_its_line_and_status_78(home: Home) -> None:
    home.document["pools"][0]["engine"] = "lamacpp"
    home.write()
    manager = await home.launch()
    assert await manager.ended() == 78
    assert any("pools[0].engine" in line and "llamacpp" in line for line in manager.lines)
    assert not any("Traceback" in line for line in manager.lines)


async def test_hup_says_what_waits_for_a_restart_and_touches_no_engine(home: Home) -> None:
    manager = await home.start()
    await home.ready()
    engine = home.engine()
    home.document["pools"][0] |= {"ctx": 64, "slots": 2}
    home.write()
    os.kill(manager.pid, signal.SIGHUP)
    await manager.logged("these changes wait for a restart of pool-managerd: pool trial: ctx, slots")
    home.config.write_text("pools: [")
    os.kill(manager.pid, signal.SIGHUP)
    await manager.logged("the configuration stays as it was", "config.json:1")
    ready = await home.ready()
    assert (home.engine(), ready.restarts, ready.ctx_max) == (engine, 0, 256)


@pytest.mark.req("PM-01")
async def test_a_flag_that_the_engine_does_not_take_is_told_at_once_and_tried_once(
    home: Home, operator_sees: OperatorSees
) -> None:
    home.document["pools"][0]["flags"] = ["--override-kv", "a.b=int:1"]
    home.write()
    await home.start()
    async with home.follow() as follower:
        last = follower.history[-1]
        broken = last if last.state is PoolState.BROKEN else await follower.reached(PoolState.BROKEN)
    assert broken.last_error is not None
    assert (broken.last_error.cause, broken.restarts) == (Cause.ENGINE_FLAGS, 0)
    error = broken.last_error
    operator_sees("supervision/flags", f"trial: {error.cause}: {error.message}\nhint: {error.hint}")
