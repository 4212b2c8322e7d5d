"""The control plane over HTTP: what there is, how it is, and what an operator can do about it."""

import asyncio
import io
from pathlib import Path
from typing import Any

import msgspec
import pytest

from contracts import openapi, rpc
from contracts.pools import Cause, DeviceUse, PoolError, PoolState
from contracts.rpc import Method
from orchestratord.pools import LinkState
from tests.integration.orchestratord.house import House, house, read_until, tokens_in
from tests.integration.orchestratord.manager import Manager, listening, params
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn
from tests.unit.orchestratord.world import GATES_OK, pool, snapshot

GIB = 1 << 30
USE = (DeviceUse(device="GPU-1", vram_total_bytes=24 * GIB, vram_used_bytes=6 * GIB, utilization=0.25),)


@pytest.mark.req("ORCH-3812")
async def test_capabilities_tell_what_is_there_now(tmp_path: Path) -> None:
    async with StandIn(Knobs(ctx=4096)) as engine, house(tmp_path, None, pool("p"), pool("q", slots=3)) as here:
        before = (await here.get("/v1/capabilities"))["pools"]
        assert [(each["pool_id"], each["ready"], each.get("engine_version")) for each in before] == [
            ("p", False, None),
            ("q", False, None),
        ]
        assert [(each["workloads"], each["features"]) for each in before] == [([], []), ([], [])]
        here.report(engine.url, engine_version="b77", devices=("GPU-1",), ctx_max=8192, engine_digest="sha256:e")
        await here.stream(await here.submit())  # which waits for what the engine says of itself
        told = await here.get("/v1/capabilities")
        assert told["api_version"] == "1.0"
        assert told["profile"] == "trial"
        assert told["policies"] == {
            "outbound_default": "allow",
            "allow_package_installs": False,
            "allow_binary_downloads": False,
            "hook": False,
        }
        assert told["limits"] == {
            "max_body_bytes": 4 << 20,
            "max_streams_per_client": 768,
            "keep_finished": 1000,
            "requests_per_minute": None,
            "tokens_per_minute": None,
        }
        assert told["sessions"] == {
            "ttl_ms": 600_000,
            "max_turns": 8,
            "max_sessions": 1024,
            "token_budget": None,
            "time_budget_ms": None,
        }
        assert told["artifacts"] == {"max_bytes": 256 << 20, "max_age_ms": 604_800_000, "records": True}
        shown = told["pools"][0]
        features = shown.pop("features")
        assert "seed" in features
        assert shown == {
            "pool_id": "p",
            "engine": "llamacpp",
            "engine_version": "b77",
            "engine_digest": "sha256:e",
            "provisioning_mode": "package",
            "model_ref": "file:/models/m.gguf",
            "model_id": "m",
            "model_digest": "sha256:0",
            "ctx_max": 4096,
            "slots": 4,
            "workloads": ["completion", "chat"],
            "sampler_profile_version": "v1",
            "strict": {
                "available": False,
                "why": "strict determinism needs one slot, and pool 'p' has 4",
                "hint": "use a pool with slots: 1, or determinism best_effort",
                "replica_set": None,
            },
            "queue": {"capacity": 8, "policy": "reject", "depth": 0, "batch_share": 0.0},
            "devices": ["GPU-1"],
            "ready": True,
        }


async def test_a_pools_health(tmp_path: Path) -> None:
    stuck = Knobs(fault=Fault.HANG, fault_after=5, tokens=100)
    async with StandIn(stuck) as engine, house(tmp_path, engine.url, report={"slots": 1, "device_use": USE}) as here:
        running, waiting = await here.submit(max_tokens=100), await here.submit()
        assert await here.get("/v1/pools/p/health") == {
            "pool_id": "p",
            "live": True,
            "ready": True,
            "draining": False,
            "state": "ready",
            "gates": {"model": "ok", "engine": "ok", "health": "ok"},
            "restarts": 0,
            "metrics": {
                "queue_depth": 1,
                "active": 1,
                "slots": 1,
                "vram_free_bytes": 18 * GIB,
                "devices": [
                    {"device": "GPU-1", "vram_total_bytes": 24 * GIB, "vram_used_bytes": 6 * GIB, "utilization": 0.25}
                ],
            },
            "model_ref": "file:/models/m.gguf",
            "next_model_ref": None,
            "last_error": None,
            "retry_at_ms": None,
            "managed": True,
        }
        error = PoolError(cause=Cause.ENGINE_EXIT, message="exited with status 1", hint="see the log", at_ms=5)
        here.report(engine.url, state=PoolState.DRAINING, last_error=error, restarts=2, gates=GATES_OK)
        health = await here.get("/v1/pools/p/health")
        assert (health["ready"], health["draining"], health["restarts"]) == (False, True, 2)
        assert health["last_error"] == {
            "cause": "engine_exit",
            "message": "exited with status 1",
            "hint": "see the log",
            "at_ms": 5,
        }
        assert (await here.get(f"/v1/tasks/{waiting}"))["error_code"] == "POOL_UNAVAILABLE"
        assert await here.get("/v1/pools") == {"pools": [health], "managed": True, "notices": []}
        await here.cancel(running)
        here.pools.linked(LinkState.DOWN)  # what is known stays known, and is told as that
        away = await here.get("/v1/pools/p/health")
        assert away | {"metrics": None} == health | {"metrics": None, "managed": False}


