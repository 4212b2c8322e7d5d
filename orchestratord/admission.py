"""Whether a task may enter the queue, and which pools may run it.

Decides from the request and from what is known of the pools; answers with the eligible pools or with a refusal that
names the field, the numbers and the mend. Never queues, never looks at a clock, never asks an engine. Whether it fits
into a context, ``context`` decides; what an engine can be asked for, ``parameters`` knows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from adapters import drawing, parameters, schemas
from contracts.base import nearest
from contracts.config import FullPolicy, Mode
from contracts.engines import ModelState
from contracts.errors import ErrorCode
from contracts.labels import PolicyLabel
from contracts.pools import Cause, GateState, PoolSnapshot, PoolState
from contracts.tasks import Determinism, PlacementMode, TaskRequest, Workload
from orchestratord import determinism
from orchestratord.backlog import Full
from orchestratord.context import certainly_fits
from orchestratord.rates import Wait

COMING = frozenset(
    {
        PoolState.STAGING_MODEL,
        PoolState.ENSURING_ENGINE,
        PoolState.STARTING,
        PoolState.PROBING,
        PoolState.READY,
        PoolState.RELOADING,
    }
)
"""States in which a pool serves or is on its way there, so that waiting for it makes sense."""

RECOVERING = frozenset({PoolState.FAILED, PoolState.BACKOFF})
"""States after a failure from which a pool comes back by itself, when its model and its engine are there."""

FAILING = RECOVERING | {PoolState.BROKEN, PoolState.QUARANTINED}
"""States that the pool's last error explains; in any other it is history."""


class PoolView(msgspec.Struct, frozen=True, kw_only=True):
    """One pool as admission sees it."""

    snapshot: PoolSnapshot
    workloads: tuple[Workload, ...]
    """What it serves; before its engine said so, what it may turn out to serve."""
    features: tuple[str, ...] | None = None
    """What its engine was found to have; None before it said so."""
    mute: str | None = None
    """Why its engine will not say what it serves."""

    @property
    def accepts(self) -> bool:
        """Whether tasks may queue for it: it serves, or will soon without anybody's help.

        A pool that backs off after its engine crashed comes back by itself; one whose model or engine cannot be had
        does not, and to queue for it would be a promise that nobody keeps.
        """
        snapshot = self.snapshot
        if silence(self) is not None:
            return False
        missing = GateState.FAILED in {snapshot.gates.model, snapshot.gates.engine}
        return snapshot.state in COMING or (snapshot.state in RECOVERING and not missing)


