from msgspec.structs import replace

from contracts.config import Config, Engine, Limits, Logging, Models, Pool, Profile, Queue, Server
from daemon_core.config_change import needs_restart, taken_over

GPU0 = Pool(id="gpu0", engine=Engine.LLAMACPP, model="file:/m", devices=(0,))
GPU1 = replace(GPU0, id="gpu1", devices=(1,))
RUNNING = Config(pools=(GPU0, GPU1))


def test_an_unchanged_file_and_another_log_level_wait_for_nothing() -> None:
    assert needs_restart(RUNNING, RUNNING) == ()
    assert needs_restart(RUNNING, replace(RUNNING, logging=Logging(level="debug"))) == ()


def test_what_waits_is_named_by_section_and_by_pool() -> None:
    read = Config(pools=(replace(GPU0, ctx=16, model="file:/n"), replace(GPU1, id="gpu2")), profile=Profile.TRIAL)
    assert needs_restart(RUNNING, read) == ("profile", "pool gpu2 is new", "pool gpu1 is gone", "pool gpu0: model, ctx")


def test_a_section_is_named_by_its_keys_and_what_another_daemon_uses_is_not_named() -> None:
    read = replace(RUNNING, server=Server(drain_ms=1, bind="127.0.0.1:1"), models=Models(max_bytes=5))
    assert needs_restart(RUNNING, read) == ("server.bind", "server.drain_ms", "models.max_bytes")
    assert needs_restart(RUNNING, read, at_once=("server.drain_ms",), elsewhere=("models",)) == ("server.bind",)


def test_only_what_is_named_is_taken_over_and_only_by_pools_that_are_there() -> None:
    queue = Queue(capacity=3)
    changed = (replace(GPU0, queue=queue, ctx=16), replace(GPU1, id="gpu2", queue=queue))
    limits, server = Limits(requests_per_minute=7), Server(drain_ms=1, bind="127.0.0.1:1")
    read = Config(pools=changed, limits=limits, server=server, profile=Profile.TRIAL)
    at_once = ("limits", "server.drain_ms", "pools.queue")
    now = taken_over(RUNNING, read, at_once)
    assert now == replace(RUNNING, pools=(replace(GPU0, queue=queue), GPU1), limits=limits, server=Server(drain_ms=1))
    assert taken_over(RUNNING, read, ()) == RUNNING
    left = needs_restart(now, read, at_once=at_once)
    assert left == ("profile", "server.bind", "pool gpu2 is new", "pool gpu1 is gone", "pool gpu0: ctx")
