from msgspec.structs import replace

from contracts.config import Config, Engine, Logging, Pool, Profile
from daemon_core.config_change import needs_restart

GPU0 = Pool(id="gpu0", engine=Engine.LLAMACPP, model="file:/m", devices=(0,))
GPU1 = replace(GPU0, id="gpu1", devices=(1,))
RUNNING = Config(pools=(GPU0, GPU1))


def test_an_unchanged_file_and_another_log_level_wait_for_nothing() -> None:
    assert needs_restart(RUNNING, RUNNING) == ()
    assert needs_restart(RUNNING, replace(RUNNING, logging=Logging(level="debug"))) == ()


def test_what_waits_is_named_by_section_and_by_pool() -> None:
    read = Config(pools=(replace(GPU0, ctx=16, model="file:/n"), replace(GPU1, id="gpu2")), profile=Profile.TRIAL)
    assert needs_restart(RUNNING, read) == ("profile", "pool gpu2 is new", "pool gpu1 is gone", "pool gpu0: model, ctx")