class Eligible(msgspec.Struct, frozen=True):
    """These pools may run the task."""

    pools: tuple[PoolView, ...]

    @property
    def ids(self) -> frozenset[str]:
        """Their ids."""
        return frozenset(view.snapshot.pool_id for view in self.pools)


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The task may not enter, and what the client is told."""

    code: ErrorCode
    message: str
    hint: str | None = None
    field: str | None = None
    pool_id: str | None = None
    engine: str | None = None
    retry_after_ms: int | None = None
    policy_label: PolicyLabel | None = None
    retriable: bool | None = None
    """Whether the same may succeed later; None: as its code says."""


def eligible(request: TaskRequest, views: Sequence[PoolView], now_ms: int) -> Eligible | Refusal:
    """The pools that may run ``request``, or why there are none. ``now_ms``: Unix milliseconds, for the back-off."""
    wrong = wrong_input(request)
    if wrong is not None:
        return wrong
    serving = [view for view in views if serves(view.snapshot, request.model_ref)]
    if not serving:
        return _unknown(request.model_ref, views, now_ms)
    serving = [view for view in serving if not is_retired(view.snapshot)] or serving
    if is_retired(serving[0].snapshot):
        return _retired(request, serving[0].snapshot)
    wanted = _wanted(request, serving, now_ms)
    if isinstance(wanted, Refusal):
        return wanted
    obstacles = [obstacle(request, view) for view in wanted]
    able = [view for view, found in zip(wanted, obstacles, strict=True) if found is None]
    if not able:
        return next(found for found in obstacles if found is not None)
    open_now = tuple(view for view in able if view.accepts)
    return Eligible(open_now) if open_now else _unready(able, now_ms)


def obstacle(request: TaskRequest, view: PoolView) -> Refusal | None:
    """Why this pool can never run this request."""
    pool = view.snapshot
    if request.engine is not None and request.engine is not pool.engine:
        text = f"the model is served by {pool.engine}, not by {request.engine}"
        return _invalid("engine", text, "leave engine out")
    if request.workload not in view.workloads:
        able = ", ".join(view.workloads) or "nothing that this version can ask for"
        text = f"workload {request.workload} is not served by pool {pool.pool_id!r}"
        return _invalid("workload", text, f"it serves: {able}")
    if request.ctx is not None and request.ctx > pool.ctx_max:
        return _invalid("ctx", f"ctx {request.ctx} exceeds the pool's {pool.ctx_max}", f"at most {pool.ctx_max}")
    version = request.sampler_profile_version
    if version is not None and version != pool.sampler_profile_version:
        text = f"the pool has sampler profile {pool.sampler_profile_version!r}, not {version!r}"
        return _invalid("sampler_profile_version", text, "leave it out, or name the pool's")
    asked = parameters.asked_by(request)
    found = parameters.obstacle(pool.engine, request.workload, asked, view.features) or drawing.unkept(
        pool.sampler_profile_version, pool.engine, request.workload, request.sampling
    )
    if found is not None:
        return msgspec.structs.replace(_invalid(found.field, found.message, found.hint), engine=pool.engine)
    if request.determinism is Determinism.STRICT:
        reason = determinism.unable(pool, request.workload, view.features)
        return None if reason is None else _invalid("determinism", reason.message, reason.hint)
    return None


def joins(request: TaskRequest, view: PoolView) -> bool:
    """Whether a waiting task may run on this pool too, which was not in service or served something else when it came.

    A prompt that would have to be counted for this pool's context is not: its task stays where it is.
    """
    placement, pool_id = request.placement, view.snapshot.pool_id
    wished = placement.pool_id == pool_id if placement.mode is PlacementMode.PIN else pool_id not in placement.avoid
    fit = serves(view.snapshot, request.model_ref) and certainly_fits(request, view.snapshot.ctx_max)
    return wished and fit and view.accepts and not is_retired(view.snapshot) and obstacle(request, view) is None


def silence(view: PoolView) -> Refusal | None:
    """Why nothing is sent to a pool that runs: its engine will not say what it serves."""
    if view.mute is None or not view.snapshot.ready:
        return None
    return Refusal(
        code=ErrorCode.POOL_UNREADY,
        message=f"pool {view.snapshot.pool_id!r} runs and does not say what it serves: {view.mute}",
        hint="correct the pool's model, URL or key; it is asked again and again",
        pool_id=view.snapshot.pool_id,
        engine=view.snapshot.engine,
    )


def serves(snapshot: PoolSnapshot, model_ref: str) -> bool:
    """Whether a pool serves a model: by its reference, its short id or its digest."""
    return model_ref in {snapshot.model_ref, snapshot.model_id, snapshot.model_digest}


def is_retired(snapshot: PoolSnapshot) -> bool:
    """Whether the pool's model was taken out of use: it may still serve, but gets no new work."""
    refused = snapshot.last_error is not None and snapshot.last_error.cause is Cause.MODEL_RETIRED
    return snapshot.model_state is ModelState.RETIRED or (refused and snapshot.state in FAILING)


def wrong_input(request: TaskRequest) -> Refusal | None:
    """What is wrong with the request by itself, whatever the pools."""
    wrong = _wrong_texts(request)
    if wrong is not None:
        return wrong
    placement = request.placement
    if placement.mode is PlacementMode.PIN and placement.pool_id is None:
        return _invalid("placement.pool_id", "a pin needs the id of a pool", "GET /v1/pools lists them")
    if placement.mode is not PlacementMode.PIN and placement.pool_id is not None:
        return _invalid("placement.pool_id", "pool_id goes with mode pin only", 'use "mode": "pin", or prefer: [..]')
    if request.sampling.json_schema is not None and request.sampling.grammar is not None:
        return _invalid("sampling.grammar", "json_schema and grammar exclude each other", "keep one of them")
    found = None if request.sampling.json_schema is None else schemas.flaw(request.sampling.json_schema)
    return None if found is None else _invalid("sampling.json_schema", f"{found.where}: {found.what}", found.hint)


def context_refusal(request: TaskRequest, prompt_tokens: int, ctx_max: int) -> Refusal:
    """What a client is told whose prompt, or whose prompt and answer together, do not fit."""
    if request.inputs is not None:
        what = "query and document have" if request.workload is Workload.RERANK else "an input has"
        hint = "shorten it, cut it into several inputs, or use a model or pool with a larger context"
        return _invalid("inputs", f"{what} {prompt_tokens} tokens and the context holds {ctx_max}", hint)
    if prompt_tokens + 1 > ctx_max:
        field = "messages" if request.messages is not None else "prompt"
        hint = f"shorten it to at most {ctx_max - 1} tokens, or use a model or pool with a larger context"
        return _invalid(field, f"the prompt has {prompt_tokens} tokens and the context holds {ctx_max}", hint)
    text = f"{prompt_tokens} prompt tokens and max_tokens {request.max_tokens} exceed the context of {ctx_max}"
    return _invalid("max_tokens", text, f"ask for at most {ctx_max - prompt_tokens}, or leave max_tokens out")


