"""What real daemons tell of a whole life: metrics, log lines and correlation ids, before real engines."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from contracts import rpc
from contracts.metrics import SERIES, SeriesKind
from contracts.pools import DeviceUse, Endpoint, PoolSnapshot
from llama_orch.trial import haiku_model_path
from tests.integration.orchestratord.exposition import families, wrong_with
from tests.integration.orchestratord.house import house
from tests.integration.pool_managerd.support import Peer
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import WIRES, StandIn
from tests.support.installation import Installation
from tests.support.waiting import looked_for
from tests.unit.orchestratord.world import snapshot

ROOT = Path(__file__).parents[3]
PROMTOOL_SAYS = {
    "latency_decode_ms metric names should not contain abbreviated units",
    "latency_first_token_ms metric names should not contain abbreviated units",
    "prediction_error_ms metric names should not contain abbreviated units",
    'prediction_error_ms non-summary metrics should not have "quantile" label',
}
"""What it says of names and labels that are a contract."""

# As the interface has them, written down here once more: a name that changes in the product changes nothing here.
CONTRACT = """
gauge queue_depth{engine,engine_version,pool_id,priority}
counter tasks_enqueued_total{engine,engine_version,pool_id,replica_id,priority}
counter tasks_started_total{engine,engine_version,pool_id,replica_id,priority}
counter tasks_rejected_total{engine,reason}
counter tasks_canceled_total{engine,engine_version,pool_id,replica_id,reason}
counter tokens_in_total{engine,engine_version,pool_id,replica_id}
counter tokens_out_total{engine,engine_version,pool_id,replica_id}
gauge gpu_utilization{engine,engine_version,pool_id,replica_id,device}
gauge vram_used_bytes{engine,engine_version,pool_id,replica_id,device}
gauge model_state{model_id,state}
gauge kv_cache_usage_ratio{engine,engine_version,pool_id,replica_id}
histogram latency_first_token_ms{engine,engine_version,pool_id,priority}
histogram latency_decode_ms{engine,engine_version,pool_id,priority}
counter admission_backpressure_events_total{engine,policy}
counter placement_decisions_total{outcome,pinned,fallback}
counter catalog_verifications_total{result,reason,engine}
counter engine_restarts_total{pool_id,cause}
gauge prediction_error_ms{pool_id,quantile}
"""


class Home(Installation):
    """An installation with a second pool: an engine that does what a test tells it to."""

    def __init__(self, root: Path, engine: StandIn) -> None:
        super().__init__(root, haiku_model_path())
        self.far = engine
        document = json.loads(self.config.read_text())
        document["pools"].append(
            {
                "id": "far",
                "engine": "vllm",
                "model": engine.knobs.model,
                "queue": {"capacity": 1},
                "provisioning": {"mode": "external", "external": {"url": engine.url}},
            }
        )
        self.config.write_text(json.dumps(document))

    async def post(self, path: str, body: dict[str, Any], name: str = "corr") -> tuple[int, dict[str, Any]]:
        headers = {"X-Correlation-Id": name}
        async with self.http.post(path, json=body, headers=headers) as answer:
            assert answer.headers["X-Correlation-Id"] == name
            return answer.status, (await answer.json() if answer.content_type == "application/json" else {})

    async def submit(self, name: str, **changes: Any) -> tuple[int, dict[str, Any]]:  # noqa: ANN401 - any field
        far = {"model_ref": self.far.knobs.model, "placement": {"mode": "pin", "pool_id": "far"}}
        return await self.post("/v1/tasks", {"prompt": "hello", "max_tokens": 8} | far | changes, name)

    async def ended(self, name: str) -> dict[str, Any]:
        """The log line of a task's end."""
        return await self.orchestrator.logged(" ended: ", f'"{name}"')

    def told(self, name: str) -> list[dict[str, Any]]:
        """Every line of orchestratord with this correlation id."""
        lines = map(json.loads, self.orchestrator.lines)
        return [line for line in lines if line.get("correlation_id") == name]


@asynccontextmanager
async def home_at(root: Path, orchestratord: str = "orchestratord") -> AsyncIterator[Home]:
    async with StandIn(Knobs(slots=4), WIRES["vllm"]) as engine, Home(root, engine) as home:
        home.orchestrator.module = orchestratord
        await home.up()
        await home.orchestrator.logged("pool far is ready")
        yield home


