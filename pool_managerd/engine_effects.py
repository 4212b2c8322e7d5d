"""Does to the world what a pool's owner decided: the real ``Effects``.

The steps of a start, in their order, each idempotent: check_devices, stage_model, ensure_engine, spawn, await_health,
prove_generation, prove_devices, hand_over. Decides nothing about what follows a failure; turns every expected one into
a StepError with its cause and mend.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from contracts.config import Mode, Pool, Profile
from contracts.engines import Finding, Handoff, Plan, PreparedEngine, ResolvedModel
from contracts.pools import Cause, DeviceUse, Endpoint, Gpu
from pool_managerd import devices, proc, process
from pool_managerd.engine_log import EngineLog, Redacts
from pool_managerd.errors import StepError, StillRunningError
from pool_managerd.gpu import Gpus
from pool_managerd.handles import HandleFiles
from pool_managerd.hub import Hub
from pool_managerd.life import EngineExited, Life
from pool_managerd.probe import Prober
from pool_managerd.process import EngineProcess, SpawnSpec
from pool_managerd.reconcile import Handle, ProcessSeen
from pool_managerd.snapshot import replica_id, snapshot

_log = logging.getLogger(__name__)

Progress = Callable[[str], None]

_ON_GPU_WAIT_S = 3.0
"""How long after a generation NVML may take to list the engine's process."""
_ON_GPU_LOOK_S = 0.2


class Models(Protocol):
    """Brings models to this disk."""

    async def ensure_present(self, ref: str, digest: str | None, progress: Progress) -> ResolvedModel:
        """The model behind a reference. Raises StepError."""


class Engines(Protocol):
    """Makes one pool's engine startable."""

    def plan(self, pool: Pool) -> Plan:
        """What ``ensure`` would do. Raises StepError."""

    async def preflight(self, pool: Pool) -> tuple[Finding, ...]:
        """What would stop ``ensure``. Raises StepError."""

    async def ensure(self, pool: Pool, progress: Progress) -> PreparedEngine:
        """Do it. Raises StepError."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """What the pools of one daemon share."""

    profile: Profile
    models: Models
    prober: Prober
    gpus: Gpus
    files: HandleFiles
    hub: Hub
    redactor: Redacts
    environ: Mapping[str, str]
    boot_id: str
    wall_offset_ms: int
    """Unix milliseconds minus the loop's: what turns one into the other for people."""


