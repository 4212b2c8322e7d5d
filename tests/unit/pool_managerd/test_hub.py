import msgspec
from msgspec.structs import replace

from contracts.catalog import CatalogJob, JobKind, JobState
from contracts.config import Engine, Pool, Restart
from contracts.pools import PoolSnapshot, PoolState
from contracts.rpc import Push, Request, parse
from pool_managerd.hub import MAX_JOBS, Hub
from pool_managerd.life import Life
from pool_managerd.snapshot import snapshot


def first(pool_id: str = "gpu0") -> PoolSnapshot:
    pool = Pool(id=pool_id, engine=Engine.LLAMACPP, model="file:/m")
    return snapshot(pool, Life(rules=Restart(), model_ref="file:/m"), wall_offset_ms=0)


def changed(frame: bytes) -> PoolSnapshot:
    message = parse(frame)
    assert isinstance(message, Request)
    assert message.method == Push.POOL_CHANGED
    return msgspec.json.decode(message.params, type=PoolSnapshot)


def test_a_change_goes_out_whole_with_the_next_revision() -> None:
    hub, frames = Hub([first(), first("gpu1")]), list[bytes]()
    hub.subscribe(frames.append)
    hub.publish(replace(first(), state=PoolState.STARTING))
    hub.publish(replace(first("gpu1"), state=PoolState.STARTING))
    assert [(pool.pool_id, pool.revision, pool.state) for pool in map(changed, frames)] == [
        ("gpu0", 1, PoolState.STARTING),
        ("gpu1", 2, PoolState.STARTING),
    ]
    assert hub.pools().revision == 2


def test_what_says_nothing_new_is_no_change() -> None:
    hub, frames = Hub([first()]), list[bytes]()
    hub.subscribe(frames.append)
    hub.publish(first())
    assert not frames
    assert hub.pools().revision == 0


def test_who_left_is_told_nothing_more() -> None:
    hub, frames = Hub([first()]), list[bytes]()
    hub.subscribe(frames.append)()
    hub.publish(replace(first(), restarts=1))
    assert not frames


def test_a_listener_may_leave_while_it_is_told() -> None:
    hub, told = Hub([first()]), list[str]()

    def leave(_: bytes) -> None:
        told.append("first")
        end()

    end = hub.subscribe(leave)
    hub.subscribe(lambda _: told.append("second"))
    hub.publish(replace(first(), restarts=1))
    hub.publish(replace(first(), restarts=2))
    assert told == ["first", "second", "second"]


def test_the_latest_job_of_each_kind_on_each_model_is_kept_up_to_a_bound() -> None:
    hub, frames = Hub([first()]), list[bytes]()
    hub.subscribe(frames.append)
    hub.worked(job(0, JobState.WAITING))
    hub.worked(job(0, JobState.RUNNING))
    assert [each.state for each in hub.pools().jobs] == [JobState.RUNNING]
    assert len(frames) == 2
    for number in range(1, 2 * MAX_JOBS):
        hub.worked(job(number, JobState.DONE))
    kept = hub.pools().jobs
    assert len(kept) == MAX_JOBS
    assert kept[0].state is JobState.RUNNING, "what goes on is never forgotten"
    assert kept[-1].number == 2 * MAX_JOBS - 1


def job(number: int, state: JobState) -> CatalogJob:
    name = f"m{number}"
    return CatalogJob(
        number=number, kind=JobKind.PULL, model_id=name, asked_id=name, model_ref=name, state=state, started_ms=1
    )