def queue_full(place: Full, engine: str, retry_after_ms: int) -> Refusal:
    """429: what the pool's policy is called, and when a place comes free."""
    dropping = place.policy is FullPolicy.DROP_LRU
    return Refusal(
        code=ErrorCode.QUEUE_FULL_DROP_LRU if dropping else ErrorCode.ADMISSION_REJECT,
        message=f"the queue of pool {place.pool_id!r} is full",
        hint="send it again after retry_after_ms; queue.capacity of the pool sets the bound",
        pool_id=place.pool_id,
        engine=engine,
        retry_after_ms=retry_after_ms,
        policy_label=PolicyLabel(place.policy),
    )


def evicted(charged_to: str, engine: str, retry_after_ms: int) -> Refusal:
    """What a waiting task is told that gave way to a newer one."""
    return Refusal(
        code=ErrorCode.QUEUE_FULL_DROP_LRU,
        message="a newer task took this one's place in the full queue",
        hint="send the task again later",
        pool_id=charged_to,
        engine=engine,
        retry_after_ms=retry_after_ms,
        policy_label=PolicyLabel.DROP_LRU,
    )


def rated(request: TaskRequest, prompt_tokens: float, expected_new: float) -> int:
    """The tokens that a task counts in its client's rate, until it is known how many they were."""
    return round(prompt_tokens) + (round(expected_new) if request.max_tokens is None else request.max_tokens)


def over_rate(wait: Wait) -> Refusal:
    """429: which limit of the configuration, and when its bucket has refilled enough."""
    what = "tasks" if wait.limit == "requests_per_minute" else "tokens"
    return Refusal(
        code=ErrorCode.ADMISSION_REJECT,
        message=f"this client has used up its {wait.per_minute} {what} a minute",
        hint=f"send it again after retry_after_ms; limits.{wait.limit} sets the limit",
        retry_after_ms=wait.wait_ms,
        policy_label=PolicyLabel(wait.limit),
    )


def outage(views: Sequence[PoolView], limit_ms: float) -> Refusal:
    """What a task is told all of whose pools were out of service for too long; ``views`` are these pools."""
    snapshots = [view.snapshot for view in views]
    states = ("ready and does not answer" if each.ready else str(each.state) for each in snapshots)
    pools = ", ".join(f"{each.pool_id!r} is {state}" for each, state in zip(snapshots, states, strict=True))
    first = snapshots[0]
    return Refusal(
        code=ErrorCode.POOL_UNREADY,
        message=f"no pool has served this task for {limit_ms:.0f} ms: {pools}",
        hint=f"GET /v1/pools/{first.pool_id}/health shows why; timeouts.start_ms of the pool sets how long tasks wait",
        pool_id=first.pool_id,
        engine=first.engine,
    )


# --- inside -----------------------------------------------------------------------------------------------------------

_TEXTS_OF = {
    Workload.COMPLETION: ("prompt",),
    Workload.CHAT: ("messages",),
    Workload.EMBEDDING: ("inputs",),
    Workload.RERANK: ("prompt", "inputs"),
}


def _wrong_texts(request: TaskRequest) -> Refusal | None:
    """What is wrong with the texts of a request, and with what stands beside them."""
    workload, needed = request.workload, _TEXTS_OF[request.workload]
    given = [name for name in ("prompt", "inputs", "messages") if getattr(request, name) is not None]
    if set(given) != set(needed):
        missing = [name for name in needed if name not in given]
        wanted = "'prompt' (the query) and 'inputs' (the documents)" if workload is Workload.RERANK else repr(needed[0])
        text = f"workload {workload} takes {wanted} and nothing else; got {', '.join(given) or 'none'}"
        chat = 'messages go with "workload": "chat"' if given == ["messages"] else None
        return _invalid(missing[0] if missing else next(name for name in given if name not in needed), text, chat)
    if request.inputs is None:
        return None
    if not request.inputs:
        return _invalid("inputs", f"workload {workload} without inputs has nothing to answer", "give at least one text")
    drawing = [parameter.field for parameter in parameters.asked_of(request.sampling)]
    drawing += [name for name in ("max_tokens", "expected_tokens") if getattr(request, name) is not None]
    if drawing:
        return _invalid(drawing[0], f"workload {workload} draws no tokens and takes no {drawing[0]}", "leave it out")
    return None