async def traffic(home: Home) -> None:
    """Something of every kind: done, canceled, failed, refused, dropped, verified, restarted, reloaded."""
    await home.run({"prompt": "Once", "max_tokens": 16})
    home.far.set(Knobs(slots=4, fault=Fault.HANG, fault_after=2))
    _, running = await home.submit("canceled")
    await home.far.until(lambda stats: stats.tokens >= 2)
    _, waiting = await home.submit("waiting")
    status, refused = await home.submit("full")
    assert (status, refused["code"]) == (429, "ADMISSION_REJECT")
    assert (await home.submit("wrong", model_ref="nobody-has-it"))[0] == 503
    assert (await home.post(f"/v1/tasks/{running['task_id']}/cancel", {}))[0] == 204
    await home.far.until(lambda stats: stats.tokens >= 4)
    home.far.set(Knobs(slots=4, fault=Fault.CLOSE, fault_after=2))
    assert (await home.post(f"/v1/tasks/{waiting['task_id']}/cancel", {}))[0] == 204
    await home.ended("waiting")
    assert (await home.submit("failed"))[0] == 202
    await home.ended("failed")
    assert (await home.post("/v1/catalog/models/haiku/verify", {}, "verify"))[0] == 202
    while (await home.get("/v1/catalog/models/haiku"))["job"]["state"] != "done":
        await asyncio.to_thread(lambda: None)
    seen = len(home.orchestrator.lines)
    os.kill(home.engine_pid(), signal.SIGKILL)
    await home.orchestrator.logged("pool trial is ready", since=seen)
    assert (await home.post("/v1/pools/trial/reload", {"new_model_ref": str(haiku_model_path())}, "reload"))[0] == 202


@pytest.mark.timeout(60)
@pytest.mark.req("HP-24")
async def test_metrics_are_exactly_the_documented_ones_after_traffic_of_every_kind(tmp_path: Path) -> None:
    async with home_at(tmp_path / "home") as home:
        await traffic(home)

        async def scraped() -> str:
            async with home.http.get("/metrics") as answer:
                assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
                return await answer.text()

        # Of an engine that does not answer at once there is no sample of its cache, until it is asked again.
        page = await looked_for(scraped, lambda page: "\nkv_cache_usage_ratio{" in page, "a sample of every kind")
        pools = (await home.get("/v1/capabilities"))["pools"]
        names = {pool[key] for pool in pools for key in ("pool_id", "engine_version", "model_id")}
        names |= {"trial-0", "far-0", "none", "haiku"}
    assert wrong_with(page, names) == []
    found = families(page)
    empty = {name for name, (_, samples) in found.items() if not samples}
    assert empty == {"gpu_utilization", "vram_used_bytes"}  # the trial profile has no GPU
    counted = {
        (sample.name, sample.labels.get("reason") or sample.labels.get("cause") or sample.labels.get("policy"))
        for _, samples in found.values()
        for sample in samples
        if sample.value
    }
    assert counted >= {
        ("tasks_canceled_total", "client"),
        ("tasks_rejected_total", "ADMISSION_REJECT"),
        ("tasks_rejected_total", "MODEL_UNAVAILABLE"),
        ("admission_backpressure_events_total", "reject"),
        ("engine_restarts_total", "engine_exit"),
    }
    (tmp_path / "page").write_text(page)
    for secret in (home.environ["LLORCH_API_TOKEN"], "canceled", "task-"):
        assert f'"{secret}' not in page


@pytest.mark.needs("promtool")
@pytest.mark.req("HP-24")
async def test_promtool_has_nothing_to_say_but_of_names_that_are_a_contract(tmp_path: Path) -> None:
    async with StandIn(Knobs()) as engine, house(tmp_path, engine.url) as here:
        here.orchestrator.report(_with_gpu(engine.url))
        await here.stream(await here.submit())
        async with here.client.get("/metrics") as answer:
            page = await answer.read()
    command = shutil.which("promtool") or "promtool"
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        command, "check", "metrics", stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await child.communicate(page)
    assert set(said.decode().splitlines()) == PROMTOOL_SAYS
    found = families(page.decode())
    [use] = found["vram_used_bytes"][1]
    assert (use.value, use.labels["device"]) == (3 << 30, "GPU-1")
    [load] = found["gpu_utilization"][1]
    assert (load.value, load.labels["replica_id"]) == (0.75, "p-0")


def _with_gpu(url: str) -> PoolSnapshot:
    use = DeviceUse(device="GPU-1", vram_total_bytes=24 << 30, vram_used_bytes=3 << 30, utilization=0.75)
    return snapshot("p", endpoint=Endpoint(url=url), slots=4, ctx_max=1 << 20, device_use=(use,))


@pytest.mark.req("HP-24")
def test_the_list_is_the_interface_word_for_word() -> None:
    listed = {f"{series.kind} {series.name}{{{','.join(series.labels)}}}" for series in SERIES}
    assert listed == set(CONTRACT.split("\n")) - {""}
    assert len(SERIES) == len({series.name for series in SERIES})
    assert all(series.name.endswith("_total") == (series.kind is SeriesKind.COUNTER) for series in SERIES)