# --- operators --------------------------------------------------------------------------------------------------------


async def linked(here: House, group: asyncio.TaskGroup) -> asyncio.Task[None]:
    running = group.create_task(here.link.run())
    while not here.pools.managed:  # noqa: ASYNC110 - the directory tells nobody else
        await asyncio.sleep(0)
    return running


@pytest.mark.parametrize(
    ("path", "body", "method", "asked"),
    [
        ("drain", {"deadline_ms": 7}, Method.POOL_DRAIN, {"pool_id": "p", "deadline_ms": 0}),
        ("drain", None, Method.POOL_DRAIN, {"pool_id": "p", "deadline_ms": 0}),
        (
            "reload",
            {"new_model_ref": "n"},
            Method.POOL_RELOAD,
            {"pool_id": "p", "new_model_ref": "n", "deadline_ms": 30_000},
        ),
        (
            "reload",
            {"new_model_ref": "n", "deadline_ms": 7},
            Method.POOL_RELOAD,
            {"pool_id": "p", "new_model_ref": "n", "deadline_ms": 7},
        ),
    ],
)
async def test_what_an_operator_asks_of_an_idle_pool_reaches_the_manager_and_is_waited_for_by_nothing(
    tmp_path: Path, path: str, body: dict[str, Any] | None, method: Method, asked: dict[str, Any]
) -> None:
    manager = Manager(snapshot("p"))
    async with listening(manager, tmp_path / "manager.sock"), house(tmp_path) as here, asyncio.TaskGroup() as group:
        running = await linked(here, group)
        async with here.client.post(f"/v1/pools/p/{path}", json=body) as answer:
            assert answer.status == 202
            assert (await answer.json())["pool_id"] == "p"
        assert manager.asked[-1].method == method
        assert params(manager.asked[-1]).items() >= asked.items()
        assert (await here.get("/v1/pools"))["managed"] is True
        running.cancel()


@pytest.mark.parametrize(("body", "deadline_ms"), [({"deadline_ms": 7}, 7), (None, 30_000)])
async def test_running_work_gets_the_time_that_the_operator_gives_it(
    tmp_path: Path, body: dict[str, Any] | None, deadline_ms: int
) -> None:
    manager = Manager(snapshot("p"))
    socket = tmp_path / "manager.sock"
    async with (
        StandIn(Knobs(fault=Fault.HANG, fault_after=5, tokens=100)) as engine,
        listening(manager, socket),
        house(tmp_path, engine.url) as here,
        asyncio.TaskGroup() as group,
    ):
        task = await here.submit()
        await engine.until(lambda stats: stats.running == 1)
        here.pools.managed = False  # the house said so of itself; from here on it is the link's word
        running = await linked(here, group)
        async with here.client.post("/v1/pools/p/drain", json=body) as answer:
            assert answer.status == 202, await answer.text()
        [drain] = [each for each in manager.asked if each.method == Method.POOL_DRAIN]  # it hears of the jobs, too
        assert params(drain)["deadline_ms"] == deadline_ms
        await here.cancel(task)
        running.cancel()


@pytest.mark.parametrize(
    ("rpc_code", "status", "code"),
    [
        (rpc.RpcCode.UNKNOWN_POOL, 404, "NOT_FOUND"),
        (rpc.RpcCode.CONFLICT, 409, "CONFLICT"),
        (rpc.RpcCode.INVALID_PARAMS, 400, "INVALID_PARAMS"),
        (rpc.RpcCode.INTERNAL, 500, "INTERNAL"),
    ],
)
async def test_what_the_manager_refuses_is_told(tmp_path: Path, rpc_code: int, status: int, code: str) -> None:
    manager = Manager(snapshot("p"))
    manager.answers[Method.POOL_DRAIN] = lambda request: rpc.refusal(request.id, rpc_code, "not like this")
    async with listening(manager, tmp_path / "manager.sock"), house(tmp_path) as here, asyncio.TaskGroup() as group:
        running = await linked(here, group)
        async with here.client.post("/v1/pools/p/drain") as answer:
            told = await answer.json()
            assert (answer.status, told["code"], told["message"]) == (status, code, "not like this")
        running.cancel()


