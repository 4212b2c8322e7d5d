"""Where tasks come in: looked at, counted, given a place in the queue, or refused.

Decides nothing that a deciding module can (``admission``, ``backlog`` and ``prediction`` do): it gives them the present
state and carries out their answer. A task that it lets in is the ``orchestrator``'s from then on. Between the last look
at the state and the place in the queue there is no await.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress

import msgspec

from adapters.base import EngineError
from contracts.errors import ErrorCode
from contracts.events import End
from contracts.tasks import Determinism, TaskForecast, TaskRequest
from daemon_core.steps import Steps
from orchestratord import admission, context, deadlines, determinism, excerpt, kept
from orchestratord.admission import Eligible, PoolView, Refusal
from orchestratord.asking import generation_of
from orchestratord.backlog import Backlog, Full, Queued
from orchestratord.clock import Clock
from orchestratord.demand import Demand
from orchestratord.determinism import ReplicaSet
from orchestratord.errors import ApiError, api_error
from orchestratord.keeper import Keeper
from orchestratord.kept import Shown
from orchestratord.observer import Observer
from orchestratord.outlook import Outlook
from orchestratord.pools import PoolDirectory
from orchestratord.prediction import Forecast
from orchestratord.rates import Charge, Rates
from orchestratord.store import TaskStore
from orchestratord.taking_turns import in_turns
from orchestratord.task import Admission, Caller, Task
from orchestratord.turns import Bid, Turns

log = logging.getLogger(__name__)

LEAST_AWAY_MS = 1_000
"""A daemon that stops is back no sooner than that."""
INTRODUCTION_S = 2.0
"""How long a task waits at the door for an engine that has just started to say what it serves."""


class Sources(msgspec.Struct, frozen=True):
    """Where randomness comes from."""

    new_id: Callable[[], str]
    new_seed: Callable[[], int]


class Fitting(msgspec.Struct, frozen=True):
    """The pools into whose context a task fits, and the tokens of its prompt where an engine counted them."""

    views: tuple[PoolView, ...]
    tokens: int | None = None

    @property
    def pools(self) -> frozenset[str]:
        """Their ids."""
        return Eligible(self.views).ids


class Plan(msgspec.Struct, frozen=True):
    """What becomes of a task that may come in."""

    pools: frozenset[str]
    demand: Demand
    forecast: Forecast
    place: Queued
    tokens: int
    """What it counts in the rates, where there are any."""
    on_time: float | None
    """The probability that it is done before its deadline; None without one."""
    counted: bool
    """Whether an engine counted the tokens of its prompt."""
    bid: Bid
    """What it would be as a turn of a session."""
    replica_set: ReplicaSet | None
    """That of its pools, where it is strict and they have shown it."""


class Entrance:
    """The door of this daemon: every request passes it once."""

    def __init__(
        self,
        pools: PoolDirectory,
        backlog: Backlog,
        outlook: Outlook,
        rates: Rates,
        store: TaskStore,
        *,
        keeper: Keeper,
        turns: Turns,
        entered: Callable[[Task, Queued], None],
        clock: Clock,
        sources: Sources,
        observer: Observer,
    ) -> None:
        self._pools = pools
        self._backlog = backlog
        self._outlook = outlook
        self.rates = rates
        self._charges: dict[str, Charge] = {}
        self._store = store
        self._keeper = keeper
        self._turns = turns
        self._entered = entered
        self._clock = clock
        self._sources = sources
        self._observer = observer
        self._closed: tuple[str, float] | None = None
        """Nobody comes in any more: why, and until when at the least."""

    def close(self, why: str, until_ms: float) -> None:
        """Let nobody in any more. ``until_ms``: when it is worth trying again, in monotonic milliseconds."""
        self._closed = (why, until_ms)

    async def submit(self, request: TaskRequest, caller: Caller) -> Task:
        """Admit a task, or answer with the one that the same id and body made earlier.

        Raises ApiError with the refusal.
        """
        try:
            known = self._known(request)
            if known is not None:
                return known
            shown = await in_turns(self._shown(request))  # to find out takes long for a long one
            fitting = await self._fitting(request)
            # While it was looked at, or its tokens were counted, a twin of this request may have come in.
            return self._known(request) or self._admit(request, fitting, caller, shown)
        except ApiError as error:
            self._observer.rejected(error.refusal, caller)
            raise

    async def foretell(self, request: TaskRequest, caller: Caller) -> TaskForecast:
        """What would become of a task; nothing is queued, counted or charged.

        Raises ApiError with the refusal that it would get.
        """
        self._known(request)
        plan = self._plan(request, await self._fitting(request, count=True), caller, asks=True)
        forecast, demand = plan.forecast, plan.demand
        return TaskForecast(
            queue_position=plan.place.position,
            predicted_start_ms=forecast.start_ms,
            predicted_start_low_ms=forecast.low_ms,
            predicted_start_high_ms=forecast.high_ms,
            predicted_end_ms=forecast.end_ms,
            pool_id=forecast.pool_id,
            replica_id=self._pools[forecast.pool_id].snapshot.replica_id,
            eligible_pools=tuple(sorted(plan.pools)),
            kv_warmth=self._turns.expects_warm(request, forecast.pool_id),
            prompt_tokens=round(demand.prompt),
            prompt_tokens_counted=plan.counted,
            new_tokens=round(self._outlook.new_tokens(demand, forecast.pool_id)),
            on_time_probability=plan.on_time,
            evicts=plan.place.evicted,
        )

    def left(self, task: Task) -> None:
        """A task has had its terminal event: what it did not use of its rate is given back."""
        charge = self._charges.pop(task.id, None)
        if charge is not None:
            self.rates.settle(charge, _used(task), self._clock.monotonic_ms())

    # --- inside -------------------------------------------------------------------------------------------------------

    def _known(self, request: TaskRequest) -> Task | None:
        task = None if request.task_id is None else self._store.get(request.task_id)
        if task is not None and not kept.asks_the_same(task, request):
            hint = "use a new task_id for a new request"
            raise api_error(ErrorCode.CONFLICT, f"task {task.id!r} exists with another body", hint, field="task_id")
        return task

    def _shown(self, request: TaskRequest) -> Steps[Shown]:
        """How it may be written down; what is refused whatever its texts are is looked at no further than one step."""
        looking = self._keeper.shown(request)
        while True:
            try:
                next(looking)
            except StopIteration as end:
                shown: Shown = end.value
                return shown
            except RecursionError as error:  # nothing else in a request can be nested
                text = "sampling.json_schema: it is nested too deeply"
                raise api_error(ErrorCode.INVALID_PARAMS, text, field="sampling.json_schema") from error
            self._eligible(request)
            yield

    async def _fitting(self, request: TaskRequest, *, count: bool = False) -> Fitting:
        """The eligible pools whose context holds prompt and answer; ``count``: how long it is, also where it fits."""
        found = self._eligible(request)  # what is refused whatever the engines may say is refused at once
        if await self._introductions(found):
            found = self._eligible(request)
        count = count or self._turns.counts(request)
        if not count and all(context.certainly_fits(request, view.snapshot.ctx_max) for view in found.pools):
            return Fitting(found.pools)
        await self._refuse_the_endless(request, found)
        tokens = await self._count(request, found)
        found = self._eligible(request)  # while they were counted, a pool may have gone
        if tokens is None:  # nobody can count right now: the engine itself will refuse what does not fit
            return Fitting(found.pools)
        fitting = [view for view in found.pools if context.fits(request, tokens, view.snapshot.ctx_max)]
        if not fitting:
            widest = max(view.snapshot.ctx_max for view in found.pools)
            raise ApiError(admission.context_refusal(request, tokens, widest))
        # Of several inputs the longest alone was counted.
        return Fitting(tuple(fitting), tokens if request.inputs is None else None)

    async def _introductions(self, found: Eligible) -> bool:
        """Let those engines that are just being asked say what they serve, rather than queue for a surprise.

        Where another one can run the task already there is none, and nobody waits. Whether there was a wait.
        """
        entries = self._pools.of(found.ids)
        if any(entry.usable for entry in entries):
            return False
        asking = [entry for entry in entries if entry.introducible and entry.asked and not entry.heard.is_set()]
        if asking:
            with suppress(TimeoutError):
                async with asyncio.timeout(INTRODUCTION_S):
                    for entry in asking:
                        await entry.heard.wait()
        return bool(asking)

    def _eligible(self, request: TaskRequest) -> Eligible:
        if self._closed is not None:
            why, until_ms = self._closed
            after_ms = max(LEAST_AWAY_MS, math.ceil(until_ms - self._clock.monotonic_ms()))
            hint = "send the task again after retry_after_ms"
            raise ApiError(Refusal(code=ErrorCode.POOL_UNAVAILABLE, message=why, hint=hint, retry_after_ms=after_ms))
        found = admission.eligible(request, self._pools.views(), self._clock.unix_ms())
        if isinstance(found, Refusal):
            raise ApiError(self._unmanaged(found))
        return found

    async def _refuse_the_endless(self, request: TaskRequest, found: Eligible) -> None:
        """Raises ApiError for what is so long that its beginning fits nowhere: to count all of it may take minutes."""
        widest = max(view.snapshot.ctx_max for view in found.pools)
        beginning = excerpt.excerpt(request, widest)
        tokens = None if beginning is None else await self._count(beginning, found)
        if tokens is not None and excerpt.too_long(tokens, widest):
            raise ApiError(excerpt.refusal(request, widest))

    async def _count(self, request: TaskRequest, found: Eligible) -> int | None:
        """By the first engine that can, for all of these pools: what may not fit into the narrowest is counted."""
        wanted = context.to_count(request, min(view.snapshot.ctx_max for view in found.pools))
        for entry in self._pools.of(found.ids):
            if entry.usable and entry.adapter is not None:
                try:
                    return await entry.adapter.count_tokens(generation_of(wanted, seed=0))
                except EngineError as error:
                    extra = {"pool_id": entry.id}
                    log.warning("pool %s could not count tokens: %s", entry.id, error.message, extra=extra)
        return None

    def _plan(self, request: TaskRequest, fitting: Fitting, caller: Caller, *, asks: bool = False) -> Plan:
        """What becomes of a task that comes now; nothing changes. Raises ApiError where it may not come in.

        Who only ``asks`` keeps no place from anybody.
        """
        fitting = self._one_set(request, fitting)
        pools = fitting.pools
        demand = self._outlook.demand(request, pools, fitting.tokens)
        place = self._backlog.place(request.priority, pools)
        if isinstance(place, Full):
            engine = self._pools[place.pool_id].config.engine
            raise ApiError(admission.queue_full(place, engine, self._outlook.place_ms(pools, told=not asks)))
        bid = self._turns.bid(request, fitting.views, fitting.tokens)
        forecast = self._outlook.of_new(demand, pools, request.session_id if bid.parked else None)
        late = deadlines.too_late(request, forecast)
        if late is not None:
            raise ApiError(late)
        no_turn = self._turns.refusal(request, bid, 0 if bid.ask is None else forecast.end_ms)
        if no_turn is not None:
            raise ApiError(no_turn)
        tokens = 0
        if self.rates.limited:
            tokens = admission.rated(request, demand.prompt, self._outlook.new_tokens(demand, forecast.pool_id))
        wait = self.rates.look(caller.identity, tokens, self._clock.monotonic_ms())
        if wait is not None:
            raise ApiError(admission.over_rate(wait))
        on_time = None if request.deadline_ms is None else forecast.on_time(request.deadline_ms)
        counted = fitting.tokens is not None
        strict = request.determinism is Determinism.STRICT
        bound_to = determinism.replica_set(fitting.views[0].snapshot) if strict else None
        return Plan(pools, demand, forecast, place, tokens, on_time, counted=counted, bid=bid, replica_set=bound_to)

    def _one_set(self, request: TaskRequest, fitting: Fitting) -> Fitting:
        """A strict task waits for one replica set: that where it starts first, of several the one that it prefers."""
        if request.determinism is not Determinism.STRICT:
            return fitting
        sets = determinism.sets(view.snapshot for view in fitting.views).values()
        if len(sets) == 1:
            return fitting
        chosen = min(sets, key=lambda pools: self._attraction(request, pools, fitting.tokens))
        views = tuple(view for view in fitting.views if view.snapshot.pool_id in chosen)
        return msgspec.structs.replace(fitting, views=views)

    def _attraction(
        self, request: TaskRequest, pools: frozenset[str], tokens: int | None
    ) -> tuple[bool, int, bool, str]:
        """The smaller, the sooner a task gets to one of these pools; equal ones by their ids."""
        full = isinstance(self._backlog.place(request.priority, pools), Full)
        start_ms = self._outlook.of_new(self._outlook.demand(request, pools, tokens), pools).start_ms
        return full, start_ms, pools.isdisjoint(request.placement.prefer), min(pools)

    def _admit(self, request: TaskRequest, fitting: Fitting, caller: Caller, shown: Shown) -> Task:
        plan = self._plan(request, fitting, caller)
        task_id = request.task_id or f"task-{self._sources.new_id()}"
        task = self._task(task_id, request, caller, plan)
        self._keeper.admits(task, plan.pools, shown)  # before anybody is told of it
        place = self._backlog.offer(
            task_id,
            request.priority,
            plan.pools,
            request.placement,
            demand=plan.demand,
            home=plan.bid.home,
            hold_until_ms=plan.bid.hold_until_ms,
            parked=plan.bid.parked,
        )
        if isinstance(place, Full):  # pragma: no cover - the plan had a place, and nothing happened since
            raise ApiError(admission.queue_full(place, self._pools[place.pool_id].config.engine, 1))
        self._turns.enter(task_id, plan.bid)
        if self.rates.limited:
            self._charges[task_id] = self.rates.take(caller.identity, plan.tokens, task.admission.at_ms)
        self._outlook.arrived(task, plan.pools)
        self._entered(task, place)
        return task

    def _task(self, task_id: str, request: TaskRequest, caller: Caller, plan: Plan) -> Task:
        forecast = plan.forecast
        return Task(
            Admission(
                task_id=task_id,
                job_id=f"job-{self._sources.new_id()}",
                request=request,
                seed=self._sources.new_seed() if request.seed is None else request.seed,
                caller=caller,
                created_ms=self._clock.unix_ms(),
                at_ms=self._clock.monotonic_ms(),
                queue_position=plan.place.position,
                predicted_start_ms=forecast.start_ms,
                predicted_low_ms=forecast.low_ms,
                predicted_high_ms=forecast.high_ms,
                on_time_probability=plan.on_time,
                backoff_ms=0 if self._has_room_behind(plan) else self._outlook.place_ms(plan.pools),
                demand=plan.demand,
                replica_set=plan.replica_set,
            ),
            self._keeper,
        )

    def _has_room_behind(self, plan: Plan) -> bool:
        """Whether one more task could come after this one."""
        taken = {plan.place.charged_to: 1} if plan.place.evicted is None else {}
        depths = {pool_id: self._backlog.depth(pool_id) + taken.get(pool_id, 0) for pool_id in plan.pools}
        return any(depth < self._backlog.capacity(pool_id) for pool_id, depth in depths.items())

    def _unmanaged(self, refusal: Refusal) -> Refusal:
        """Say so when a pool is out of service, or a model has no name yet, only because nobody has reported on it."""
        unnamed = refusal.code is ErrorCode.MODEL_UNAVAILABLE and not any(
            each.snapshot.revision for each in self._pools
        )
        if self._pools.ever_managed or not (unnamed or refusal.code is ErrorCode.POOL_UNREADY):
            return refusal
        hint = "is pool-managerd running? systemctl --user status pool-managerd"
        text = "pool-managerd has not reported any pool yet"
        return Refusal(code=ErrorCode.POOL_UNAVAILABLE, message=text, hint=hint)


def _used(task: Task) -> int:
    """The tokens that an ended task has read and made, as far as anybody knows."""
    if task.run is None:
        return 0
    outcome = task.outcome
    if isinstance(outcome, End) and outcome.tokens_in:
        return outcome.tokens_in + outcome.tokens_out
    return round(task.admission.demand.prompt) + task.log.tokens
