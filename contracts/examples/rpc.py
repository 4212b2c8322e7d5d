"""Examples of what is said to pool-managerd over its socket.

Decides which calls and answers show a reader of ``docs/rpc.md`` how the two daemons talk, in this order.
"""

from __future__ import annotations

from typing import Any

import msgspec

from contracts import rpc
from contracts.base import Message
from contracts.catalog import CatalogJob, DeleteParams, JobKind, JobState, ModelRef, PutParams, SetStateParams
from contracts.config import Engine, Mode
from contracts.engines import ModelState, Plan, PlanStep
from contracts.examples.base import DIGEST, ENGINE_VERSION, plain
from contracts.examples.pools import MODEL, WELL
from contracts.pools import Endpoint, Gates, GateState, PoolSnapshot, PoolState
from contracts.rpc import Method, RpcCode

EPIC = "/srv/models/epic.gguf"
OK = GateState.OK
HELLO = rpc.Hello(protocol=rpc.PROTOCOL, name="orchestratord", version="0.1.0.dev0")
POOL = PoolSnapshot(
    pool_id="trial",
    revision=5,
    state=PoolState.READY,
    replica_id="trial-0",
    engine=Engine.LLAMACPP,
    provisioning_mode=Mode.PACKAGE,
    model_ref=MODEL,
    ctx_max=512,
    slots=1,
    engine_version=ENGINE_VERSION,
    engine_digest="sha256:78dcbbfcc861ee3377554325dc12864829a76ec3de6f1882886d4a82a2def7f5",
    model_id="haiku",
    model_digest=DIGEST,
    model_state=ModelState.ACTIVE,
    endpoint=Endpoint(url="http://127.0.0.1:57633", api_key="made-for-this-start-of-the-engine"),
    gates=Gates(model=OK, engine=OK, health=OK),
)
JOB = CatalogJob(
    number=1,
    kind=JobKind.PULL,
    model_id="epic",
    asked_id="epic",
    model_ref=EPIC,
    state=JobState.WAITING,
    started_ms=1_796_000_000_000,
)
STEPS = (
    PlanStep(kind="check", detail="check the flags of pool trial"),
    PlanStep(kind="find", detail="find the installed wheel xllamacpp"),
    PlanStep(kind="verify", detail="ask the server of xllamacpp for its version and its flags"),
    PlanStep(kind="identify", detail="compute the sha256 of the server of xllamacpp"),
    PlanStep(kind="record", detail="record the engine in the engine catalog"),
)


class RpcExample(Message, frozen=True, kw_only=True):
    """One line that is sent, and the line that answers it."""

    summary: str
    sent: str
    answer: dict[str, Any]
    new_connection: bool = False
    """Said on a connection of its own, as its first line."""


def _asked(summary: str, method: str, params: Message | dict[str, Any], result: Message) -> RpcExample:
    return RpcExample(
        summary=summary,
        sent=_line({"id": 1, "method": method, "params": plain(params)}),
        answer={"id": 1, "jsonrpc": "2.0", "result": plain(result)},
    )


def _refused(
    summary: str,
    method: str,
    params: Message | dict[str, Any],
    error: tuple[int, str],
    data: dict[str, str] | None = None,
    *,
    new_connection: bool = False,
) -> RpcExample:
    return RpcExample(
        summary=summary,
        sent=_line({"id": 1, "method": method, "params": plain(params)}),
        answer={"id": 1, "jsonrpc": "2.0", "error": {"code": error[0], "message": error[1], "data": data}},
        new_connection=new_connection,
    )


def _line(members: dict[str, Any]) -> str:
    return msgspec.json.encode({"jsonrpc": "2.0", **members}).decode()


def _no_message(summary: str, sent: str, code: int, message: str) -> RpcExample:
    answer = {"id": None, "jsonrpc": "2.0", "error": {"code": code, "message": message, "data": None}}
    return RpcExample(summary=summary, sent=sent, answer=answer)


_FIRST = "the first call of a connection is hello {protocol, name, version}"
_OLDER = "pool-managerd speaks protocol 1.0, orchestratord speaks 2.0: update the older one"
_ONE = rpc.PoolRef(pool_id="trial")
_NEEDED = "give each of them another model in the configuration, or reload it with one; or only retire it"