class EngineEffects:
    """The effects of one pool."""

    def __init__(self, *, pool: Pool, engines: Engines, log: EngineLog, host: Host) -> None:
        self._pool = pool
        self._engines = engines
        self._log = log
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._model_ref = pool.model
        self._gpus: tuple[Gpu, ...] = ()
        self._use: tuple[DeviceUse, ...] = ()
        self._process: EngineProcess | None = None
        self._engine: PreparedEngine | None = None
        self._endpoint: Endpoint | None = None
        self._port = 0
        self._deadline = 0.0
        self._argv: tuple[str, ...] = ()
        self._proved = False

    # --- clock and chance ---------------------------------------------------------------------------------------------

    def now(self) -> int:
        """The loop's clock in milliseconds."""
        return round(self._loop.time() * 1000)

    def draw(self) -> float:
        """A random number in [0, 1)."""
        return random.random()  # noqa: S311 - spreads restarts, protects nothing

    async def sleep_until(self, due: int) -> None:
        """Wait for a moment of the loop's clock."""
        await asyncio.sleep(max(0, due - self.now()) / 1000)

    # --- the steps of a start -----------------------------------------------------------------------------------------

    async def stage_model(self, model_ref: str) -> ResolvedModel | None:
        """Steps check_devices and stage_model."""
        if self._on_gpu:
            self._gpus = await self._check_devices()
        self._model_ref = model_ref
        if self._pool.mode is Mode.EXTERNAL:
            return None
        digest = self._pool.model_sha256 if model_ref == self._pool.model else None
        return await self._host.models.ensure_present(model_ref, digest, self._progress)

    async def ensure_engine(self) -> PreparedEngine:
        """Step ensure_engine."""
        return await self._engines.ensure(replace(self._pool, model=self._model_ref), self._progress)

    async def spawn(self, engine: PreparedEngine, model: ResolvedModel | None) -> Endpoint:
        """Step spawn: a port, a key, a process, its handle on disk."""
        self._engine = engine
        self._proved = False
        self._deadline = self._loop.time() + self._pool.timeouts.start_ms / 1000
        self._endpoint = await self._spawn(engine, model)
        return self._endpoint

    async def prove(self) -> None:
        """Steps await_health, prove_generation and prove_devices."""
        endpoint, engine = self._running()
        prober = self._host.prober
        await prober.await_health(endpoint, engine.health, self._deadline)
        if engine.generation is not None:
            await prober.prove_generation(endpoint, engine.generation, self._deadline)
        if self._on_gpu:
            await self._prove_devices()
        self._proved = True

    async def watch(self, model_ref: str) -> None:
        """Step hand_over, then the liveness of the ready engine."""
        endpoint, engine = self._running()
        handoff = Handoff(
            engine=engine.engine,
            engine_version=engine.engine_version,
            provisioning_mode=engine.provisioning_mode,
            url=endpoint.url,
            pool_id=self._pool.id,
            replica_id=replica_id(self._pool.id),
            model=model_ref,
            flags=self._argv[1:],
        )
        try:
            self._host.files.hand_over(handoff)
        except OSError as error:
            # Who talks to us over the socket knows the endpoint anyway.
            self._warn("cannot write the hand-off file: %s", error)
        await self._host.prober.watch(endpoint, engine.health)

    # --- the end of an engine -----------------------------------------------------------------------------------------

    async def exited(self, run: int) -> EngineExited:
        """Wait for the process; for an engine that somebody else runs there is none."""
        if self._process is None:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")
        leader = self._process
        message = f"the engine {await leader.wait()}"
        if tail := self._log.tail():
            message = f"{message}; its last lines:\n{tail}"
        return EngineExited(
            run=run,
            message=message,
            hint=f"the whole output is in {self._log.path}",
            port_taken=await self._port_stolen(leader),
        )

    async def stop(self) -> None:
        """End whatever runs for this pool, also what a cancelled start left behind. Raises StillRunningError."""
        stop_ms = self._pool.timeouts.stop_ms
        if self._process is not None:
            await self._process.end(stop_ms)
        else:
            await process.end_all(self.leftovers, stop_ms)
        self._process = self._engine = self._endpoint = None
        self._log.end()
        try:
            self._host.files.remove(self._pool.id)
        except OSError as error:
            self._warn("cannot remove a run-time file: %s", error)

    def leftovers(self) -> tuple[ProcessSeen, ...]:
        """Whatever carries this pool's handle file in its environment."""
        marker = self._host.files.marker(self._pool.id)
        return tuple(seen for seen in proc.processes() if seen.marker == marker)

    # --- what others see ----------------------------------------------------------------------------------------------

    def publish(self, life: Life) -> None:
        """Show the pool as it is now."""
        names = tuple(gpu.uuid for gpu in self._gpus) or tuple(str(device) for device in self._pool.devices)
        offset = self._host.wall_offset_ms
        self._host.hub.publish(snapshot(self._pool, life, wall_offset_ms=offset, devices=names, use=self._use))

    def sampled(self, gpus: tuple[Gpu, ...]) -> None:
        """Take a sample of all GPUs: the next snapshot shows how this pool's are used."""
        mine = {gpu.uuid for gpu in self._gpus}
        self._use = devices.use_of(gpu for gpu in gpus if gpu.uuid in mine)

    # --- parts --------------------------------------------------------------------------------------------------------

    @property
    def _on_gpu(self) -> bool:
        return self._host.profile is Profile.HOME and self._pool.mode is not Mode.EXTERNAL

    def _running(self) -> tuple[Endpoint, PreparedEngine]:
        if self._endpoint is None or self._engine is None:
            raise AssertionError("nothing was spawned")
        return self._endpoint, self._engine

    async def _check_devices(self) -> tuple[Gpu, ...]:
        inventory = await asyncio.to_thread(self._host.gpus.inventory)
        found = devices.find(self._pool.devices, inventory)
        if isinstance(found, devices.Trouble):
            raise StepError(Cause.NO_GPU, found.message, found.hint)
        self._use = devices.use_of(found)
        return found

    async def _spawn(self, engine: PreparedEngine, model: ResolvedModel | None) -> Endpoint:
        if engine.url is not None:
            return self._external(engine.url)
        if engine.bin_or_entry is None:
            text = f"pool {self._pool.id} needs a container, and this version starts native engines only"
            raise StepError(Cause.ENGINE_MISSING, text, "use provisioning mode source, package, binary or external")
        self._port = process.free_port()
        key = secrets.token_urlsafe(32)
        self._host.redactor.register(key)
        local_path = model.local_path if model is not None else ""
        args = process.fill(engine.args, model=local_path, host=process.LOOPBACK, port=self._port)
        self._argv = (engine.bin_or_entry, *args)
        spec = SpawnSpec(
            argv=self._argv,
            env=process.child_env(
                self._host.environ,
                self._pool.env,
                engine.env,
                self._mask(),
                {engine.key_env: key} if engine.key_env else {},
            ),
            marker=self._host.files.marker(self._pool.id),
            workdir=engine.workdir,
        )
        await self._start_process(spec, engine, model)
        return Endpoint(url=f"http://{process.LOOPBACK}:{self._port}", api_key=key if engine.key_env else None)

    async def _start_process(self, spec: SpawnSpec, engine: PreparedEngine, model: ResolvedModel | None) -> None:
        self._log.begin(f"{self._pool.id}: starting {' '.join(spec.argv)}")
        self._process = None
        try:
            self._process = await EngineProcess.spawn(spec, self._log)
            self._host.files.write(
                Handle(
                    pool_id=self._pool.id,
                    pid=self._process.pid,
                    start_time_ticks=self._process.start_time_ticks,
                    boot_id=self._host.boot_id,
                    port=self._port,
                    argv_hash=spec.argv_hash,
                    engine_version=engine.engine_version,
                    model_digest=model.digest if model is not None else None,
                )
            )
        except OSError as error:
            cause = Cause.INTERNAL if self._process is not None else Cause.ENGINE_MISSING
            what = "write the engine's handle" if self._process is not None else f"start {spec.argv[0]}"
            raise StepError(
                cause, f"cannot {what}: {error.strerror or error}", "llama-orch doctor says more"
            ) from error

    def _external(self, url: str) -> Endpoint:
        external = self._pool.provisioning.external
        name = external.api_key_env if external is not None else None
        key = self._host.environ.get(name) if name is not None else None
        if key:
            self._host.redactor.register(key)
        return Endpoint(url=url.rstrip("/"), api_key=key)

    def _mask(self) -> dict[str, str]:
        """The GPUs that the engine gets to see, by UUID: whatever else says so, the mask wins."""
        if not self._on_gpu:
            return {}
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in self._gpus),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        }

    async def _prove_devices(self) -> None:
        """NVML must show the engine on its devices; it may take a moment to."""
        if self._process is None:
            raise AssertionError("nothing was spawned")
        mask = tuple(gpu.uuid for gpu in self._gpus)
        give_up = self._loop.time() + _ON_GPU_WAIT_S
        while True:
            members = await asyncio.to_thread(self._process.members)
            seen = await asyncio.to_thread(self._host.gpus.processes)
            trouble = devices.on_its_devices(mask, frozenset(member.pid for member in members), seen)
            if trouble is None:
                return
            if trouble.final or self._loop.time() >= give_up:
                raise StepError(Cause.WRONG_DEVICE, trouble.message, trouble.hint)
            await asyncio.sleep(_ON_GPU_LOOK_S)

    async def _port_stolen(self, leader: EngineProcess) -> bool:
        """Whether another process has the port of an engine that never came up: only asked before it was ready."""
        if self._proved:
            return False
        try:
            await leader.end(self._pool.timeouts.stop_ms)
        except StillRunningError:
            return False
        return process.port_taken(self._port)

    def _progress(self, line: str) -> None:
        _log.info("%s: %s", self._pool.id, line, extra={"pool_id": self._pool.id})

    def _warn(self, text: str, error: OSError) -> None:
        _log.warning(f"{self._pool.id}: {text}", error, extra={"pool_id": self._pool.id})
