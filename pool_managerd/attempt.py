"""Has one engine of a pool: stages its model, makes it startable, starts it or takes it over, proves it, ends it.

``STEPS`` are the steps of a start, in their order, each idempotent. Decides nothing about what follows a failure; turns
every expected one into a StepError with its cause and mend.
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from msgspec.structs import replace

from container_runtime.errors import SpecError
from container_runtime.spec import ContainerSpec
from contracts.config import Mode, Pool, Profile
from contracts.engines import ContainerRun, Handoff, PreparedEngine, ResolvedModel
from contracts.pools import Cause, Endpoint, Gpu
from daemon_core.child_environment import child_env
from pool_managerd import process, scopes
from pool_managerd.container import EngineContainer
from pool_managerd.diagnosis import Diagnosis, During, Exit
from pool_managerd.engine_log import EngineLog
from pool_managerd.errors import StepError, StillRunningError
from pool_managerd.gpu_proof import Subject, find_devices, prove, vram_back
from pool_managerd.host import Engines, Host
from pool_managerd.launch import LOOPBACK, Launch, container_of, fill, launch_in
from pool_managerd.leftovers import Taken, clear, take_over
from pool_managerd.post_mortem import PostMortem
from pool_managerd.process import EngineProcess, RunningEngine, SpawnSpec
from pool_managerd.reconcile import Handle, instance_of
from pool_managerd.snapshot import replica_id

_log = logging.getLogger(__name__)

STEPS = (
    "check_devices",
    "stage_model",
    "ensure_engine",
    "take_over",
    "check_room",
    "spawn",
    "await_health",
    "prove_generation",
    "prove_devices",
    "hand_over",
)
"""A manager may die in any of them: the next one starts from the first, and what is done already costs little."""


class Attempt:
    """One engine of a pool. It is used once: a new start is a new attempt.

    ``sides`` are the places that it may use. It takes over what runs in any of them, if that is what it would start,
    and starts in the first one otherwise.
    """

    def __init__(
        self, *, pool: Pool, model_ref: str, sides: tuple[str, ...], engines: Engines, log: EngineLog, host: Host
    ) -> None:
        self._pool = pool
        self._model_ref = model_ref
        self._sides = sides
        self._engines = engines
        self._log = log
        self._host = host
        self._known_by = {"pool_id": pool.id, "engine": str(pool.engine)}
        self._loop = asyncio.get_running_loop()
        self._engine: PreparedEngine | None = None
        self._model: ResolvedModel | None = None
        self._launch: Launch | None = None
        self._running: RunningEngine | None = None
        self._endpoint: Endpoint | None = None
        self._post_mortem: PostMortem | None = None
        self._flags: tuple[str, ...] = ()
        self._port = 0
        self._deadline = 0.0
        self._proved = False
        self._handle: Handle | None = None
        """As it is on disk."""
        self._last_pids: frozenset[int] = frozenset()
        self.gpus: tuple[Gpu, ...] = ()
        """Those of the mask, as they were when the devices were checked."""
        self.side = sides[0]

    @property
    def instance(self) -> str:
        """The place in which it runs."""
        return instance_of(self._pool.id, self.side)

    # --- the steps of a start -----------------------------------------------------------------------------------------

    async def stage(self) -> ResolvedModel | None:
        """Steps check_devices and stage_model; None for an engine that somebody else runs."""
        if self._on_gpu:
            self._step("check_devices")
            self.gpus = await find_devices(self._pool, self._host)
        if self._pool.mode is Mode.EXTERNAL:
            return None
        self._step("stage_model")
        digest = self._pool.model_sha256 if self._model_ref == self._pool.model else None
        self._model = await self._host.models.ensure_present(self._model_ref, digest, self._progress, self._pool.engine)
        return self._model

    async def ensure(self) -> PreparedEngine:
        """Step ensure_engine."""
        self._step("ensure_engine")
        self._engine = await self._engines.ensure(replace(self._pool, model=self._model_ref), self._progress)
        return self._engine

    async def fits_beside(self) -> bool:
        """Whether this engine, with its model staged, has room beside the one that serves."""
        if self._engine is None or self._model is None:
            return True
        return await self._host.room.beside(self._pool, self._engine, self._model, self.gpus)

    async def spawn(self, engine: PreparedEngine, model: ResolvedModel | None) -> Endpoint:
        """Steps take_over, check_room and spawn: an engine with its port and its key, and its handle on disk."""
        self._engine, self._model = engine, model
        now, uuids = self._loop.time(), tuple(gpu.uuid for gpu in self.gpus)
        self._deadline = now + self._pool.timeouts.start_ms / 1000
        on = frozenset(uuids) if self._on_gpu else None
        self._post_mortem = PostMortem(self._host, self._log, gpus=on, since=now)
        if engine.url is not None:
            self._endpoint = self._external(engine.url)
            return self._endpoint
        self._launch = launch_in(self._pool, engine, model, uuids)
        self._step("take_over")
        taken = await take_over(self._launch, self._pool, self._sides, self._log, self._host)
        if taken is not None:
            self._has_taken(taken, self._launch)
            await self._clear(keep=self.side)
        else:
            self._host.taking_over.settle(self._pool.id)
            await self._clear(keep=None)
            self._step("check_room")
            if model is not None:
                await self._host.room.check(self._pool, engine, model, self.gpus)
            self._step("spawn")
            await self._start(self._launch)
        if self._endpoint is None:
            raise AssertionError("started without an endpoint")
        return self._endpoint

    async def prove(self) -> None:
        """Steps await_health, prove_generation and prove_devices."""
        endpoint, engine = self._started()
        prober = self._host.prober
        try:
            self._step("await_health")
            await prober.await_health(endpoint, engine.health, self._deadline)
            if engine.generation is not None and not self._has_worked:
                self._step("prove_generation")
                await prober.prove_generation(endpoint, engine.generation, self._deadline)
        except StepError as error:
            raise await self._explained(error) from error
        if self._on_gpu:
            self._step("prove_devices")
            await self._prove_devices()
        self._proved = True
        self._note(proved=True)
        self._log.overcome()

    async def watch(self) -> None:
        """Step hand_over, then the liveness of the ready engine."""
        self._step("hand_over")
        endpoint, engine = self._started()
        handoff = Handoff(
            engine=engine.engine,
            engine_version=engine.engine_version,
            provisioning_mode=engine.provisioning_mode,
            url=endpoint.url,
            pool_id=self._pool.id,
            replica_id=replica_id(self._pool.id),
            model=self._model_ref,
            flags=self._flags,
        )
        try:
            self._host.files.hand_over(handoff)
        except OSError as error:
            # Who talks to us over the socket knows the endpoint anyway.
            self._warn("cannot write the hand-off file: %s", error)
        try:
            await self._host.prober.watch(endpoint, engine.health)
        except StepError as error:
            raise await self._explained(error) from error

    # --- the end of an engine -----------------------------------------------------------------------------------------

    async def exited(self) -> StepError:
        """Wait for the end that nobody asked for, and say why; an engine that somebody else runs never ends here."""
        if self._running is None:
            await asyncio.Event().wait()
            raise AssertionError("nobody sets it")
        exited = await self._running.wait()
        found = await self._diagnosis(exited)
        message = found.message
        if tail := self._log.tail():
            message = f"{message}; its last lines:\n{tail}"
        return StepError(found.cause, message, f"{found.hint} (the whole output is in {self._log.path})")

    async def _explained(self, error: StepError) -> StepError:
        """Why an engine that runs is not healthy, where more can be told than that it is not."""
        found = await self._diagnosis(None, error.message)
        known = found.cause in {Cause.START_TIMEOUT, Cause.ENGINE_UNHEALTHY}
        return error if known else StepError(found.cause, f"{found.message}: {error.message}", found.hint)

    async def _diagnosis(self, exited: Exit | None, health: str | None = None) -> Diagnosis:
        if self._post_mortem is None:
            raise AssertionError("nothing was started")
        during = During.SERVING if self._proved else During.START
        return await self._post_mortem.diagnosis(during, exited, health)

    async def port_stolen(self) -> bool:
        """Whether another process has the port of an engine that never came up: only asked before it was ready."""
        if self._proved or not self._port or self._running is None:
            return False
        try:
            await self._running.end(self._pool.timeouts.stop_ms)
        except StillRunningError:
            return False
        return process.port_taken(self._port)

    async def end(self) -> None:
        """End what runs, and wait until its VRAM is back. Idempotent. Raises StillRunningError or StepError."""
        if (running := self._running) is None:
            return
        pids = self._last_pids | await running.pids()
        await running.end(self._pool.timeouts.stop_ms)
        self._running = None
        self._log.end()
        if self._on_gpu and pids:
            await vram_back(self._pool.id, pids, self._host)
        self._host.files.remove(self.instance)

    @property
    def outlives(self) -> bool:
        """Whether its engine goes on when this manager ends; also where there is none."""
        return self._running is None or self._running.outlives

    async def leave(self) -> None:
        """Let the engine go on, for the next manager to take over: every file that says so stays."""
        if self._running is not None:
            await self._running.leave()

    async def kill(self) -> None:
        """End a container at once, as ``process.kill_now`` does with what is native. Never raises."""
        if isinstance(self._running, EngineContainer):
            try:
                await self._running.end(0)
            except StepError as error:
                _log.error("pool %s: %s", self._pool.id, error.message, extra=self._known_by)

    # --- starting -----------------------------------------------------------------------------------------------------

    async def _start(self, launch: Launch) -> None:
        key = secrets.token_urlsafe(32) if launch.engine.key_env else None
        if key is not None:
            self._host.redactor.register(key)
        if launch.engine.container is not None:
            await self._start_container(launch, key)
        else:
            await self._start_process(launch, key)

    async def _start_process(self, launch: Launch, key: str | None) -> None:
        engine = launch.engine
        if engine.bin_or_entry is None:
            text = f"the engine of pool {self._pool.id} was prepared as nothing that can be started"
            raise StepError(Cause.INTERNAL, text, "please report it, with the log")
        self._port = process.free_port()
        args = fill(engine.args, model=launch.model_path, host=LOOPBACK, port=self._port)
        secret = {engine.key_env: key} if engine.key_env and key else {}
        files = self._host.files
        spec = SpawnSpec(
            argv=(engine.bin_or_entry, *args),
            env=child_env(scopes.without_bus(self._host.environ), launch.env, secret),
            marker=files.marker(self.instance),
            output=str(files.output(self.instance)),
            workdir=engine.workdir,
            scope=await self._host.scopes.around(self.instance),
            environ=dict(self._host.environ),
        )
        self._log.begin(f"{self._pool.id}: starting {' '.join(spec.argv)}")
        self._write(self._handle_of(launch, self._port))
        try:
            running = await EngineProcess.spawn(spec, self._log)
        except OSError as error:
            # The engine's working directory, its pipe or systemd-run may be what is missing.
            other = "" if error.filename in {None, engine.bin_or_entry} else f": {error.filename}"
            text = f"cannot start {engine.bin_or_entry}: {error.strerror or error}{other}"
            raise StepError(Cause.ENGINE_MISSING, text, "llama-orch doctor says more") from error
        self._has(running, args, self._port, key)
        self._write(self._handle_of(launch, self._port, pid=running.pid, start_time_ticks=running.start_time_ticks))

    async def _start_container(self, launch: Launch, key: str | None) -> None:
        container = launch.engine.container
        if container is None:
            raise AssertionError("no container")
        spec = self._container_spec(launch, container)
        self._log.begin(
            f"{self._pool.id}: starting {spec.reference.text} with {' '.join(spec.args)} in {container.runtime}"
        )
        self._write(self._handle_of(launch, 0, runtime=container.runtime))
        runtime = self._host.containers.runtime(container.runtime)
        within = await self._host.scopes.around(self.instance)
        running = await EngineContainer.run(runtime, spec, key, self._log, within)
        self._has(running, spec.args, running.port, key)
        what = {"runtime": container.runtime, "container_id": running.handle.container_id}
        self._write(self._handle_of(launch, running.port, **what, outlives=running.outlives))
        if not running.port:
            raise await self.exited()  # docker gives a container that has ended no port

    def _container_spec(self, launch: Launch, container: ContainerRun) -> ContainerSpec:
        try:
            return container_of(
                launch,
                container,
                pool_id=self._pool.id,
                replica_id=replica_id(self._pool.id),
                name=f"llama-orch-{self._pool.id}-{secrets.token_hex(4)}",
                marker=self._host.files.marker(self.instance),
                stop_ms=self._pool.timeouts.stop_ms,
            )
        except SpecError as error:
            if error.field.startswith("mounts"):
                hint = "rename it, or move it to a place without such a character"
                raise StepError(Cause.MODEL_INVALID, f"a container cannot be given this path: {error}", hint) from error
            raise StepError(Cause.INTERNAL, f"its container would not be safe: {error}", "report it") from error

    def _has(self, running: RunningEngine, flags: tuple[str, ...], port: int, key: str | None) -> None:
        self._running = running
        if self._post_mortem is not None:
            self._post_mortem.started(running)
        self._flags = flags
        self._endpoint = Endpoint(url=f"http://{LOOPBACK}:{port}", api_key=key)

    def _has_taken(self, taken: Taken, launch: Launch) -> None:
        self.side = taken.side
        container = launch.engine.container
        if container is not None:
            flags = self._container_spec(launch, container).args
        else:
            self._port = taken.port
            flags = fill(launch.engine.args, model=launch.model_path, host=LOOPBACK, port=taken.port)
        self._handle = taken.handle
        self._has(taken.running, flags, taken.port, taken.key)
        self._progress(f"taking over the engine that runs on port {taken.port}")

    @property
    def _has_worked(self) -> bool:
        """Whether a former manager has seen this very process work. It may be busy, and answer when it is not."""
        return self._handle is not None and self._handle.proved

    def serves(self, restarts: int) -> None:
        """It is ready, and so many of the pool had failed before it."""
        self._note(restarts=restarts)

    def _note(self, **what: int) -> None:
        """Tell the next manager; without that it looks again."""
        if self._handle is None or replace(self._handle, **what) == self._handle:
            return
        self._handle = replace(self._handle, **what)
        try:
            self._host.files.write(self._handle)
        except OSError as error:
            self._warn("cannot write into the engine's handle: %s", error)

    def _handle_of(self, launch: Launch, port: int, **what: int | str) -> Handle:
        handle = Handle(
            pool_id=self._pool.id,
            side=self.side,
            boot_id=self._host.boot_id,
            port=port,
            launch_hash=launch.hash,
            engine_version=launch.engine.engine_version,
            model_digest=launch.model_digest,
        )
        return replace(handle, **what)

    def _write(self, handle: Handle) -> None:
        self._handle = handle
        try:
            self._host.files.write(handle)
        except OSError as error:
            text = f"cannot write the engine's handle: {error.strerror or error}"
            hint = f"make room on the disk, and see that this user owns {self._host.files.folder}"
            raise StepError(Cause.INTERNAL, text, hint) from error

    def _external(self, url: str) -> Endpoint:
        external = self._pool.provisioning.external
        name = external.api_key_env if external is not None else None
        key = self._host.environ.get(name) if name is not None else None
        if key:
            self._host.redactor.register(key)
        return Endpoint(url=url.rstrip("/"), api_key=key)

    # --- what must not be there ---------------------------------------------------------------------------------------

    async def _clear(self, keep: str | None) -> None:
        """End whatever else runs in the places of this attempt."""
        for side in self._sides:
            if side != keep:
                await clear(self._pool, side, self._host)

    # --- GPUs ---------------------------------------------------------------------------------------------------------

    @property
    def _on_gpu(self) -> bool:
        return self._host.profile is Profile.HOME and self._pool.mode is not Mode.EXTERNAL

    async def _prove_devices(self) -> None:
        if self._running is None or self._engine is None:
            raise AssertionError("nothing was started")
        subject = Subject(pool=self._pool, engine=self._engine, model=self._model, gpus=self.gpus)
        self._last_pids = await prove(subject, self._running, self._host, self._progress)

    # --- small things -------------------------------------------------------------------------------------------------

    def _started(self) -> tuple[Endpoint, PreparedEngine]:
        if self._endpoint is None or self._engine is None:
            raise AssertionError("nothing was started")
        return self._endpoint, self._engine

    def _step(self, name: str) -> None:
        _log.debug("pool %s: step %s", self.instance, name, extra=self._known_by)

    def _progress(self, line: str) -> None:
        _log.info("pool %s: %s", self._pool.id, line, extra=self._known_by)

    def _warn(self, text: str, error: OSError) -> None:
        _log.warning(f"pool {self._pool.id}: {text}", error, extra=self._known_by)