EXAMPLES = (
    _refused("Anything before hello", Method.POOL_LIST, {}, (RpcCode.HELLO_FIRST, _FIRST), new_connection=True),
    _refused(
        "Another major version: the connection ends",
        Method.HELLO,
        msgspec.structs.replace(HELLO, protocol="2.0"),
        (RpcCode.VERSION_MISMATCH, _OLDER),
        {"ours": "1.0", "theirs": "2.0"},
        new_connection=True,
    ),
    _asked("The first call", Method.HELLO, HELLO, msgspec.structs.replace(HELLO, name="pool-managerd")),
    _asked("Every pool at one revision", Method.POOL_LIST, {}, rpc.PoolSet(revision=5, pools=(POOL,))),
    _asked("How a pool is", Method.POOL_HEALTH, _ONE, WELL),
    _refused(
        "A pool that is none",
        Method.POOL_HEALTH,
        rpc.PoolRef(pool_id="triall"),
        (RpcCode.UNKNOWN_POOL, "no pool 'triall'; there are: trial"),
        {"pool_id": "triall"},
    ),
    _refused(
        "A parameter that is missing",
        Method.POOL_HEALTH,
        {},
        (RpcCode.INVALID_PARAMS, "pool.health: pool_id: the required field 'pool_id' is missing"),
    ),
    _asked("The GPUs", Method.GPU_LIST, {}, rpc.GpuSet(gpus=())),
    _asked("How an engine would be prepared", Method.ENGINE_PLAN, _ONE, Plan(pool_id="trial", steps=STEPS)),
    _asked("What it would lack", Method.ENGINE_PREFLIGHT, _ONE, rpc.Findings(pool_id="trial")),
    _asked("Have a model here", Method.CATALOG_PUT, PutParams(model_ref=EPIC), JOB),
    _refused(
        "What means no model",
        Method.CATALOG_PUT,
        PutParams(model_ref="ftp://host/epic.gguf"),
        (
            RpcCode.INVALID_PARAMS,
            "'ftp:' in the model reference 'ftp://host/epic.gguf' is not one of: file, hf, https, s3, oci",
        ),
        {
            "hint": (
                "valid: a path, or file:///models/name.gguf, hf:org/repo/name.gguf, https://host/name.gguf, "
                "s3://bucket/name.gguf, oci://registry/repository:tag"
            ),
            "field": "model_ref",
        },
    ),
    _asked(
        "Compare a model with its digest",
        Method.CATALOG_VERIFY,
        ModelRef(model_id="haiku"),
        msgspec.structs.replace(
            JOB, number=2, kind=JobKind.VERIFY, model_id="haiku", asked_id="haiku", model_ref=MODEL, engine="llamacpp"
        ),
    ),
    _refused(
        "A model that is none",
        Method.CATALOG_VERIFY,
        ModelRef(model_id="haikku"),
        (RpcCode.NOT_FOUND, "there is no model 'haikku' in the catalog"),
        {"hint": "did you mean 'haiku'?"},
    ),
    _asked(
        "Take a model out of use, or bring it back",
        Method.CATALOG_SET_STATE,
        SetStateParams(model_id="haiku", state=ModelState.ACTIVE),
        rpc.Empty(),
    ),
    _refused(
        "A model that a pool needs",
        Method.CATALOG_DELETE,
        DeleteParams(model_id="haiku"),
        (RpcCode.CONFLICT, "the model haiku is needed by pool trial"),
        {"hint": _NEEDED},
    ),
    _asked("Forget a model", Method.CATALOG_DELETE, DeleteParams(model_id="epic"), rpc.Empty()),
    _asked(
        "Every pool, and from now on each change",
        Method.SUBSCRIBE,
        {},
        rpc.PoolSet(revision=5, pools=(POOL,)),
    ),
    _asked(
        "Whose work a pool's engine does from now on",
        Method.POOL_JOBS,
        rpc.JobsParams(pool_id="trial", correlation_ids=("poem-of-tuesday",)),
        rpc.Empty(),
    ),
    _asked(
        "What the engines say from now on, and so many lines from before",
        Method.POOL_LOG,
        rpc.LogParams(pool_id="trial", lines=0),
        rpc.LogTail(),
    ),
    _asked("No task runs on an engine that is to end", Method.POOL_IDLE, _ONE, rpc.Empty()),
    _asked("Try again now", Method.POOL_RESTART, _ONE, rpc.Empty()),
    _asked(
        "Serve another model",
        Method.POOL_RELOAD,
        rpc.ReloadParams(pool_id="trial", new_model_ref=EPIC, deadline_ms=0),
        rpc.Empty(),
    ),
    _asked("Stop a pool's engine", Method.POOL_DRAIN, rpc.DrainParams(pool_id="trial", deadline_ms=0), rpc.Empty()),
    _no_message("Half a line", "{", RpcCode.PARSE, "malformed JSON: Input data was truncated"),
    _no_message(
        "JSON that is no JSON-RPC",
        '{"method":7}',
        RpcCode.INVALID_REQUEST,
        "no JSON-RPC 2.0 message: Expected `str`, got `int` - at `$.method`",
    ),
)