async def test_a_reload_that_fits_no_frame_is_the_clients_mistake(tmp_path: Path) -> None:
    manager = Manager(snapshot("p"))
    async with listening(manager, tmp_path / "manager.sock"), house(tmp_path) as here, asyncio.TaskGroup() as group:
        running = await linked(here, group)
        body = msgspec.json.encode({"new_model_ref": "x" * rpc.MAX_FRAME_BYTES})
        async with here.client.post("/v1/pools/p/reload", data=io.BytesIO(body)) as answer:
            told = await answer.json()
            assert (answer.status, told["code"], told["field"]) == (400, "INVALID_PARAMS", "new_model_ref")
            assert manager.asked[-1].method != Method.POOL_RELOAD
        running.cancel()


async def test_the_managers_absence_is_shown(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        assert (await here.get("/v1/pools"))["managed"] is False


# --- metrics and documents --------------------------------------------------------------------------------------------

SERIES = {
    "queue_depth": ("gauge", {"engine", "engine_version", "pool_id", "priority"}),
    "tasks_enqueued_total": ("counter", {"engine", "engine_version", "pool_id", "replica_id", "priority"}),
    "tasks_started_total": ("counter", {"engine", "engine_version", "pool_id", "replica_id", "priority"}),
    "tasks_rejected_total": ("counter", {"engine", "reason"}),
    "tasks_canceled_total": ("counter", {"engine", "engine_version", "pool_id", "replica_id", "reason"}),
    "tokens_in_total": ("counter", {"engine", "engine_version", "pool_id", "replica_id"}),
    "tokens_out_total": ("counter", {"engine", "engine_version", "pool_id", "replica_id"}),
    "gpu_utilization": ("gauge", {"engine", "engine_version", "pool_id", "replica_id", "device"}),
    "vram_used_bytes": ("gauge", {"engine", "engine_version", "pool_id", "replica_id", "device"}),
    "model_state": ("gauge", {"model_id", "state"}),
    "latency_first_token_ms": ("histogram", {"engine", "engine_version", "pool_id", "priority"}),
    "latency_decode_ms": ("histogram", {"engine", "engine_version", "pool_id", "priority"}),
    "admission_backpressure_events_total": ("counter", {"engine", "policy"}),
    "placement_decisions_total": ("counter", {"outcome", "pinned", "fallback"}),
    "engine_restarts_total": ("counter", {"pool_id", "cause"}),
    "prediction_error_ms": ("gauge", {"pool_id", "quantile"}),
}


def series_of(page: str) -> tuple[dict[str, str], dict[str, set[str]]]:
    """The types and the label names of every series on the page."""
    types: dict[str, str] = {}
    labels: dict[str, set[str]] = {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif line and not line.startswith("#"):
            name, _, rest = line.partition("{")
            names = {each.split("=")[0] for each in rest.partition("}")[0].split(",") if "=" in each}
            labels.setdefault(name.removesuffix("_bucket"), set()).update(names - {"le"})
    return types, labels


async def test_the_metrics_have_the_names_types_and_labels_of_the_contract(tmp_path: Path) -> None:
    small = pool()
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url, small, report={"device_use": USE}) as here:
        await here.stream(await here.submit())
        engine.set(Knobs(fault=Fault.HANG, fault_after=5, tokens=100))
        ids = [await here.submit(max_tokens=100) for _ in range(4 + 8)]
        async with here.client.get(f"/v1/tasks/{ids[0]}/stream") as answer:
            await read_until(answer, lambda got: tokens_in(got) == 5)
        async with here.client.post("/v1/tasks", json={"model_ref": "m", "prompt": "x"}) as answer:
            assert answer.status == 429
        for task_id in ids:
            await here.cancel(task_id)
        here.report(engine.url, restarts=1, device_use=USE)
        async with here.client.get("/metrics") as answer:
            assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            page = await answer.text()
    types, labels = series_of(page)
    assert {name: (types.get(name), labels.get(name, set())) for name in SERIES} == SERIES
    assert not [name for name in types if name.endswith("_created")]
    for secret in (*ids, "hello", "127.0.0.1"):
        assert secret not in page, "no task, prompt or path is a label"
    assert 'queue_depth{engine="llamacpp",engine_version="b1",pool_id="p",priority="batch"} 0.0' in page
    assert (
        'gpu_utilization{device="GPU-1",engine="llamacpp",engine_version="b1",pool_id="p",replica_id="p-0"} 0.25'
        in page
    )


@pytest.mark.req("HP-27")
async def test_the_served_document_is_the_generated_one(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        assert await here.get("/openapi.json") == msgspec.json.decode(msgspec.json.encode(openapi.document()))
