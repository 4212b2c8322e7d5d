import pytest
from msgspec.structs import replace

from contracts.config import Engine, Mode
from contracts.pools import Cause, Endpoint, PoolError, PoolSnapshot, PoolState
from pool_managerd.status_line import status_line

pytestmark = pytest.mark.req("OP-01")

READY = PoolSnapshot(
    pool_id="gpu0",
    revision=1,
    state=PoolState.READY,
    replica_id="gpu0-0",
    engine=Engine.LLAMACPP,
    provisioning_mode=Mode.SOURCE,
    model_ref="hf:a/b/c.gguf",
    ctx_max=512,
    slots=1,
    endpoint=Endpoint(url="http://127.0.0.1:1"),
)


def named(name: str, state: PoolState, mode: Mode = Mode.SOURCE, cause: Cause | None = None) -> PoolSnapshot:
    error = None if cause is None else PoolError(cause=cause, message="x")
    return replace(READY, pool_id=name, state=state, provisioning_mode=mode, last_error=error, endpoint=None)


def test_all_are_ready() -> None:
    assert status_line((READY,), stopping=False) == "1/1 pools ready"


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        (named("gpu1", PoolState.ENSURING_ENGINE), "building llama.cpp"),
        (
            replace(named("gpu1", PoolState.ENSURING_ENGINE, Mode.CONTAINER), engine=Engine.VLLM),
            "pulling the image of vllm",
        ),
        (named("gpu1", PoolState.ENSURING_ENGINE, Mode.BINARY), "downloading llama.cpp"),
        (named("gpu1", PoolState.ENSURING_ENGINE, Mode.PACKAGE), "installing llama.cpp"),
        (named("gpu1", PoolState.ENSURING_ENGINE, Mode.EXTERNAL), "preparing llama.cpp"),
        (named("gpu1", PoolState.STAGING_MODEL), "fetching or checking hf:a/b/c.gguf"),
        (named("gpu1", PoolState.STARTING), "starting llama.cpp"),
        (named("gpu1", PoolState.PROBING), "waiting for llama.cpp to load the model and answer"),
        (named("gpu1", PoolState.DRAINING), "draining"),
        (named("gpu1", PoolState.BROKEN, cause=Cause.ENGINE_BUILD), "broken (engine_build)"),
        (named("gpu1", PoolState.BACKOFF), "backoff"),
        (named("gpu1", PoolState.STOPPED), "stopped"),
    ],
)
def test_what_the_others_are_doing(pool: PoolSnapshot, said: str) -> None:
    assert status_line((READY, pool), stopping=False) == f"1/2 pools ready; gpu1: {said}"


def test_of_many_the_first_are_named() -> None:
    pools = tuple(named(f"gpu{number}", PoolState.STARTING) for number in range(5))
    line = status_line(pools, stopping=False)
    assert line.startswith("0/5 pools ready; gpu0: starting")
    assert line.endswith("; and 2 more")


def test_which_engines_are_left_at_a_stop() -> None:
    gone = named("gpu1", PoolState.STOPPED)
    assert status_line((READY, gone), stopping=True) == "draining, 1 of 2 engines left: gpu0"
    assert status_line((gone,), stopping=True) == "draining, 0 of 1 engines left"


def test_before_a_restart_the_engines_are_not_said_to_drain() -> None:
    gone = named("gpu1", PoolState.STOPPED)
    line = status_line((READY, gone), stopping=True, returning=True)
    assert line == "starting again, 1 of 2 engines run: gpu0"