@pytest.mark.req("HP-24")
def test_the_documented_table_has_every_series() -> None:
    rows = [line for line in (ROOT / "docs/observability.md").read_text().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    listed = {(name.strip("`"), kind, labels) for name, kind, labels, *_ in filter(lambda row: len(row) > 2, cells)}
    assert listed == {(series.name, series.kind, ", ".join(series.labels)) for series in SERIES}


# --- log lines --------------------------------------------------------------------------------------------------------

CONTEXT = {"task_id", "correlation_id", "identity", "priority", "engine", "engine_version", "pool_id", "replica_id"}


@pytest.mark.timeout(60)
@pytest.mark.req("HP-25", "ORCH-3811")
async def test_the_log_tells_a_whole_life_in_fields_and_in_sentences(tmp_path: Path) -> None:
    async with home_at(tmp_path / "home") as home:
        home.far.set(Knobs(slots=4, token_delay_ms=20))
        assert (await home.submit("long", max_tokens=20))[0] == 202
        runs = await home.orchestrator.logged(" runs in pool far", '"long"')
        done = await home.ended("long")
        home.far.set(Knobs(slots=4, fault=Fault.HANG, fault_after=1))
        _, hanging = await home.submit("stopped")
        while not (await home.get(f"/v1/tasks/{hanging['task_id']}"))["tokens_out"]:
            pass  # its first token is on its way
        await home.post(f"/v1/tasks/{hanging['task_id']}/cancel", {}, "who")
        canceled = await home.ended("stopped")
        await home.submit("refused", model_ref="nobody-has-it")
        refused = await home.orchestrator.logged("task refused", '"refused"')
        [admitted] = [line for line in home.told("long") if "admitted" in line["message"]]
        states = [line["message"] for line in map(json.loads, home.orchestrator.lines) if "pool_id" in line]
    identity = admitted["identity"]
    assert identity.startswith("token:")
    assert len(identity) == len("token:") + 6
    assert admitted.keys() >= CONTEXT | {"queue_position", "predicted_start_ms", "time", "level", "service"}
    assert (admitted["pool_id"], admitted["replica_id"], admitted["engine"]) == ("far", "far-0", "vllm")
    assert (admitted["queue_position"], admitted["priority"]) == (0, "interactive")
    for line in (runs, done, canceled):
        assert line.keys() >= CONTEXT | {"queue_time_ms", "first_token_ms"}
        assert line["identity"] == identity
    assert done["tokens_out"] == 20
    assert done["message"].endswith(" ended: length")
    assert canceled["message"].endswith(" ended: canceled")
    assert refused.keys() >= {"correlation_id", "identity", "code", "engine", "pool_id", "replica_id"}
    assert refused["code"] == "MODEL_UNAVAILABLE"
    steps = [f"pool trial is {state}" for state in ("ensuring_engine", "starting", "probing", "ready")]
    followed = [text for text in states if text in steps]  # from when the two daemons have met
    assert followed
    assert followed == steps[-len(followed) :]
    assert "pool far is ready" in states


# --- correlation ids --------------------------------------------------------------------------------------------------


@pytest.mark.timeout(60)
@pytest.mark.req("HP-22")
async def test_an_id_runs_from_the_request_to_the_engines_own_log_lines(tmp_path: Path) -> None:
    async with home_at(tmp_path / "home", "tests.support.lingering_orchestratord") as home:
        socket = home.root / "run" / "llama-orch" / "pool-managerd.sock"
        peer = Peer(*await asyncio.open_unix_connection(socket, limit=2 * rpc.MAX_FRAME_BYTES))
        await peer.hello()
        tail = await peer.call("pool.log", pool_id="trial", lines=500)
        said = [line["line"] for line in tail["result"]["lines"]]
        while not any("model loaded" in line for line in said):  # it answers before that line is written
            said.append((await peer.next_told())["params"]["line"])
        body = {"model_ref": str(haiku_model_path()), "prompt": "Once", "max_tokens": 64}
        assert (await home.post("/v1/tasks", body, "corr-engine"))[0] == 202
        await home.ended("corr-engine")
        line = await home.manager.logged("print_timing", "corr-engine")
        assert (line["pool_id"], line["correlation_ids"]) == ("trial", ["corr-engine"])
        while (told := await peer.next_told())["params"]["correlation_ids"] != ["corr-engine"]:
            assert told["method"] == "pool.log"
        file = (home.root / ".local/state/llama-orch/logs/trial.log").read_text()
        assert "  correlation_ids=corr-engine" in file
        # An engine that takes one has it in the request itself.
        home.far.set(Knobs(slots=4))
        await home.submit("corr-far")
        await home.ended("corr-far")
        assert home.far.requests[-1].headers["x-request-id"] == "corr-far"
        # What a client asks of a pool is in the manager's log under its id.
        await home.post("/v1/pools/trial/drain", {}, "corr-drain")
        asked = await home.manager.logged("asks for pool.drain")
        assert asked["correlation_id"] == "corr-drain"
        # A manager that comes back is told again.
        peer.writer.close()
        seen = len(home.manager.lines), len(home.orchestrator.lines)
        await home.manager.kill(signal.SIGTERM)
        await home.manager.start()
        await home.orchestrator.logged("pool trial is ready", since=seen[1])
        assert (await home.post("/v1/tasks", body, "corr-later"))[0] == 202
        await home.manager.logged("print_timing", "corr-later", since=seen[0])
