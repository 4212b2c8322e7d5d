"""The daemon in profile home: its own NVML code on a stand-in for the driver's library, and engines that are real.

The engine computes on the CPU, for there is no GPU here; what the product sees of it is what NVML says.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.pools import Cause, PoolSnapshot, PoolState
from daemon_core.errors import EXIT_CONFIG
from pool_managerd.attempt import STEPS
from tests.integration.pool_managerd.home import Home, marked
from tests.integration.pool_managerd.support import alive
from tests.support import gpu_llama_server
from tests.support.nvml import DRIVER, GIB, FakeGpus
from tests.support.waiting import until

pytest_plugins = ["tests.support.nvml.fixtures"]
pytestmark = [pytest.mark.needs("gcc"), pytest.mark.timeout(120), pytest.mark.slow]

MIB = 1 << 20
FALLEN_OFF_THE_BUS = 79
UNTIL_MENDED = {"initial_ms": 20, "max_ms": 50, "max_failures": 10_000}
"""However often it fails before a test has mended what is wrong."""


@pytest.fixture
def home(homes: Callable[..., Home], model: Path, gpus: FakeGpus, tmp_path: Path) -> Home:
    server = gpu_llama_server.write(tmp_path / "bin" / "llama-server")
    binary = {"mode": "binary", "binary": {"path": str(server)}}
    return homes(model, profile="home", env=gpus.env, devices=[0], provisioning=binary)


def change(home: Home, **fields: Any) -> None:  # noqa: ANN401 - the fields of a pool
    home.document["pools"][0] |= fields
    home.write()


async def failed(home: Home) -> PoolSnapshot:
    async with home.follow() as follower:
        last = follower.history[-1]
        return last if last.last_error is not None else await follower.reached(PoolState.FAILED)


# --- proof ------------------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3820", "PM-02", "PM-06")
async def test_an_engine_on_its_gpu_gets_ready_and_what_it_holds_is_remembered(home: Home, gpus: FakeGpus) -> None:
    gpus.engines_hold(700 * MIB)
    manager = await home.start()
    ready = await home.ready()
    assert ready.devices == (gpus.uuids[0],)
    assert (ready.driver_version, f"CUDA_VISIBLE_DEVICES={gpus.uuids[0]}" in ready.argv) == (DRIVER, True)
    environ = Path(f"/proc/{home.engine()}/environ").read_bytes().split(b"\0")
    assert f"CUDA_VISIBLE_DEVICES={gpus.uuids[0]}".encode() in environ
    await manager.logged("on its GPUs, with 0.68 GiB of VRAM; estimated: 0.")
    kept = json.loads((home.state / "vram.json").read_text())
    assert [entry["bytes"] for entry in kept["entries"].values()] == [700 * MIB]


@pytest.mark.req("ORCH-3803", "ORCH-3821")
async def test_an_engine_that_computes_on_the_cpu_is_refused(home: Home) -> None:
    await home.start()
    refused = await failed(home)
    assert refused.last_error is not None
    assert refused.last_error.cause is Cause.ON_CPU
    assert "the engine answers, but not from a GPU" in refused.last_error.message
    assert not refused.ready


@pytest.mark.req("ORCH-3803")
async def test_an_engine_that_holds_too_little_of_its_model_is_refused(home: Home, gpus: FakeGpus, model: Path) -> None:
    gpus.engines_hold(model.stat().st_size // 2)
    await home.start()
    refused = await failed(home)
    assert refused.last_error is not None
    assert refused.last_error.cause is Cause.ON_CPU
    assert "layers are on the CPU" in refused.last_error.message


@pytest.mark.req("ORCH-3820")
async def test_an_engine_on_another_card_is_refused(home: Home, gpus: FakeGpus) -> None:
    gpus.process_env(1, "CUDA_VISIBLE_DEVICES", gpus.uuids[0], GIB)
    await home.start()
    refused = await failed(home)
    assert refused.last_error is not None
    assert refused.last_error.cause is Cause.WRONG_DEVICE
    assert gpus.uuids[1] in refused.last_error.message


@pytest.mark.req("ORCH-3820")
async def test_one_gpu_under_two_names_belongs_to_one_pool(home: Home, gpus: FakeGpus) -> None:
    pool = home.document["pools"][0]
    home.document["pools"].append(pool | {"id": "second", "devices": [gpus.uuids[0]]})
    home.write()
    manager = await home.launch()
    assert await manager.ended() == EXIT_CONFIG
    assert "pools trial and second both want GPU 0" in "\n".join(manager.lines)


@pytest.mark.req("ORCH-3820", "OP-01")
async def test_a_reload_refuses_what_the_start_refuses(home: Home, gpus: FakeGpus) -> None:
    manager = await home.start()
    pool = home.document["pools"][0]
    home.document["pools"].append(pool | {"id": "second", "devices": [gpus.uuids[0]]})
    home.write()
    os.kill(manager.pid, signal.SIGHUP)
    await manager.logged("the configuration stays as it was: pools trial and second both want GPU 0")
    home.document["pools"][1]["devices"] = [gpus.uuids[1]]
    home.write()
    os.kill(manager.pid, signal.SIGHUP)
    await manager.logged("these changes wait for a restart of pool-managerd: pool second is new")


# --- room -------------------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-02")
async def test_a_start_without_room_is_refused_with_the_numbers(home: Home, gpus: FakeGpus) -> None:
    change(home, restart=UNTIL_MENDED)
    gpus.change(0, used=24 * GIB - 100 * MIB)
    await home.start()
    refused = await failed(home)
    assert refused.last_error is not None
    assert refused.last_error.cause is Cause.VRAM_SHORT
    assert "GPU 0 (NVIDIA GeForce RTX 3090) has 0.10 GiB of 24.00 GiB free" in refused.last_error.message
    assert not (home.state / "logs" / "trial.log").exists()
    gpus.change(0, used=0)
    gpus.engines_hold(GIB)
    await home.ready()


@pytest.mark.req("PM-02")
async def test_what_was_measured_decides_the_next_start(home: Home, gpus: FakeGpus) -> None:
    gpus.engines_hold(5 * GIB)
    first = await home.start()
    await home.ready()
    assert await first.kill(signal.SIGTERM) == 0
    gpus.change(0, used=20 * GIB)
    await home.start()
    refused = await failed(home)
    assert refused.last_error is not None
    assert refused.last_error.cause is Cause.VRAM_SHORT
    assert "as an earlier start of the same was seen to hold 5.00 GiB" in refused.last_error.message


@pytest.mark.req("PM-04")
@pytest.mark.parametrize("room", [True, False], ids=["room for two", "no room"])
async def test_a_reload_runs_beside_the_old_engine_where_vram_allows(
    home: Home, gpus: FakeGpus, model: Path, room: bool
) -> None:
    gpus.engines_hold(GIB)
    if not room:
        gpus.change(0, used=int(22.7 * GIB))
    await home.start()
    await home.ready()
    old = home.engine()
    other = model.with_name("other.gguf")
    other.write_bytes(model.read_bytes())
    async with home.follow() as follower:
        await follower.peer.call("pool.reload", pool_id="trial", new_model_ref=str(other), deadline_ms=0)
        while (await follower.reached(PoolState.READY)).model_ref != str(other):
            pass
        states = {seen.state for seen in follower.history}
    assert states == ({PoolState.READY} if room else states | {PoolState.RELOADING})
    await until(lambda: not alive(old), "the end of the old engine")


@pytest.mark.req("PM-02")
async def test_no_engine_starts_before_the_last_ones_vram_is_back(home: Home, gpus: FakeGpus) -> None:
    gpus.engines_hold(GIB)
    manager = await home.start()
    await home.ready()
    gone = home.engine()
    gpus.process(0, gone, GIB)  # the driver takes its time
    async with home.follow() as follower:
        os.kill(gone, signal.SIGKILL)
        await follower.reached(PoolState.FAILED)
        await until(lambda: not alive(gone), "the end of the engine")
        for _ in range(20):  # longer than the pause before another start, and far from VRAM_BACK_S
            await follower.peer.call("gpu.list")
            assert (await follower.peer.call("pool.health", pool_id="trial"))["result"]["state"] == "failed"
        gpus.no_processes()
        gpus.engines_hold(GIB)
        await follower.reached(PoolState.READY)
    spawned = [number for number, line in enumerate(manager.lines) if "-> starting" in line]
    assert len(spawned) == 2
    assert not any("NVML still shows ended processes" in line for line in manager.lines)


# --- GPUs that fail ---------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-03", "PM-06")
@pytest.mark.parametrize("how", ["lost", "xid"])
async def test_a_pool_is_quarantined_with_its_gpu_and_comes_back_with_it(home: Home, gpus: FakeGpus, how: str) -> None:
    gpus.engines_hold(GIB)
    await home.start()
    await home.ready()
    engine = home.engine()
    async with home.follow() as follower:
        if how == "lost":
            gpus.lose(0)
        else:
            gpus.xid(0, 48)
        quarantined = await follower.reached(PoolState.QUARANTINED)
        assert quarantined.last_error is not None
        assert quarantined.last_error.cause is (Cause.GPU_LOST if how == "lost" else Cause.GPU_ERROR)
        await until(lambda: not alive(engine), "the end of the engine")
        if how == "xid":
            # It goes on answering, which proves nothing: somebody must say that it was mended.
            for _ in range(50):
                await follower.peer.call("gpu.list")
                assert (await follower.peer.call("pool.health", pool_id="trial"))["result"]["state"] == "quarantined"
            await follower.peer.call("pool.restart", pool_id="trial")
        gpus.restore(0)
        again = await follower.reached(PoolState.READY)
    assert again.restarts == (1 if how == "lost" else 0)
    assert home.engine() != engine


@pytest.mark.req("PM-03")
async def test_another_pools_gpu_is_nobody_elses_trouble(home: Home, gpus: FakeGpus) -> None:
    gpus.engines_hold(GIB)
    manager = await home.start()
    await home.ready()
    engine = home.engine()
    gpus.xid(1, FALLEN_OFF_THE_BUS)
    await manager.logged(gpus.uuids[1])
    assert (await home.ready()).ready
    assert home.engine() == engine


@pytest.mark.req("ORCH-3803", "PM-06")
async def test_a_driver_that_is_not_loaded_is_told_and_the_pool_starts_when_it_is(home: Home, gpus: FakeGpus) -> None:
    change(home, restart=UNTIL_MENDED)
    gpus.break_driver()
    gpus.engines_hold(GIB)
    await home.start()
    refused = await failed(home)
    assert refused.last_error is not None
    assert refused.last_error.cause in {Cause.NO_GPU, Cause.DRIVER}
    gpus.mend_driver()
    await home.ready()


@pytest.mark.req("PM-03")
@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("alloc_buffer: allocating 4437.80 MiB on device 0: cudaMalloc failed: out of memory", Cause.VRAM_OOM),
        ("CUDA error: no kernel image is available for execution on the device", Cause.DRIVER),
        ("error: cannot find the vocabulary", Cause.ENGINE_EXIT),
    ],
    ids=["vram", "driver", "its own"],
)
async def test_what_an_engine_died_of_is_told_apart(home: Home, gpus: FakeGpus, said: str, cause: Cause) -> None:
    gpus.engines_hold(GIB)
    change(home, flags=["--say", said])
    await home.start()
    died = await failed(home)
    assert died.last_error is not None
    assert died.last_error.cause is cause


@pytest.mark.req("PM-03")
async def test_an_engine_that_is_killed_from_outside_is_no_gpus_fault(home: Home, gpus: FakeGpus) -> None:
    gpus.engines_hold(GIB)
    await home.start()
    await home.ready()
    async with home.follow() as follower:
        os.kill(home.engine(), signal.SIGKILL)
        died = await follower.reached(PoolState.FAILED)
    assert died.last_error is not None
    assert died.last_error.cause is Cause.ENGINE_EXIT


# --- kill -9 ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-07", "EP-12")
@pytest.mark.parametrize("step", STEPS)
async def test_after_kill_9_in_any_step_the_next_manager_gets_ready_with_one_engine(
    home: Home, gpus: FakeGpus, step: str
) -> None:
    gpus.engines_hold(GIB)
    home.document["logging"] = {"level": "debug"}
    home.write()
    first = await home.launch()
    await first.logged(f"trial: step {step}")
    await first.kill(signal.SIGKILL)
    second = await home.start()
    ready = await home.ready()
    assert ready.restarts == 0
    await until(lambda: marked(home) == {home.engine()}, "the end of every other engine")
    assert await second.kill(signal.SIGTERM) == 0
    assert marked(home) == set()
    assert list((home.state / "handles").iterdir()) == []
    assert list((home.run / "engines").iterdir()) == []


@pytest.mark.req("PM-07", "PM-04")
async def test_after_kill_9_while_a_successor_is_proved_the_engine_that_served_is_taken_over(
    home: Home, gpus: FakeGpus, model: Path, tmp_path: Path
) -> None:
    gpus.engines_hold(GIB)
    real, server = gpu_llama_server.write(tmp_path / "real" / "llama-server"), tmp_path / "bin" / "llama-server"
    # A successor that never answers: its proof is not over before the manager is.
    server.write_text(f'#!/bin/sh\ncase "$*" in *other.gguf*) exec tail -f /dev/null ;; esac\nexec {real} "$@"\n')
    first = await home.start()
    await home.ready()
    pid = home.engine()
    other = model.with_name("other.gguf")
    other.write_bytes(model.read_bytes())
    async with home.follow() as follower:
        await follower.peer.call("pool.reload", pool_id="trial", new_model_ref=str(other), deadline_ms=0)
        await until((home.state / "handles" / "trial.green.json").exists, "the successor's handle")
    await first.kill(signal.SIGKILL)
    second = await home.start()
    ready = await home.ready()
    assert (ready.model_ref, home.engine()) == (str(model), pid)
    await until(lambda: marked(home) == {pid}, "the successor's end")
    assert await second.kill(signal.SIGTERM) == 0
