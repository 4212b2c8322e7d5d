"""Pools from their start to their end, with engines that have faults, in this process."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from msgspec.structs import replace

from contracts.config import Config, Engine, External, Mode, Pool, Profile, Provisioning, Restart, Server, Timeouts
from contracts.engines import Finding, HttpProbe, Plan, PreparedEngine, ResolvedModel
from contracts.pools import Cause, Endpoint, GateState, Gpu, PoolSnapshot, PoolState
from contracts.rpc import PROTOCOL
from daemon_core.entry import DaemonContext
from daemon_core.notify import Notifier
from daemon_core.paths import Paths
from daemon_core.redaction import Redactor
from pool_managerd import app, gpu_proof, process
from pool_managerd.devices import DeviceProcess, GpuEvent, Inventory
from pool_managerd.errors import StepError
from pool_managerd.gpu_proof import VRAM_BACK_S
from pool_managerd.host import Progress
from pool_managerd.life import DrainAsked, ReloadAsked, RestartAsked
from pool_managerd.probe import Health, Look, Prober, Timing
from pool_managerd.process import marked
from tests.integration.pool_managerd.scopes import a_service
from tests.integration.pool_managerd.support import Peer, alive
from tests.plugins.failures import OperatorSees
from tests.support.waiting import until

CHILD = Path(__file__).with_name("child.py")
QUICK = Timing(first_s=0.005, slowest_s=0.02, look_s=600, watch_s=0.02, misses=3)
TRIAL = Pool(
    id="gpu0",
    engine=Engine.LLAMACPP,
    model="m",
    ctx=512,
    devices=(0,),
    timeouts=Timeouts(start_ms=600_000, stop_ms=200),
    restart=Restart(initial_ms=20, max_ms=40, healthy_ms=60_000, max_failures=3),
)
CARD = Gpu(index=0, uuid="GPU-00000000", name="card", vram_total_bytes=24 << 30, vram_used_bytes=1 << 30, driver="550")
OTHER = replace(CARD, index=1, uuid="GPU-11111111")


class OneModel:
    """Every reference is a model, but for those that are called missing."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None]] = []

    async def ensure_present(self, ref: str, digest: str | None, progress: Progress, engine: Engine) -> ResolvedModel:
        self.asked.append((ref, digest))
        if ref == "missing":
            raise StepError(Cause.MODEL_MISSING, "there is no model", "make one")
        return ResolvedModel(id="m", ref=ref, local_path=f"/{ref}", size_bytes=1, digest="sha256:00", ctx_max=256)


class ChildEngines:
    """The engine is the child beside this file; what it does wrong can change from one start to the next."""

    def __init__(self, *args: str) -> None:
        self.args = args
        self.url: str | None = None

    def plan(self, pool: Pool) -> Plan:
        return Plan(pool_id=pool.id, steps=())

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        return ()

    async def ensure(self, pool: Pool, progress: Progress) -> PreparedEngine:
        ours = ("--model", "{model}", "--host", "{host}", "--port", "{port}")
        return PreparedEngine(
            engine=Engine.LLAMACPP,
            engine_version="child-1",
            provisioning_mode=pool.mode,
            bin_or_entry=None if self.url else sys.executable,
            url=self.url,
            args=(str(CHILD), *ours, *self.args),
            env={"PYTHONDONTWRITEBYTECODE": "1"},
            key_env="ENGINE_KEY",
            generation=HttpProbe(path="/generate", body="{}"),
        )


class FakeGpus:
    """GPUs as a test wants them; ``on`` says on which ones the engine of a pool is found."""

    def __init__(self, inventory: Inventory, *on: str) -> None:
        self.found = inventory
        self.on = on
        self.pids: Callable[[], list[int]] = list
        self.happened: tuple[GpuEvent, ...] = ()

    def inventory(self) -> Inventory:
        return self.found

    def processes(self) -> tuple[DeviceProcess, ...]:
        return tuple(DeviceProcess(uuid=uuid, pid=pid) for uuid in self.on for pid in self.pids() if alive(pid))

    def events(self) -> tuple[GpuEvent, ...]:
        happened, self.happened = self.happened, ()
        return happened


