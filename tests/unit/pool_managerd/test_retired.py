"""What a pool says of a model that is out of use, and who needs which model."""

from pathlib import Path, PurePosixPath

import pytest
from msgspec.structs import replace

from contracts.config import Engine, External, Mode, Pool, Provisioning
from contracts.engines import ModelEntry, ModelState
from contracts.pools import Cause, PoolError, PoolState
from model_provisioner.holds import holders
from pool_managerd.in_use import InUse
from pool_managerd.retired import Retired
from tests.unit.orchestratord.world import snapshot

ENTRY = ModelEntry(id="m", ref="m.gguf", local_path="/m.gguf", size_bytes=1, digest="sha256:0")
OUT = replace(ENTRY, state=ModelState.RETIRED, state_reason="too old")


@pytest.mark.req("CAT-03")
def test_a_pool_that_serves_a_retired_model_says_so_and_stays_ready() -> None:
    retired = Retired()
    assert not retired.seen([ENTRY], 5)
    assert retired.show(snapshot()).model_state is ModelState.ACTIVE
    assert retired.seen([OUT], 6)
    assert not retired.seen([OUT], 7), "nothing new"
    shown = retired.show(snapshot())
    assert (shown.ready, shown.model_state) == (True, ModelState.RETIRED)
    assert shown.last_error is not None
    assert (shown.last_error.cause, shown.last_error.at_ms) == (Cause.MODEL_RETIRED, 6)
    assert shown.last_error.message == (
        "m was taken out of use (too old); an engine that has it goes on until its pool is reloaded or drained"
    )
    assert retired.seen([ENTRY], 8)
    assert retired.show(snapshot()) == replace(snapshot(), model_state=ModelState.ACTIVE)


def test_what_went_wrong_in_a_pool_without_an_engine_stays_visible() -> None:
    retired = Retired()
    retired.seen([OUT], 6)
    error = PoolError(cause=Cause.ENGINE_EXIT, message="exited")
    shown = retired.show(snapshot(state=PoolState.BACKOFF, last_error=error))
    assert (shown.last_error, shown.model_state) == (error, ModelState.RETIRED)
    assert retired.show(snapshot(model_id=None)).model_state is None


@pytest.mark.req("MP-06")
def test_a_pool_needs_what_it_serves_prepares_goes_back_to_and_is_configured_with(tmp_path: Path) -> None:
    pools = (Pool(id="p", engine=Engine.LLAMACPP, model="configured.gguf"),)
    in_use = InUse(pools, tmp_path)
    seen = snapshot(
        model_ref="serves.gguf", next_model_ref="next.gguf", previous_model_ref="previous.gguf", model_id="m"
    )
    in_use.follow(lambda: (seen,))
    base = PurePosixPath(tmp_path)
    for name in ("configured", "serves", "next", "previous", "other"):
        entry = replace(ENTRY, id=name, ref=f"{name}.gguf", local_path=f"/elsewhere/{name}.gguf", digest=f"{name}")
        assert bool(holders(entry, in_use(), base)) is (name != "other"), name
    assert holders(ENTRY, in_use(), base) == ("pool p",)
    assert in_use.engine_of(("models.pinned", "pool p")) == "llamacpp"
    assert in_use.engine_of(("models.pinned",)) == "none"


def test_an_endpoint_that_somebody_else_runs_needs_no_model_of_ours(tmp_path: Path) -> None:
    external = Provisioning(mode=Mode.EXTERNAL, external=External(url="http://127.0.0.1:1"))
    pools = (Pool(id="p", engine=Engine.OPENAI, model="gpt", provisioning=external),)
    in_use = InUse(pools, tmp_path)
    in_use.follow(lambda: (snapshot(provisioning_mode=Mode.EXTERNAL),))
    assert in_use() == ()


@pytest.mark.req("MP-06")
def test_an_engine_that_a_dead_manager_left_needs_its_model(tmp_path: Path) -> None:
    (tmp_path / "gone.json").write_text('{"pool_id": "gone", "model_digest": "sha256:0"}')
    assert holders(ENTRY, InUse((), tmp_path)(), PurePosixPath(tmp_path)) == ("an engine of pool gone",)
