from typing import Any

import pytest
from msgspec import structs

from contracts.config import Engine, External, Mode, Pool, Provisioning, Restart
from contracts.engines import KvLayout, PreparedEngine, ResolvedModel
from contracts.pools import Cause, Endpoint, Gpu, PoolState
from pool_managerd.life import Failure, Life
from pool_managerd.snapshot import health, snapshot

POOL = Pool(id="gpu0", engine=Engine.LLAMACPP, model="file:/m", ctx=4096, slots=2)

EXTERNAL = Provisioning(mode=Mode.EXTERNAL, external=External(url="http://h:1"))


def model(ctx_max: int | None) -> ResolvedModel:
    return ResolvedModel(id="m", ref="file:/m", local_path="/m", size_bytes=1, digest="sha256:0", ctx_max=ctx_max)


def life(state: PoolState = PoolState.STOPPED) -> Life:
    return Life(rules=Restart(), model_ref="file:/m", state=state)


@pytest.mark.parametrize(("ctx_max", "shown"), [(None, 4096), (2048, 2048), (8192, 4096)])
def test_the_context_is_the_smaller_one_of_pool_and_model(ctx_max: int | None, shown: int) -> None:
    one = Life(rules=Restart(), model_ref="file:/m", model=model(ctx_max))
    assert snapshot(POOL, one, wall_offset_ms=0).ctx_max == shown


@pytest.mark.req("HP-15")
@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, (32 + 48) * 2),
        ({"flags": ("--cache-type-k", "q8_0")}, 32 * 34 // 32 + 48 * 2),
        ({"engine": Engine.VLLM}, (32 + 48) * 2),
        ({"engine": Engine.VLLM, "flags": ("--kv-cache-dtype", "fp8")}, 32 + 48),
        ({"engine": Engine.OPENAI, "provisioning": EXTERNAL}, None),
    ],
)
def test_it_says_what_a_token_takes_in_the_cache(changes: dict[str, Any], size: int | None) -> None:
    known = structs.replace(model(None), kv=KvLayout(key=24, windowed_key=8, value=40, windowed_value=8, window=16))
    one = Life(rules=Restart(), model_ref="file:/m", model=known)
    assert snapshot(structs.replace(POOL, **changes), one, wall_offset_ms=0).kv_bytes_per_token == size
    assert snapshot(POOL, life(), wall_offset_ms=0).kv_bytes_per_token is None
    unsaid = Life(rules=Restart(), model_ref="file:/m", model=model(None))
    assert snapshot(POOL, unsaid, wall_offset_ms=0).kv_bytes_per_token is None


def test_moments_are_shown_as_unix_milliseconds() -> None:
    one = Life(
        rules=Restart(),
        model_ref="file:/m",
        state=PoolState.BACKOFF,
        due=70,
        error=Failure(cause=Cause.ENGINE_EXIT, message="it exited", hint="look", at=50),
    )
    seen = snapshot(POOL, one, wall_offset_ms=1000)
    assert seen.retry_at_ms == 1070
    assert seen.last_error is not None
    assert seen.last_error.at_ms == 1050


def test_a_drain_shows_no_next_try() -> None:
    one = Life(rules=Restart(), model_ref="file:/m", state=PoolState.DRAINING, due=70)
    assert snapshot(POOL, one, wall_offset_ms=0).retry_at_ms is None


def test_the_replica_is_named_after_its_pool() -> None:
    assert snapshot(POOL, life(), wall_offset_ms=0).replica_id == "gpu0-0"


def test_a_health_page_says_what_the_state_means() -> None:
    one = Life(rules=Restart(), model_ref="file:/m", state=PoolState.DRAINING, endpoint=Endpoint(url="http://h:1"))
    page = health(snapshot(POOL, one, wall_offset_ms=0))
    assert (page.live, page.ready, page.draining, page.metrics.slots) == (True, False, True, 2)
    assert page.metrics.vram_free_bytes is None


# --- what made an answer ----------------------------------------------------------------------------------------------

GPU = Gpu(index=1, uuid="GPU-b", name="X", vram_total_bytes=1, vram_used_bytes=0, driver="560.35.03")
ENGINE = PreparedEngine(
    engine=Engine.LLAMACPP,
    engine_version="b1",
    provisioning_mode=Mode.SOURCE,
    bin_or_entry="/build/llama-server",
    args=("-m", "{model}", "--port", "{port}"),
)


def serving(engine: PreparedEngine) -> Life:
    return structs.replace(life(PoolState.READY), engine=engine, model=model(None), endpoint=Endpoint(url="http://h:1"))


@pytest.mark.req("HP-21")
def test_a_pool_that_serves_says_with_which_driver_on_which_gpus_and_how_its_engine_was_started() -> None:
    pool = structs.replace(POOL, devices=(1,), env={"HF_TOKEN": "hunter"})
    seen = snapshot(pool, serving(ENGINE), wall_offset_ms=0, gpus=(GPU,), redact=lambda text: text.replace("hun", "*"))
    assert (seen.driver_version, seen.devices) == ("560.35.03", ("GPU-b",))
    assert seen.argv[-5:] == ("/build/llama-server", "-m", "/m", "--port", "{port}")
    assert seen.argv[:3] == ("CUDA_DEVICE_ORDER=PCI_BUS_ID", "CUDA_VISIBLE_DEVICES=GPU-b", "HF_TOKEN=*ter")


@pytest.mark.req("HP-21")
def test_without_a_driver_the_gpus_are_those_of_the_configuration() -> None:
    seen = snapshot(structs.replace(POOL, devices=(1,)), serving(ENGINE), wall_offset_ms=0)
    assert (seen.driver_version, seen.devices) == (None, ("1",))


@pytest.mark.req("HP-21")
def test_of_an_engine_that_somebody_else_started_and_of_none_there_is_no_command_line() -> None:
    elsewhere = structs.replace(ENGINE, provisioning_mode=Mode.EXTERNAL, url="http://h:1", bin_or_entry=None)
    assert snapshot(POOL, serving(elsewhere), wall_offset_ms=0).argv == ()
    ended = structs.replace(serving(ENGINE), endpoint=None)
    assert snapshot(POOL, ended, wall_offset_ms=0).argv == ()