class World:
    """One daemon in this process."""

    def __init__(
        self, root: Path, pool: Pool, profile: Profile = Profile.TRIAL, *, service: Mapping[str, str] | None = None
    ) -> None:
        self.root = root
        self.models = OneModel()
        self.engines = ChildEngines()
        self.gpus = FakeGpus(Inventory(problem="no driver"))
        environ = {**os.environ, "HOME": str(root), "XDG_RUNTIME_DIR": str(root / "run"), "HF_TOKEN": "hf-secret"}
        environ |= service or {}
        config = Config(pools=(pool,), profile=profile)
        self.context = DaemonContext(
            config=config,
            config_path=root / "config.yaml",
            paths=Paths.resolve(config.paths, environ),
            redactor=Redactor(),
            notifier=Notifier({}),
            environ=environ,
            stopping=asyncio.Event(),
            returning=asyncio.Event(),
            reload=asyncio.Event(),
        )
        self.history: list[PoolSnapshot] = []
        self.hurry: Callable[[], object] = self.context.stopping.set

    @asynccontextmanager
    async def running(self) -> AsyncIterator[app.Parts]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as client:
            parts = app.assemble(
                self.context,
                models=self.models,
                engines=lambda _: self.engines,
                gpus=self.gpus,
                client=client,
                timing=QUICK,
            )
            parts.hub.subscribe(lambda _: self.history.append(parts.hub.pools().pools[0]))
            async with asyncio.TaskGroup() as group:
                # What a second signal does.
                self.hurry = group.create_task(app.run(self.context, parts)).cancel
                try:
                    yield parts
                finally:
                    self.context.stopping.set()

    async def reached(self, state: PoolState, since: int = 0) -> PoolSnapshot:
        """The first snapshot in this state, from the ``since``-th on."""
        await until(lambda: any(seen.state is state for seen in self.history[since:]), f"state {state}")
        return next(seen for seen in self.history[since:] if seen.state is state)

    async def serving(self, model_ref: str, since: int = 0) -> PoolSnapshot:
        """The first ready snapshot with this model, from the ``since``-th on."""
        await self.reached(PoolState.READY, since)

        def found() -> list[PoolSnapshot]:
            return [seen for seen in self.history[since:] if seen.ready and seen.model_ref == model_ref]

        await until(lambda: bool(found()), f"a ready pool with {model_ref}")
        return found()[0]

    def marker(self, instance: str) -> str:
        return str(self.context.paths.handles / f"{instance}.json")

    def pid(self, instance: str = "gpu0") -> int:
        return int((self.context.paths.runtime / f"{instance}.pid").read_text())

    def output(self) -> str:
        return (self.context.paths.logs / "gpu0.log").read_text()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, TRIAL)


def shown(pool: PoolSnapshot) -> str:
    """The error of a pool as `llama-orch pools` shows it."""
    error = pool.last_error
    assert error is not None
    hint = f"\n  hint: {error.hint}" if error.hint else ""
    return f"{pool.pool_id}: {error.cause}: {error.message}{hint}"


def states(history: list[PoolSnapshot]) -> list[str]:
    """The states in their order, without repetitions."""
    return [
        str(seen.state)
        for seen, before in zip(history, [None, *history], strict=False)
        if before is None or before.state is not seen.state
    ]


# --- up and down ------------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3821")
async def test_a_pool_gets_ready_through_its_gates_and_is_stopped_without_a_trace(world: World) -> None:
    async with world.running():
        ready = await world.reached(PoolState.READY)
        pid = world.pid()
        assert alive(pid)
    assert states(world.history) == [
        "staging_model",
        "ensuring_engine",
        "starting",
        "probing",
        "ready",
        "draining",
        "stopped",
    ]
    assert {ready.gates.model, ready.gates.engine, ready.gates.health} == {GateState.OK}
    assert (ready.ctx_max, ready.replica_id, ready.engine_version) == (256, "gpu0-0", "child-1")
    assert [seen.revision for seen in world.history] == sorted({seen.revision for seen in world.history})
    assert not alive(pid)
    left = [path.name for path in world.root.rglob("*") if path.is_file()]
    assert sorted(left) == ["gpu0.log", "pool-managerd.lock"]


