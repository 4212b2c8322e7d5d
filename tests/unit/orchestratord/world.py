"""A whole orchestrator over scripted engines: the real parts, but for engines and time."""

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from adapters.base import Adapter, Batch, EngineError, Finished, Generation, Health, Props
from contracts.config import Config, Durability, Engine, Mode, Pool, Profile, Queue, Server, Timeouts
from contracts.events import FinishReason
from contracts.pools import Endpoint, Gates, GateState, PoolSnapshot, PoolState
from contracts.tasks import TaskRequest, Workload
from daemon_core.redaction import Redactor
from orchestratord.database import Database
from orchestratord.entrance import Sources
from orchestratord.keeper import Keeper
from orchestratord.manager import Manager
from orchestratord.metrics import Metrics
from orchestratord.observer import Observer
from orchestratord.orchestrator import Orchestrator
from orchestratord.pools import LinkState, PoolDirectory
from orchestratord.recorder import Recorder
from orchestratord.retention import Bounds
from orchestratord.task import Caller, Task
from tests.support.virtual_loop import LoopClock, pass_time

GATES_OK = Gates(model=GateState.OK, engine=GateState.OK, health=GateState.OK)
MODEL = "file:/models/m.gguf"
CALLER = Caller("corr-1", "localhost")
SERVES = Props(workloads=(Workload.COMPLETION, Workload.CHAT), features=("stream", "seed", "cache_prompt"))
"""What a scripted engine says of itself."""
STOPPED_WELL = Finished(reason=FinishReason.STOP, tokens_in=3, tokens_out=2, decode_ms=5.0)


def pool(pool_id: str = "p", **changes: Any) -> Pool:  # noqa: ANN401 - any field of the pool
    """A configured pool."""
    fields: dict[str, Any] = {
        "id": pool_id,
        "engine": Engine.LLAMACPP,
        "model": MODEL,
        "queue": Queue(capacity=8),
        "timeouts": Timeouts(wall_ms=60_000, idle_ms=5_000),
    }
    return Pool(**(fields | changes))


def config(*pools: Pool, **server: Any) -> Config:  # noqa: ANN401 - any field of the server
    """A configuration. A stop waits for nothing unless asked otherwise."""
    settings = Server(**{"drain_ms": 0, **server})
    return Config(pools=pools or (pool(),), profile=Profile.TRIAL, server=settings)


def snapshot(pool_id: str = "p", state: PoolState = PoolState.READY, **changes: Any) -> PoolSnapshot:  # noqa: ANN401 - any field of the snapshot
    """A report on a pool; ready and with an endpoint unless said otherwise."""
    live = state in {PoolState.READY, PoolState.DRAINING, PoolState.RELOADING}
    fields: dict[str, Any] = {
        "pool_id": pool_id,
        "revision": 1,
        "state": state,
        "replica_id": f"{pool_id}-0",
        "engine": Engine.LLAMACPP,
        "provisioning_mode": Mode.PACKAGE,
        "model_ref": MODEL,
        "model_id": "m",
        "model_digest": "sha256:0",
        "ctx_max": 4096,
        "slots": 1,
        "engine_version": "b1",
        "engine_digest": "sha256:e",
        "endpoint": Endpoint(url=f"http://{pool_id}") if live else None,
        "gates": GATES_OK if live else Gates(),
    }
    return PoolSnapshot(**(fields | changes))


def request(**changes: Any) -> TaskRequest:  # noqa: ANN401 - any field of the request
    """A valid request."""
    fields: dict[str, Any] = {"model_ref": MODEL, "prompt": "hello", "max_tokens": 8}
    return TaskRequest(**(fields | changes))


# --- a scripted engine ------------------------------------------------------------------------------------------------


class Pause(msgspec.Struct, frozen=True):
    """The engine is silent for so long, in seconds of the loop."""

    seconds: float


class Hold(msgspec.Struct, frozen=True):
    """The engine is silent until the event is set."""

    until: asyncio.Event


HANG = Pause(math.inf)
Step = str | list[str] | Batch | Finished | Pause | Hold | BaseException


class Script(msgspec.Struct, frozen=True):
    """One generation: what happens before the engine accepts it, and what it streams then."""

    body: Sequence[Step] = ("Hel", "lo", STOPPED_WELL)
    headers: Sequence[Step] = ()


