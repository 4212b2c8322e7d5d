import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pool_managerd.reconcile import Forgotten, Handle, Leftover, ProcessSeen, Reconciliation, reconcile

BOOT = "boot-1"
MARK = "/state/handles/gpu0.json"


def handle(pool_id: str = "gpu0", pid: int = 100, start: int = 7, boot: str = BOOT) -> Handle:
    return Handle(
        pool_id=pool_id, pid=pid, start_time_ticks=start, boot_id=boot, port=1, launch_hash="h", engine_version="1"
    )


def seen(pid: int = 100, start: int = 7, group: int = 100, marker: str | None = None) -> ProcessSeen:
    return ProcessSeen(pid=pid, start_time_ticks=start, group=group, session=group, marker=marker)


def decide(handles: list[Handle], processes: list[ProcessSeen], pools: tuple[str, ...] = ("gpu0",)) -> Reconciliation:
    return reconcile(handles, processes, pools, boot_id=BOOT, markers={MARK: "gpu0"})


@pytest.mark.req("PM-07")
def test_an_engine_of_a_dead_manager_is_found_with_its_whole_group() -> None:
    leader, child, stranger = seen(), seen(pid=101, start=9), seen(pid=300, group=300)
    found = decide([handle()], [leader, child, stranger])
    assert found == Reconciliation(found=(Leftover(instance="gpu0", processes=(leader, child)),))


@pytest.mark.req("PM-07")
def test_a_successor_that_a_dead_manager_was_proving_is_found_beside_the_engine_that_served() -> None:
    serving, successor = seen(), seen(pid=200, group=200)
    written = [handle(), replace(handle(pid=200), side="green")]
    found = decide(written, [serving, successor])
    assert [(one.instance, one.processes) for one in found.found] == [
        ("gpu0", (serving,)),
        ("gpu0.green", (successor,)),
    ]


def test_a_container_is_left_to_its_pool_and_removed_where_there_is_none() -> None:
    written = replace(handle(pid=0), runtime="podman", container_id="c0ffee")
    assert decide([written], []) == Reconciliation()
    assert decide([written], [], pools=("other",)) == Reconciliation(remove=(written,))


@pytest.mark.req("PM-07", "EP-12")
def test_a_process_that_got_the_pid_of_a_dead_engine_is_never_touched() -> None:
    stranger, its_child = seen(start=8), seen(pid=101, start=9)
    found = decide([handle()], [stranger, its_child])
    assert found == Reconciliation(
        forget=(Forgotten(instance="gpu0", reason="pid 100 belongs to another process now"),)
    )


def test_what_was_written_down_in_another_boot_means_nothing() -> None:
    found = decide([handle(boot="boot-0")], [seen()])
    assert found.forget == (Forgotten(instance="gpu0", reason="the machine was started anew since"),)
    assert not found.end


def test_a_handle_with_nothing_behind_it_is_forgotten() -> None:
    assert decide([handle()], []).forget == (Forgotten(instance="gpu0", reason="pid 100 is gone"),)


@pytest.mark.parametrize("handles", [[], [handle(start=1)], [handle(boot="boot-0")]], ids=["none", "stale", "old boot"])
def test_an_engine_without_a_handle_is_found_by_its_marker(handles: list[Handle]) -> None:
    orphan = seen(pid=200, group=150, marker=MARK)
    assert decide(handles, [orphan, seen(pid=5, group=5, marker="/elsewhere/gpu0.json")]).found[0].processes == (
        orphan,
    )


def test_children_whose_leader_is_gone_are_found_by_their_marker() -> None:
    child = seen(pid=101, start=9, marker=MARK)
    assert decide([handle()], [child]).found[0].processes == (child,)


def test_an_engine_whose_pool_was_removed_from_the_configuration_is_ended_too() -> None:
    found = decide([handle()], [seen()], pools=("other",))
    assert [leftover.instance for leftover in found.end] == ["gpu0"]
    assert not found.found


processes = st.lists(
    st.builds(
        ProcessSeen,
        pid=st.integers(1, 6),
        start_time_ticks=st.integers(1, 3),
        group=st.integers(1, 6),
        session=st.integers(1, 6),
        marker=st.sampled_from([None, None, MARK, "/other"]),
    ),
    unique_by=lambda process: process.pid,
)
handles = st.lists(
    st.builds(handle, pool_id=st.sampled_from(["gpu0", "gpu1"]), pid=st.integers(1, 6), start=st.integers(1, 3)),
    unique_by=lambda one: one.pool_id,
)


@pytest.mark.req("PM-07")
@given(handles, processes)
def test_every_handle_is_accounted_for_and_nothing_unproven_is_taken_for_ours(
    written: list[Handle], running: list[ProcessSeen]
) -> None:
    found = decide(written, running)
    running_ones = (*found.found, *found.end)
    alive_ones = {leftover.instance for leftover in running_ones}
    forgotten = {gone.instance for gone in found.forget}
    assert not alive_ones & forgotten
    assert {one.pool_id for one in written} <= alive_ones | forgotten
    by_pool = {one.pool_id: one for one in written}
    alive = {(process.pid, process.start_time_ticks) for process in running}
    for leftover in running_ones:
        owner = by_pool.get(leftover.instance)
        proven = owner is not None and (owner.pid, owner.start_time_ticks) in alive
        for process in leftover.processes:
            in_group = proven and owner is not None and owner.pid in {process.group, process.session}
            assert in_group or process.marker == MARK
