"""Examples of what there is and how it is: probes, documents, capabilities, pools.

Decides which requests and answers show what an operator meets.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from contracts.config import Engine, FullPolicy, Mode, Profile
from contracts.errors import ErrorCode
from contracts.examples.base import DIGEST, ENGINE_VERSION, Example, Given, refusal
from contracts.pools import (
    ArtifactPolicy,
    Capabilities,
    Capability,
    Cause,
    Gates,
    GateState,
    LimitInfo,
    PolicyInfo,
    PoolError,
    PoolHealth,
    PoolList,
    PoolMetrics,
    PoolState,
    QueueInfo,
    SessionPolicy,
    StrictInfo,
)
from contracts.tasks import Workload

HEALTH: dict[str, Any] = {
    "method": "get",
    "path": "/v1/pools/{pool_id}/health",
    "parameters": {"pool_id": "trial"},
}
DRAIN = HEALTH | {"method": "post", "path": "/v1/pools/{pool_id}/drain"}
RELOAD = HEALTH | {"method": "post", "path": "/v1/pools/{pool_id}/reload"}
UNKNOWN = {"parameters": {"pool_id": "triall"}}

MODEL = "/srv/models/haiku.gguf"
OK = GateState.OK
WELL = PoolHealth(
    pool_id="trial",
    live=True,
    ready=True,
    draining=False,
    state=PoolState.READY,
    gates=Gates(model=OK, engine=OK, health=OK),
    restarts=0,
    metrics=PoolMetrics(queue_depth=0, active=0, slots=1),
    model_ref=MODEL,
)
CRASHED = replace(
    WELL,
    live=False,
    ready=False,
    state=PoolState.BROKEN,
    gates=Gates(model=OK, engine=GateState.FAILED),
    last_error=PoolError(
        cause=Cause.ENGINE_BUILD, message="cmake failed", hint="install the CUDA toolkit", at_ms=1_796_000_000_000
    ),
)
CAPABILITY = Capability(
    pool_id="trial",
    engine=Engine.LLAMACPP,
    provisioning_mode=Mode.PACKAGE,
    model_ref=MODEL,
    ctx_max=512,
    slots=1,
    workloads=(Workload.COMPLETION, Workload.CHAT),
    features=("seed", "stop", "json_schema", "grammar", "tokenize", "cache_prompt", "cancel_on_close"),
    sampler_profile_version="v1",
    queue=QueueInfo(capacity=64, policy=FullPolicy.REJECT, depth=0),
    devices=(),
    ready=True,
    engine_version=ENGINE_VERSION,
    engine_digest="sha256:78dcbbfcc861ee3377554325dc12864829a76ec3de6f1882886d4a82a2def7f5",
    model_id="haiku",
    model_digest=DIGEST,
    strict=StrictInfo(available=True, replica_set="set-64f1f2d8f0c3a5b7"),
)
NO_POOL = refusal(ErrorCode.NOT_FOUND, "there is no pool 'triall'", "did you mean 'trial'?")
AWAY = refusal(ErrorCode.POOL_UNAVAILABLE, "pool-managerd cannot be reached", "systemctl --user status pool-managerd")
MISTAKE = refusal(ErrorCode.INTERNAL, "KeyError; the log of pool-managerd has the details")

EXAMPLES = (
    Example(
        name="answers",
        summary="The daemon answers",
        method="get",
        path="/healthz",
        status=200,
        authorization="",
        answer={"status": "ok"},
    ),
    Example(
        name="page",
        summary="The beginning of the page",
        method="get",
        path="/metrics",
        status=200,
        answer=(
            "# HELP tasks_enqueued_total Tasks that entered a queue\n"
            "# TYPE tasks_enqueued_total counter\n"
            "# HELP tasks_started_total Tasks that got a slot\n"
            "# TYPE tasks_started_total counter\n"
        ),
        media="text/plain",
        partial=True,
    ),
    Example(
        name="document",
        summary="The beginning of the document",
        method="get",
        path="/openapi.json",
        status=200,
        answer={"openapi": "3.1.0"},
        partial=True,
    ),
    Example(
        name="one-pool",
        summary="One pool, and what its engine says of itself",
        given=Given.TASK_ENDED,
        method="get",
        path="/v1/capabilities",
        status=200,
        answer=Capabilities(
            api_version="1.0",
            profile=Profile.TRIAL,
            policies=PolicyInfo(outbound_default="allow", allow_package_installs=False, allow_binary_downloads=False),
            pools=(CAPABILITY,),
            limits=LimitInfo(max_body_bytes=4 * 1024 * 1024, max_streams_per_client=768, keep_finished=1_000),
            sessions=SessionPolicy(ttl_ms=600_000, max_turns=8, max_sessions=1_024),
            artifacts=ArtifactPolicy(max_bytes=256 * 1024 * 1024, max_age_ms=604_800_000, records=True),
            version="0.1.0",
        ),
    ),
    Example(
        name="one-pool",
        summary="One pool that serves",
        method="get",
        path="/v1/pools",
        status=200,
        answer=PoolList(pools=(WELL,), managed=True),
    ),
    Example(**HEALTH, name="ready", summary="A pool that serves", status=200, answer=WELL),
    Example(
        **HEALTH,
        name="broken",
        summary="One that does not, and why",
        given=Given.NO_ENGINE,
        status=200,
        answer=CRASHED,
    ),
    Example(**HEALTH | UNKNOWN, name="unknown", summary="A pool that is none", status=404, answer=NO_POOL),
    Example(
        **DRAIN,
        name="in-five-seconds",
        summary="Running work has five seconds",
        status=202,
        body={"deadline_ms": 5000},
        answer=WELL,
    ),
    Example(
        **DRAIN,
        name="negative",
        summary="A time that is none",
        status=400,
        body={"deadline_ms": -1},
        answer=refusal(ErrorCode.INVALID_PARAMS, "deadline_ms: expected int >= 0", field="deadline_ms"),
    ),
    Example(**DRAIN | UNKNOWN, name="unknown", summary="A pool that is none", status=404, answer=NO_POOL),
    Example(
        **DRAIN,
        name="mistake",
        summary="A mistake of pool-managerd's own",
        given=Given.MANAGER_FAILS,
        status=500,
        answer=MISTAKE,
    ),
    Example(
        **DRAIN,
        name="no-manager",
        summary="Nobody there to do it",
        given=Given.NO_MANAGER,
        status=503,
        answer=AWAY,
    ),
    Example(
        **RELOAD,
        name="another-model",
        summary="Another model, proved before the old one goes",
        given=Given.FILE,
        status=202,
        body={"new_model_ref": "/srv/models/epic.gguf"},
        answer=WELL,
    ),
    Example(
        **RELOAD,
        name="no-model",
        summary="Without a model",
        status=400,
        body={},
        answer=refusal(
            ErrorCode.INVALID_PARAMS,
            "new_model_ref: the required field 'new_model_ref' is missing",
            field="new_model_ref",
        ),
    ),
    Example(
        **RELOAD | UNKNOWN,
        name="unknown",
        summary="A pool that is none",
        status=404,
        body={"new_model_ref": "/srv/models/epic.gguf"},
        answer=NO_POOL,
    ),
    Example(
        **RELOAD,
        name="mistake",
        summary="A mistake of pool-managerd's own",
        given=Given.MANAGER_FAILS,
        status=500,
        body={"new_model_ref": "/srv/models/epic.gguf"},
        answer=MISTAKE,
    ),
    Example(
        **RELOAD,
        name="no-manager",
        summary="Nobody there to do it",
        given=Given.NO_MANAGER,
        status=503,
        body={"new_model_ref": "/srv/models/epic.gguf"},
        answer=AWAY,
    ),
)