class _Stream:
    """The engine's side of one generation."""

    def __init__(self, steps: Iterator[Step]) -> None:
        self._steps = steps
        self.ended = False

    def __aiter__(self) -> "_Stream":
        return self

    async def __anext__(self) -> Batch:
        for step in self._steps:
            match await _played(step):
                case None:
                    continue
                case batch:
                    self.ended = batch.finished is not None
                    return batch
        self.ended = True
        raise StopAsyncIteration


async def _played(step: Step) -> Batch | None:
    match step:
        case BaseException():
            raise step
        case Pause(seconds=seconds):
            await (asyncio.Event().wait() if seconds == math.inf else pass_time(seconds))
            return None
        case Hold(until=until):
            await until.wait()
            return None
        case str():
            return Batch([step])
        case list():
            return Batch(step)
        case Finished():
            return Batch([], step)
        case Batch():
            return step


class ScriptedAdapter:
    """An engine that plays scripts, one per generation, and counts what is open."""

    def __init__(self, *scripts: Script, otherwise: Script | None = None) -> None:
        self.scripts = list(scripts)
        self.otherwise = otherwise or Script()
        self.asked: list[Generation] = []
        self.open = 0
        self.most_open = 0
        self.closed = 0
        self.healths: list[Health | Exception | Hold] = []
        """What the next looks show; OK when it is empty, and once a Hold is over."""
        self.looks = 0
        self.tokens: int | EngineError | None = None
        self.counted: list[int] = []
        """How many characters of prompt it was given to count."""
        self.counting: asyncio.Event | None = None
        """Counting tokens waits for this, where it is set."""
        self.closing_takes = 0.0
        """Seconds of the loop from the cancel to the closed connection."""
        self.closing_fails: EngineError | None = None
        self.says: Props | Exception | Hold = SERVES
        """What it answers when it is asked what it is; SERVES once a Hold is over."""
        self.introductions = 0
        self.erased: list[int] = []
        """The slots that it was told to erase."""
        self.erasing: asyncio.Event | None = None
        """Erasing waits for this, where it is set."""
        self.erase_fails: Exception | None = None
        self.serves_model: str | None = None
        """Which model it says that it serves."""
        self.naming: asyncio.Event | None = None
        """Saying so waits for this, where it is set."""
        self.lingers: float = 0.0
        """Seconds of the loop that it goes on with a run whose connection was closed."""
        self.lingering = 0
        self.tells_busy = True
        """Whether it can be asked how busy it is."""
        self.asked_busy: list[float] = []
        """When it was."""
        self.busy_fails: EngineError | None = None

    async def usage(self) -> float | None:
        return None

    async def model(self) -> str | None:
        said = self.serves_model
        if self.naming is not None:
            await self.naming.wait()
        return said

    async def busy(self) -> int | None:
        self.asked_busy.append(asyncio.get_running_loop().time())
        if self.busy_fails is not None:
            raise self.busy_fails
        return self.open + self.lingering if self.tells_busy else None

    def linger(self) -> None:
        """The connection of a run that had not ended was closed."""
        if self.lingers:
            self.lingering += 1
            if self.lingers < math.inf:
                asyncio.get_running_loop().call_later(self.lingers, self._let_go)

    def _let_go(self) -> None:
        self.lingering -= 1

    async def health(self) -> Health:
        self.looks += 1
        health = self.healths.pop(0) if self.healths else Health.OK
        match health:
            case Hold(until=until):
                await until.wait()
                return Health.OK
            case Exception():
                raise health
            case _:
                return health

    async def props(self) -> Props:
        self.introductions += 1
        match self.says:
            case Exception():
                raise self.says
            case Hold(until=until):
                await until.wait()
                return SERVES
            case _:
                return self.says

    async def count_tokens(self, generation: Generation) -> int | None:
        self.counted.append(len(generation.prompt or ""))
        if self.counting is not None:
            await self.counting.wait()
        if isinstance(self.tokens, EngineError):
            raise self.tokens
        return self.tokens

    async def erase(self, slot: int) -> None:
        if self.erasing is not None:
            await self.erasing.wait()
        if self.erase_fails is not None:
            raise self.erase_fails
        self.erased.append(slot)

    def submit(self, generation: Generation) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
        self.asked.append(generation)
        return _Open(self, self.scripts.pop(0) if self.scripts else self.otherwise)