def _invalid(field: str, message: str, hint: str | None = None) -> Refusal:
    return Refusal(code=ErrorCode.INVALID_PARAMS, message=message, hint=hint, field=field)


def _unknown(model_ref: str, views: Sequence[PoolView], now_ms: int) -> Refusal:
    """No pool has this model, or none is known to: what a pool calls its own shows when it has been looked at."""
    unseen = [view for view in views if _unseen(view.snapshot)]
    if unseen and _SHORT.fullmatch(model_ref):
        found = _unready(unseen, now_ms)
        text = f"no pool is known to serve the model {model_ref!r} yet: {found.message}"
        return msgspec.structs.replace(found, message=text)
    models = sorted({view.snapshot.model_id or view.snapshot.model_ref for view in views})
    text = f"no pool serves the model {model_ref!r}"
    return Refusal(code=ErrorCode.MODEL_UNAVAILABLE, message=text, hint=nearest(model_ref, models), field="model_ref")


_SHORT = re.compile(r"[A-Za-z0-9._-]+|sha256:[0-9a-f]+")
"""What the id or the digest of a model may be; anything else is a reference, which is known from the beginning."""


def _unseen(snapshot: PoolSnapshot) -> bool:
    """Whether a pool's model has an id and a digest that are not known yet. One that somebody else runs has none."""
    return snapshot.model_id is None and not snapshot.ready and snapshot.provisioning_mode is not Mode.EXTERNAL


def _wanted(request: TaskRequest, serving: list[PoolView], now_ms: int) -> list[PoolView] | Refusal:
    """The pools left by the client's placement wish."""
    placement = request.placement
    if placement.mode is PlacementMode.PIN:
        pinned = [view for view in serving if view.snapshot.pool_id == placement.pool_id]
        if pinned:
            return pinned if pinned[0].snapshot.ready else _unready(pinned, now_ms)
        ids = nearest(str(placement.pool_id), [view.snapshot.pool_id for view in serving])
        text = f"pool {placement.pool_id!r} does not serve {request.model_ref!r}"
        return Refusal(code=ErrorCode.POOL_UNAVAILABLE, message=text, hint=ids, field="placement.pool_id")
    left = [view for view in serving if view.snapshot.pool_id not in placement.avoid]
    if not left:
        text = "every pool that serves this model is to be avoided"
        return Refusal(code=ErrorCode.POOL_UNAVAILABLE, message=text, hint="shorten avoid", field="placement.avoid")
    return left


def _retired(request: TaskRequest, snapshot: PoolSnapshot) -> Refusal:
    """A model that was taken out of use gets no new task, also where an engine still has it: what runs may finish."""
    why = f": {snapshot.last_error.message}" if snapshot.last_error is not None else ""
    text = f"the model {request.model_ref!r} is Retired{why}"
    hint = 'use another model; POST /v1/catalog/models/{id}/state {"state": "Active"} brings this one back'
    return Refusal(
        code=ErrorCode.MODEL_UNAVAILABLE, message=text, hint=hint, field="model_ref", pool_id=snapshot.pool_id
    )


def _unready(views: Sequence[PoolView], now_ms: int) -> Refusal:
    """All able pools are out of service: say why, and when to come back where that is known."""
    silent = next((found for view in views if (found := silence(view)) is not None), None)
    if silent is not None:
        return silent
    retries = [view for view in views if view.snapshot.retry_at_ms is not None]
    chosen = min(retries, key=lambda view: view.snapshot.retry_at_ms or 0, default=views[0]).snapshot
    # What went wrong before says nothing of a pool that somebody drains.
    error = chosen.last_error if chosen.state in FAILING else None
    text = f"pool {chosen.pool_id!r} is {chosen.state}" + (f": {error.message}" if error is not None else "")
    hint = error.hint if error is not None else f"GET /v1/pools/{chosen.pool_id}/health shows its state"
    retry = None if chosen.retry_at_ms is None else max(0, chosen.retry_at_ms - now_ms)
    return Refusal(
        code=ErrorCode.POOL_UNREADY,
        message=text,
        hint=hint,
        pool_id=chosen.pool_id,
        engine=chosen.engine,
        retry_after_ms=retry,
        retriable=lasting(views),
    )


def lasting(views: Sequence[PoolView]) -> bool | None:
    """False where every one of these pools is broken: a person has to mend them, and then ask for a start."""
    return False if all(view.snapshot.state is PoolState.BROKEN for view in views) else None