@pytest.mark.req("EP-12", "EP-13", "EP-15")
async def test_a_ready_engine_is_handed_over_on_loopback_and_its_key_is_nowhere_on_disk(world: World) -> None:
    async with world.running():
        ready = await world.reached(PoolState.READY)
        assert ready.endpoint is not None
        key = ready.endpoint.api_key
        assert key is not None
        assert ready.endpoint.url.startswith("http://127.0.0.1:")
        paths = world.context.paths
        await until((paths.engines / "gpu0.json").exists, "the hand-off file")
        handoff = json.loads((paths.engines / "gpu0.json").read_text())
        assert handoff["url"] == ready.endpoint.url
        assert (handoff["pool_id"], handoff["replica_id"], handoff["model"]) == ("gpu0", "gpu0-0", "m")
        handle = json.loads((paths.handles / "gpu0.json").read_text())
        assert handle["pid"] == world.pid()
        await until(lambda: "my key is" in world.output(), "the child's first line")
        assert "my key is ***" in world.output()
        files = [path.read_bytes() for path in world.root.rglob("*") if path.is_file()]
        assert not any(key.encode() in content for content in files)
        assert key not in repr(ready)
        environ = Path(f"/proc/{world.pid()}/environ").read_bytes()
        assert f"ENGINE_KEY={key}".encode() in environ
        assert b"hf-secret" not in environ


@pytest.mark.trap(21, by="pool_managerd")
@pytest.mark.req("EP-17")
@pytest.mark.parametrize("fault", ["stubborn", "family"])
async def test_nothing_is_left_of_an_engine_that_ignores_term_or_has_children(world: World, fault: str) -> None:
    world.engines.args = ("--behave", fault)
    async with world.running():
        await world.reached(PoolState.READY)
        pids = [world.pid()]
        if fault == "family":
            await until(lambda: "children" in world.output(), "the children")
            line = next(line for line in world.output().splitlines() if line.startswith("children"))
            pids += map(int, line.split()[1:])
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)


@pytest.mark.req("EP-17")
async def test_who_does_not_wait_for_the_end_of_a_stubborn_engine_leaves_none_either(tmp_path: Path) -> None:
    world = World(tmp_path, replace(TRIAL, timeouts=Timeouts(stop_ms=600_000)))
    world.engines.args = ("--behave", "stubborn")
    async with world.running():
        await world.reached(PoolState.READY)
        pid = world.pid()
        world.context.stopping.set()
        await world.reached(PoolState.DRAINING)
        assert alive(pid)
        world.hurry()
    await until(lambda: not alive(pid), "the end of the engine")