class _Open:
    """One open connection."""

    def __init__(self, engine: ScriptedAdapter, script: Script) -> None:
        self._engine = engine
        self._script = script
        self._stream = _Stream(iter(script.body))

    async def __aenter__(self) -> AsyncIterator[Batch]:
        self._engine.open += 1
        self._engine.most_open = max(self._engine.most_open, self._engine.open)
        try:
            for step in self._script.headers:
                await _played(step)
        except BaseException:
            self._leave()
            raise
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._engine.closing_takes:
                await _played(Pause(self._engine.closing_takes))
            if self._engine.closing_fails:
                raise self._engine.closing_fails
        finally:
            self._leave()

    def _leave(self) -> None:
        self._engine.open -= 1
        self._engine.closed += 1
        if not self._stream.ended:
            self._engine.linger()


def ticking(text: str, every_s: float, times: int, then: Step | None = None) -> list[Step]:
    """A steady engine: this text, then a pause, so many times; then what follows."""
    beat: list[Step] = [text, Pause(every_s)]
    return beat * times + ([] if then is None else [then])


# --- the world --------------------------------------------------------------------------------------------------------


class World:
    """One orchestrator and its engines."""

    def __init__(
        self,
        settings: Config,
        engines: dict[str, ScriptedAdapter],
        manager: Manager | None = None,
        tasks: Path | None = None,
        point: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.config = settings
        self.engines = engines
        self.metrics = Metrics()
        self.made: list[Endpoint] = []
        """Every endpoint for which an adapter was asked."""
        self.pools = PoolDirectory(settings, self._adapter)
        numbers = itertools.count(1)
        sources = Sources(new_id=lambda: f"n{next(numbers)}", new_seed=lambda: 4242)
        observer = Observer(self.metrics)
        bounds = Bounds(tasks=settings.server.keep_finished, max_bytes=1 << 30, max_age_ms=1 << 40)
        durability = Durability.MEMORY if tasks is None else Durability.PROCESS
        seal = None if tasks is None else Recorder(settings.profile, Redactor(), LoopClock().unix_ms).seal
        database = Database.opened(tasks, point)
        self.keeper = Keeper(database, clock=LoopClock(), bounds=bounds, durability=durability, seal=seal)
        self.orchestrator = Orchestrator(
            settings, self.pools, LoopClock(), sources, observer, keeper=self.keeper, manager=manager
        )
        self.metrics.watch(self.pools, self.orchestrator.backlog)
        self.stopping = asyncio.Event()
        self.hurry = asyncio.Event()

    def _adapter(self, configured: Pool, endpoint: Endpoint) -> Adapter:
        self.made.append(endpoint)
        return self.engines[configured.id]

    async def submit(self, **changes: Any) -> Task:  # noqa: ANN401 - any field of the request
        """Send a valid request with these changes."""
        return await self.orchestrator.submit(request(**changes), CALLER)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a series over all its label sets that hold these labels."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@asynccontextmanager
async def world(
    *scripts: Script,
    settings: Config | None = None,
    engines: dict[str, ScriptedAdapter] | None = None,
    ready: bool = True,
    slots: int = 1,
    snapshots: Callable[[str], PoolSnapshot] | None = None,
    manager: Manager | None = None,
    tasks: Path | None = None,
    point: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[World]:
    """A running orchestrator; every pool is reported ready unless asked otherwise. On leaving it is stopped.

    With ``tasks`` it keeps them in that file, and goes on with those that it finds there.
    """
    settings = settings or config()
    engines = engines or {each.id: ScriptedAdapter(*scripts) for each in settings.pools}
    made = World(settings, engines, manager, tasks, point)
    mistakes: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: mistakes.append(context))
    try:
        async with asyncio.TaskGroup() as group:
            made.orchestrator.take_up()
            group.create_task(made.orchestrator.run(made.stopping, made.hurry))
            await asyncio.sleep(0)
            if ready:
                made.pools.linked(LinkState.UP)
                for each in settings.pools:
                    made.orchestrator.report(snapshots(each.id) if snapshots else snapshot(each.id, slots=slots))
            try:
                yield made
            finally:
                made.stopping.set()
    except BaseExceptionGroup as several:
        if len(several.exceptions) > 1:
            raise
        raise several.exceptions[0] from None  # a failed assertion reads better alone
    finally:
        made.keeper.close()
    assert [str(each) for each in mistakes] == []  # no callback of a timer or a finished coroutine raised


async def ended(task: Task) -> bytes:
    """The task's whole stream, once it has its terminal event."""
    closed = asyncio.Event()
    unsubscribe = task.log.subscribe(lambda: closed.set() if task.log.closed else None)
    try:
        if not task.log.closed:
            await closed.wait()
    finally:
        unsubscribe()
    return task.log.read(0)
