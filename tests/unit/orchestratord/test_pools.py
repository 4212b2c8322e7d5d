"""The directory of pools: which report holds, which adapter speaks, who is under suspicion."""

from typing import Any

import pytest

from adapters.base import EngineError, Failure, Props
from contracts.config import Pool
from contracts.pools import DeviceUse, Endpoint, PoolState
from contracts.tasks import Workload
from orchestratord.pools import LinkState, PoolDirectory
from tests.unit.orchestratord.world import MODEL, ScriptedAdapter, config, pool, snapshot


class Made:
    """Counts the adapters that are asked for."""

    def __init__(self) -> None:
        self.endpoints: list[Endpoint] = []

    def __call__(self, configured: Pool, endpoint: Endpoint) -> ScriptedAdapter:
        self.endpoints.append(endpoint)
        return ScriptedAdapter()


def test_before_any_report_a_pool_is_what_is_configured() -> None:
    pools = PoolDirectory(config(pool("p", ctx=512, slots=3, devices=(0, "GPU-12345678"))), Made())
    entry = pools["p"]
    assert entry.snapshot.state is PoolState.STOPPED
    assert (entry.snapshot.ctx_max, entry.snapshot.slots, entry.snapshot.replica_id) == (512, 3, "p-0")
    assert entry.snapshot.devices == ("0", "GPU-12345678")
    assert not entry.usable
    assert not entry.engine_version
    assert entry.workloads == ()  # nothing is promised that is not known
    assert Workload.EMBEDDING in entry.view.workloads  # and nothing is refused for it
    assert (pools.get("p"), pools.get("q")) == (entry, None)


def test_an_adapter_is_made_once_per_endpoint() -> None:
    made = Made()
    pools = PoolDirectory(config(), made)
    first, second = Endpoint(url="http://p", api_key="one"), Endpoint(url="http://p", api_key="two")
    pools.report(snapshot(endpoint=first))
    adapter = pools["p"].adapter
    pools["p"].props = Props(engine_version="b7")
    pools.report(snapshot(revision=2, endpoint=first, devices=("1",)))
    assert pools["p"].adapter is adapter
    told = [pools["p"].props]
    pools.report(snapshot(revision=3, endpoint=second))
    assert pools["p"].adapter is not adapter
    told.append(pools["p"].props)
    assert told == [Props(engine_version="b7"), None]
    assert made.endpoints == [first, second]
    pools.report(snapshot(revision=4, state=PoolState.STOPPED))
    assert pools["p"].adapter is None


@pytest.mark.parametrize(("model_ref", "kept"), [(MODEL, ("m", "sha256:0")), ("file:/models/other.gguf", (None, None))])
def test_what_a_model_is_called_stays_known_while_its_pool_starts_anew(
    model_ref: str, kept: tuple[str | None, str | None]
) -> None:
    pools = PoolDirectory(config(), Made())
    pools.report(snapshot())
    pools.report(snapshot(state=PoolState.STAGING_MODEL, model_id=None, model_digest=None, model_ref=model_ref))
    assert (pools["p"].snapshot.model_id, pools["p"].snapshot.model_digest) == kept
    pools.report(snapshot(model_id="n", model_digest="sha256:1", model_ref=model_ref))
    assert (pools["p"].snapshot.model_id, pools["p"].snapshot.model_digest) == ("n", "sha256:1")


@pytest.mark.parametrize(
    ("changes", "settles"),
    [
        ({"revision": 2}, False),
        ({"device_use": (DeviceUse(device="0", vram_total_bytes=2, vram_used_bytes=1),)}, False),
        ({"restarts": 1}, True),
        ({"state": PoolState.BACKOFF}, True),
        ({"endpoint": Endpoint(url="http://elsewhere")}, True),
    ],
    ids=["again", "measurement", "restart", "state", "endpoint"],
)
def test_only_another_life_settles_a_suspicion(changes: dict[str, Any], settles: bool) -> None:
    pools = PoolDirectory(config(), Made())
    pools.report(snapshot())
    pools["p"].suspect = True
    assert not pools["p"].usable
    pools.report(snapshot(**changes))
    assert pools["p"].suspect is not settles


@pytest.mark.req("HP-06")
@pytest.mark.parametrize("state", list(PoolState))
def test_only_a_ready_pool_is_usable(state: PoolState) -> None:
    pools = PoolDirectory(config(), Made())
    pools.report(snapshot(state=state))
    assert not pools["p"].usable  # before it said what it is
    pools["p"].props = Props()
    assert pools["p"].usable is (state is PoolState.READY)
    pools.report(snapshot(state=state, endpoint=None))
    assert not pools["p"].usable


@pytest.mark.req("ORCH-3812")
def test_the_engine_version_is_the_managers_or_the_running_engines() -> None:
    pools = PoolDirectory(config(), Made())
    pools.report(snapshot(engine_version=None))
    told = [pools["p"].engine_version]
    pools["p"].props = Props(engine_version="b7-from-engine")
    told.append(pools["p"].engine_version)
    pools.report(snapshot(revision=2, engine_version="b9"))
    told.append(pools["p"].engine_version)
    assert told == [None, "b7-from-engine", "b9"]


def test_an_engine_that_this_version_cannot_speak_to_costs_its_own_pool_only(caplog: pytest.LogCaptureFixture) -> None:
    def nobody(configured: Pool, endpoint: Endpoint) -> ScriptedAdapter:
        if configured.id == "p":
            raise EngineError(Failure.INVALID, "this version cannot speak to tgi")
        return ScriptedAdapter()

    pools = PoolDirectory(config(pool("p"), pool("q")), nobody)
    pools.report(snapshot("p"))
    pools.report(snapshot("q"))
    assert [entry.introducible for entry in pools] == [False, True]
    assert [bool(entry.view.workloads) for entry in pools] == [False, True]
    assert [record.message for record in caplog.records] == ["pool p: this version cannot speak to tgi"]


def test_strangers_are_ignored() -> None:
    assert PoolDirectory(config(), Made()).report(snapshot("stranger")) is None


def test_the_link_is_remembered() -> None:
    pools = PoolDirectory(config(), Made())
    assert (pools.managed, pools.ever_managed) == (False, False)
    pools.linked(LinkState.UP)
    assert (pools.managed, pools.ever_managed) == (True, True)
    pools.linked(LinkState.DOWN)
    assert (pools.managed, pools.ever_managed) == (False, True)
    pools.report(snapshot())
    assert pools["p"].introducible, "what was known last stands"


def test_some_pools_come_in_the_configurations_order() -> None:
    pools = PoolDirectory(config(pool("b"), pool("a"), pool("c")), Made())
    assert [entry.id for entry in pools.of(["c", "b", "nobody"])] == ["b", "c"]
    assert [view.snapshot.pool_id for view in pools.views()] == ["b", "a", "c"]