@pytest.mark.req("OP-01", "PM-07")
async def test_before_a_restart_an_engine_in_a_scope_is_left_and_the_next_manager_has_it_at_once(
    tmp_path: Path,
) -> None:
    service = {**a_service(tmp_path / "bin"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    first = World(tmp_path, TRIAL, service=service)
    async with first.running():
        ready = await first.reached(PoolState.READY)
        pid = first.pid()
        await until((tmp_path / "run/llama-orch/engines/gpu0.json").exists, "the hand-off file")
        first.context.returning.set()
    assert alive(pid)
    assert states(first.history)[-1] == "ready"
    assert (tmp_path / "run/llama-orch/engines/gpu0.json").exists()
    second = World(tmp_path, TRIAL, service=service)
    async with second.running():
        again = await second.reached(PoolState.READY)
        assert (second.pid(), again.endpoint) == (pid, ready.endpoint)
    # All that it said is in its log now. It was asked by the first manager: a busy engine answers late.
    assert second.output().count("asked to generate") == 1
    assert not alive(pid)
    os.waitpid(pid, 0)


@pytest.mark.req("OP-01")
async def test_before_a_restart_an_engine_that_would_be_killed_is_ended_in_order(world: World) -> None:
    async with world.running():
        await world.reached(PoolState.READY)
        pid = world.pid()
        world.context.returning.set()
    assert not alive(pid)
    assert states(world.history)[-2:] == ["draining", "stopped"]


async def test_before_a_restart_what_is_being_prepared_is_broken_off(world: World) -> None:
    begun, broken_off = asyncio.Event(), asyncio.Event()

    async def ensure(_pool: Pool, _progress: Progress) -> PreparedEngine:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            broken_off.set()
        raise AssertionError

    world.engines.ensure = ensure  # type: ignore[assignment, method-assign]
    async with world.running():
        await begun.wait()
        world.context.returning.set()
    assert broken_off.is_set()


@pytest.mark.req("PM-07")
async def test_a_defect_of_the_manager_ends_no_engine_that_outlives_it(tmp_path: Path) -> None:
    service = {**a_service(tmp_path / "bin"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    world = World(tmp_path, TRIAL, service=service)
    async with world.running():
        await world.reached(PoolState.READY)
        pid = world.pid()
        world.hurry()  # without a word before
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def test_every_start_has_a_key_of_its_own(world: World) -> None:
    async with world.running() as parts:
        first = await world.reached(PoolState.READY)
        parts.supervisor.post("gpu0", RestartAsked())
        seen = len(world.history)
        await world.reached(PoolState.RELOADING, seen)
        second = await world.reached(PoolState.READY, seen)
        assert first.endpoint is not None
        assert second.endpoint is not None
        assert first.endpoint.api_key != second.endpoint.api_key
        assert second.restarts == 0


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.req("PM-01")
async def test_a_killed_engine_comes_back_and_the_restart_is_counted(world: World) -> None:
    async with world.running():
        await world.reached(PoolState.READY)
        pid, seen = world.pid(), len(world.history)
        os.kill(pid, signal.SIGKILL)
        failed = await world.reached(PoolState.FAILED, seen)
        assert failed.last_error is not None
        assert failed.last_error.cause is Cause.ENGINE_EXIT
        assert failed.last_error.message.startswith("the engine was ended by SIGKILL")
        backoff = await world.reached(PoolState.BACKOFF, seen)
        assert backoff.retry_at_ms is not None
        again = await world.reached(PoolState.READY, seen)
        assert (again.restarts, again.last_error) == (1, failed.last_error)
        assert world.pid() != pid


@pytest.mark.trap(21, by="pool_managerd")
@pytest.mark.req("PM-01", "EP-17")
async def test_children_of_an_engine_that_died_are_ended_before_the_next_one_starts(world: World) -> None:
    world.engines.args = ("--behave", "family")
    async with world.running():
        await world.reached(PoolState.READY)
        await until(lambda: "children" in world.output(), "the children")
        line = next(line for line in world.output().splitlines() if line.startswith("children"))
        children = [int(word) for word in line.split()[1:]]
        world.engines.args = ()
        seen = len(world.history)
        os.kill(world.pid(), signal.SIGKILL)
        await world.reached(PoolState.STAGING_MODEL, seen)
        assert not any(alive(pid) for pid in children)


@pytest.mark.trap(6, by="pool_managerd")
@pytest.mark.req("ORCH-3821", "PM-01")
async def test_an_engine_that_dies_at_start_says_why_and_opens_the_breaker(
    world: World, operator_sees: OperatorSees
) -> None:
    world.engines.args = ("--behave", "exit")
    async with world.running() as parts:
        broken = await world.reached(PoolState.BROKEN)
        assert broken.last_error is not None
        pid = broken.last_error.message.partition("I am ")[2].partition(",")[0]
        operator_sees("supervision/exits-at-start", shown(broken), pid=pid)
        assert broken.last_error.cause is Cause.ENGINE_EXIT
        assert "the engine exited with status 1 while it started, and nobody asked it to; its last lines:" in (
            broken.last_error.message
        )
        assert "error: cannot load the model" in broken.last_error.message
        assert broken.gates.health is GateState.FAILED
        assert broken.restarts == 2
        assert states(world.history).count("backoff") == 2
        world.engines.args = ()
        parts.supervisor.post("gpu0", RestartAsked())
        assert (await world.reached(PoolState.READY)).restarts == 2


@pytest.mark.req("ORCH-3821")
async def test_a_missing_model_is_told_at_the_first_gate(world: World) -> None:
    world = World(world.root, replace(TRIAL, model="missing"))
    async with world.running():
        failed = await world.reached(PoolState.FAILED)
        assert failed.gates.model is GateState.FAILED
        assert failed.last_error is not None
        assert (failed.last_error.cause, failed.last_error.hint) == (Cause.MODEL_MISSING, "make one")


async def test_an_engine_that_never_gets_healthy_runs_out_of_time(
    world: World, monkeypatch: pytest.MonkeyPatch, operator_sees: OperatorSees
) -> None:
    look, timeout_at = Prober.look, asyncio.timeout_at
    begun: list[asyncio.Timeout] = []

    def noted(when: float | None) -> asyncio.Timeout:
        begun.append(timeout_at(when))
        return begun[-1]

    async def over_when_it_loads(self: Prober, endpoint: Endpoint, probe: HttpProbe) -> Look:
        seen = await look(self, endpoint, probe)
        if seen.health is Health.LOADING:
            begun[-1].reschedule(asyncio.get_running_loop().time())
        return seen

    monkeypatch.setattr(asyncio, "timeout_at", noted)
    monkeypatch.setattr(Prober, "look", over_when_it_loads)
    world.engines.args = ("--behave", "loading")
    async with world.running():
        failed = await world.reached(PoolState.FAILED)
        assert failed.last_error is not None
        operator_sees("supervision/start-timeout", shown(failed))
        assert failed.last_error.cause is Cause.START_TIMEOUT


async def test_an_engine_that_answers_and_cannot_generate_is_not_ready(world: World) -> None:
    world.engines.args = ("--behave", "dumb")
    async with world.running():
        failed = await world.reached(PoolState.FAILED)
        assert failed.last_error is not None
        assert failed.last_error.cause is Cause.ENGINE_UNHEALTHY
        assert 'status 500: {"error": "out of memory"}' in failed.last_error.message
        assert PoolState.READY not in {seen.state for seen in world.history}


@pytest.mark.req("PM-01")
async def test_an_engine_that_falls_ill_is_restarted(world: World, tmp_path: Path, operator_sees: OperatorSees) -> None:
    sick = tmp_path / "sick"
    world.engines.args = ("--sick", str(sick))
    async with world.running():
        await world.reached(PoolState.READY)
        seen = len(world.history)
        sick.touch()
        failed = await world.reached(PoolState.FAILED, seen)
        assert failed.last_error is not None
        operator_sees("supervision/stops-answering", shown(failed))
        assert failed.last_error.cause is Cause.ENGINE_UNHEALTHY
        sick.unlink()
        assert (await world.reached(PoolState.READY, seen)).restarts >= 1


async def test_a_program_that_is_gone_is_a_missing_engine(
    world: World, monkeypatch: pytest.MonkeyPatch, operator_sees: OperatorSees
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    async with world.running():
        failed = await world.reached(PoolState.FAILED)
        assert failed.last_error is not None
        operator_sees("supervision/program-gone", shown(failed))
        assert failed.last_error.cause is Cause.ENGINE_MISSING
        assert failed.last_error.message == "cannot start /no/such/python: No such file or directory"


@pytest.mark.trap(11, by="pool_managerd")
@pytest.mark.req("EP-15")
async def test_a_port_that_was_stolen_is_replaced_without_counting_a_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    thief = socket.create_server(("127.0.0.1", 0))
    real = process.free_port
    ports = [thief.getsockname()[1], thief.getsockname()[1]]
    monkeypatch.setattr(process, "free_port", lambda: ports.pop() if ports else real())
    async with world.running():
        ready = await world.reached(PoolState.READY)
        assert ready.endpoint is not None
        assert str(thief.getsockname()[1]) not in ready.endpoint.url
        assert (ready.restarts, ready.last_error) == (0, None)
        assert states(world.history).count("starting") == 3
    thief.close()


# --- drains and reloads -----------------------------------------------------------------------------------------------


async def test_a_drained_pool_serves_until_its_deadline_and_stays_stopped(world: World) -> None:
    async with world.running() as parts:
        await world.reached(PoolState.READY)
        pid = world.pid()
        parts.supervisor.post("gpu0", DrainAsked(deadline_ms=60_000))
        draining = await world.reached(PoolState.DRAINING)
        assert draining.endpoint is not None
        assert alive(pid)
        parts.supervisor.post("gpu0", DrainAsked(deadline_ms=0))
        await world.reached(PoolState.STOPPED)
        assert not alive(pid)
        parts.supervisor.post("gpu0", RestartAsked())
        await world.reached(PoolState.READY, len(world.history))


class Extends(Notifier):
    """Remembers for how long a stop may go on, and how often the daemon was ready: at its start, after a reload."""

    def __init__(self) -> None:
        super().__init__({})
        self.seconds: list[float] = []
        self.times_ready = 0

    def ready(self, status: str = "") -> None:
        super().ready(status)
        self.times_ready += 1

    def extend(self, seconds: float) -> None:
        self.seconds.append(seconds)


@asynccontextmanager
async def followed(world: World, name: str) -> AsyncIterator[Peer]:
    """Somebody follows the pools under this name."""
    peer = Peer(*await asyncio.open_unix_connection(world.context.paths.socket, limit=1 << 20))
    try:
        await peer.call("hello", protocol=PROTOCOL, name=name, version="1")
        await peer.call("subscribe")
        yield peer
    finally:
        peer.writer.close()


async def stopped(world: World, name: str, drain_ms: int) -> float:
    """How long a stop may take while this one follows the pools, and the file says so since a reload."""
    extends = Extends()
    world.context = dataclasses.replace(world.context, notifier=extends)
    changed = replace(world.context.config, server=Server(drain_ms=drain_ms))
    world.context.config_path.write_bytes(msgspec.json.encode(changed))
    async with world.running():
        await world.reached(PoolState.READY)
        async with followed(world, name) as peer:
            world.context.reload.set()
            await until(lambda: extends.times_ready == 2, "the end of the reload")
            world.context.stopping.set()
            await world.reached(PoolState.DRAINING)
            await peer.call("pool.idle", pool_id="gpu0")
            await world.reached(PoolState.STOPPED)
    [seconds] = extends.seconds
    return seconds


@pytest.mark.req("PM-04")
@pytest.mark.parametrize(
    ("name", "drains"), [("orchestratord", True), ("llama-orch", False)], ids=["who-says-when-it-is-over", "another"]
)
async def test_a_stop_lets_work_end_within_the_drain_of_the_file_where_somebody_says_when_it_has(
    world: World, name: str, *, drains: bool
) -> None:
    assert (await stopped(world, name, 600_000) > 600) is drains


async def test_the_unit_gives_a_stop_the_time_that_it_takes_as_the_product_is_configured(world: World) -> None:
    unit = (Path(__file__).parents[3] / "systemd/pool-managerd.service").read_text()
    [given] = [line for line in unit.splitlines() if line.startswith("TimeoutStopSec=")]
    slower_s = (Timeouts().stop_ms - TRIAL.timeouts.stop_ms) / 1000 + VRAM_BACK_S
    assert await stopped(world, "orchestratord", Server().drain_ms) + slower_s <= int(given.partition("=")[2])


@pytest.mark.req("PM-04")
async def test_a_reload_switches_without_a_moment_in_which_nobody_serves(world: World) -> None:
    async with world.running() as parts:
        ready = await world.reached(PoolState.READY)
        old, seen = world.pid(), len(world.history)
        parts.supervisor.post("gpu0", ReloadAsked(model_ref="other", deadline_ms=0))
        new = await world.serving("other")
        assert {one.state for one in world.history[seen:]} == {PoolState.READY}
        assert "other" in {one.next_model_ref for one in world.history[seen:]}
        assert new.endpoint != ready.endpoint
        assert "/other" in Path(f"/proc/{world.pid('gpu0.green')}/cmdline").read_text()
        await until(lambda: not alive(old), "the end of the old engine")
        handoff = json.loads((world.context.paths.engines / "gpu0.json").read_text())
        assert new.endpoint is not None
        assert (handoff["model"], handoff["url"]) == ("other", new.endpoint.url)
        # And back: the place of the first engine is free again.
        parts.supervisor.post("gpu0", ReloadAsked(model_ref="m", deadline_ms=0))
        await world.serving("m", len(world.history))
        assert alive(world.pid())


@pytest.mark.req("PM-04")
async def test_the_old_engine_lives_on_for_its_work_until_the_deadline(world: World) -> None:
    async with world.running() as parts:
        await world.reached(PoolState.READY)
        old = world.pid()
        parts.supervisor.post("gpu0", ReloadAsked(model_ref="other", deadline_ms=600_000))
        await world.serving("other")
        assert alive(old)
    assert not alive(old)


@pytest.mark.req("PM-04")
async def test_a_reload_that_fails_leaves_the_old_model_serving(tmp_path: Path, operator_sees: OperatorSees) -> None:
    world = World(tmp_path, replace(TRIAL, model_sha256="0" * 64))
    async with world.running() as parts:
        ready = await world.reached(PoolState.READY)
        seen = len(world.history)
        parts.supervisor.post("gpu0", ReloadAsked(model_ref="missing", deadline_ms=0))
        await until(lambda: world.history[-1].last_error is not None, "the reload's failure")
        after = world.history[-1]
        assert after.last_error is not None
        operator_sees("supervision/reload-fails", shown(after))
        assert after.last_error.cause is Cause.MODEL_MISSING
        assert after.last_error.message == "the reload to missing failed, and m serves on: there is no model"
        assert (after.state, after.model_ref, after.endpoint) == (PoolState.READY, "m", ready.endpoint)
        assert {one.state for one in world.history[seen:]} == {PoolState.READY}
        # The digest of the configuration is the configured model's, and no other one's.
        assert world.models.asked == [("m", "0" * 64), ("missing", None)]


@pytest.mark.req("PM-04")
@pytest.mark.parametrize("fault", ["exit", "dumb"])
async def test_a_successor_that_does_not_work_is_ended_and_the_old_engine_serves_on(world: World, fault: str) -> None:
    async with world.running() as parts:
        ready = await world.reached(PoolState.READY)
        world.engines.args = ("--behave", fault)
        parts.supervisor.post("gpu0", ReloadAsked(model_ref="other", deadline_ms=0))
        await until(lambda: world.history[-1].last_error is not None, "the reload's failure")
        after = world.history[-1]
        assert (after.state, after.model_ref, after.endpoint) == (PoolState.READY, "m", ready.endpoint)
        await until(lambda: not marked(world.marker("gpu0.green")), "the end of the successor")
        assert alive(world.pid())
        # What it does not own is not touched: the serving engine is watched as before.
        os.kill(world.pid(), signal.SIGKILL)
        await world.reached(PoolState.FAILED, len(world.history) - 1)


@pytest.mark.req("PM-04")
async def test_a_reload_that_replaces_another_waits_until_its_place_is_free(world: World) -> None:
    async with world.running() as parts:
        await world.reached(PoolState.READY)
        world.engines.args = ("--behave", "loading")
        parts.supervisor.post("gpu0", ReloadAsked(model_ref="other", deadline_ms=0))
        await until(lambda: bool(marked(world.marker("gpu0.green"))), "the first successor")
        world.engines.args = ()
        parts.supervisor.post("gpu0", ReloadAsked(model_ref="third", deadline_ms=0))
        await world.serving("third")
        assert len(marked(world.marker("gpu0.green"))) == 1
        parts.supervisor.post("gpu0", ReloadAsked(model_ref="m", deadline_ms=0))
        await world.serving("m", len(world.history))
        assert alive(world.pid())


@pytest.mark.req("EP-13", "ORCH-3811")
async def test_what_an_error_quotes_is_redacted_before_anybody_sees_it(world: World) -> None:
    world.context.redactor.register("s3cr3t-of-an-operator")
    world.engines.args = ("--behave", "exit", "--note", "s3cr3t-of-an-operator")
    async with world.running():
        failed = await world.reached(PoolState.FAILED)
        assert failed.last_error is not None
        assert "s3cr3t" not in failed.last_error.message
        assert "error: cannot load the model ***" in failed.last_error.message


async def test_who_leaves_while_a_successor_is_prepared_leaves_no_engine(world: World) -> None:
    async with world.running() as parts:
        await world.reached(PoolState.READY)
        world.engines.args = ("--behave", "loading")
        parts.supervisor.post("gpu0", ReloadAsked(model_ref="other", deadline_ms=0))
        await until(lambda: bool(marked(world.marker("gpu0.green"))), "the successor")
    assert not marked(world.marker("gpu0.green"))
    assert not marked(world.marker("gpu0"))


# --- GPUs -------------------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3803")
async def test_a_home_pool_without_gpu_fails_before_anything_is_staged(
    tmp_path: Path, operator_sees: OperatorSees
) -> None:
    world = World(tmp_path, TRIAL, Profile.HOME)
    async with world.running():
        failed = await world.reached(PoolState.FAILED)
        assert failed.last_error is not None
        operator_sees("gpu/no-driver-for-a-running-pool", shown(failed))
        assert failed.last_error.cause is Cause.NO_GPU
        assert failed.last_error.message == "no NVIDIA GPU can be used: no driver"
        assert "profile: trial" in (failed.last_error.hint or "")
        assert world.models.asked == []
        assert not (world.context.paths.logs / "gpu0.log").exists()


@pytest.mark.req("ORCH-3820")
async def test_a_home_pool_is_ready_when_its_engine_is_on_its_own_gpu(tmp_path: Path) -> None:
    world = World(tmp_path, TRIAL, Profile.HOME)
    world.gpus = FakeGpus(Inventory(gpus=(CARD, OTHER)), CARD.uuid)
    world.gpus.pids = lambda: [world.pid()]
    async with world.running():
        ready = await world.reached(PoolState.READY)
        assert ready.devices == (CARD.uuid,)
        assert [use.device for use in ready.device_use] == [CARD.uuid]
        environ = Path(f"/proc/{world.pid()}/environ").read_bytes().split(b"\0")
        assert b"CUDA_VISIBLE_DEVICES=GPU-00000000" in environ


@pytest.mark.req("ORCH-3820", "ORCH-3803")
@pytest.mark.parametrize(
    ("on", "cause", "words"),
    [
        ((), Cause.ON_CPU, "not from a GPU"),
        ((OTHER.uuid,), Cause.WRONG_DEVICE, "GPU-11111111, which is not in this pool's devices"),
    ],
    ids=["cpu", "other"],
)
async def test_an_engine_on_the_wrong_device_is_stopped(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operator_sees: OperatorSees,
    *,
    on: tuple[str, ...],
    cause: Cause,
    words: str,
) -> None:
    monkeypatch.setattr(gpu_proof, "_ON_GPU_WAIT_S", 0.1)
    world = World(tmp_path, TRIAL, Profile.HOME)
    world.gpus = FakeGpus(Inventory(gpus=(CARD, OTHER)), *on)
    world.gpus.pids = lambda: [world.pid()]
    async with world.running():
        failed = await world.reached(PoolState.FAILED)
        assert failed.last_error is not None
        assert failed.last_error.cause is cause
        assert words in failed.last_error.message
        operator_sees(f"gpu/running-engine-{str(cause).replace('_', '-')}", shown(failed))
        await world.reached(PoolState.BACKOFF)
        assert PoolState.READY not in {seen.state for seen in world.history}


@asynccontextmanager
async def elsewhere(tmp_path: Path) -> AsyncIterator[tuple[World, asyncio.Server, str]]:
    """A pool whose engine somebody else runs, and that engine."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        except asyncio.IncompleteReadError:
            pass  # a look that was given up before it had asked
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    provisioning = Provisioning(mode=Mode.EXTERNAL, external=External(url=url, api_key_env="UPSTREAM_KEY"))
    world = World(tmp_path, replace(TRIAL, engine=Engine.OPENAI, provisioning=provisioning), Profile.HOME)
    os.environ.pop("UPSTREAM_KEY", None)
    world.engines.url = url
    yield world, server, url
    server.close()


async def test_an_external_engine_is_watched_and_never_started(tmp_path: Path) -> None:
    async with elsewhere(tmp_path) as (world, server, url), world.running():
        ready = await world.reached(PoolState.READY)
        assert ready.endpoint is not None
        assert (ready.endpoint.url, ready.model_digest, ready.ctx_max) == (url, None, 512)
        seen = len(world.history)
        server.close()
        await world.reached(PoolState.FAILED, seen)
    assert world.models.asked == []


@pytest.mark.req("PM-04")
async def test_a_reload_waits_for_no_end_of_an_external_engine(tmp_path: Path) -> None:
    """Nothing of ours ends after the first one, however much patience it had."""
    async with elsewhere(tmp_path) as (world, _, _), world.running() as parts:
        await world.reached(PoolState.READY)
        parts.supervisor.post("gpu0", ReloadAsked(model_ref="other", deadline_ms=600_000))
        await world.serving("other")
        parts.supervisor.post("gpu0", ReloadAsked(model_ref="m", deadline_ms=600_000))
        await world.serving("m", len(world.history))
