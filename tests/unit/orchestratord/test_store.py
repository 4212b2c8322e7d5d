"""Which tasks are remembered."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from contracts.events import End, StreamError
from contracts.tasks import TaskState
from daemon_core.steps import Steps, finished
from orchestratord.store import TaskStore
from orchestratord.task import Admission, Caller, Task
from tests.unit.orchestratord.world import request


def task(number: int, text: str = "") -> Task:
    made = Task(
        Admission(
            task_id=f"t{number}",
            job_id=f"j{number}",
            request=request(),
            seed=0,
            caller=Caller("c", "localhost"),
            created_ms=0,
            at_ms=float(number),
            queue_position=0,
            predicted_start_ms=0,
            backoff_ms=0,
        )
    )
    if text:
        made.texts([text], 0.0)
    return made


def finish(store: TaskStore, done: Task) -> None:
    done.cancel(0.0)
    store.settle(done)


class Shelf:
    """All tasks that have ended, as the disk has them."""

    def __init__(self) -> None:
        self.ended: dict[str, Task] = {}

    def task(self, task_id: str) -> Task | None:
        return self.ended.get(task_id)

    def newest(self, state: TaskState | None, limit: int) -> Steps[list[Task]]:
        yield
        chosen = [each for each in reversed(self.ended.values()) if state in {None, each.state}]
        return sorted(chosen, key=lambda each: -each.admission.at_ms)[:limit]


EMPTY = Shelf()

lives = st.lists(st.tuples(st.sampled_from(["add", "end"]), st.integers(0, 400)), max_size=60)


@given(lives, st.integers(1, 5), st.integers(500, 3000))
def test_live_tasks_are_never_forgotten_and_those_at_hand_are_bounded(
    life: list[tuple[str, int]], keep: int, max_bytes: int
) -> None:
    store = TaskStore(EMPTY, keep, max_bytes)
    live: list[Task] = []
    ended: list[Task] = []
    for number, (what, size) in enumerate(life):
        if what == "add":
            live.append(task(number, "x" * size))
            store.add(live[-1])
        elif live:
            ended.append(live.pop(size % len(live)))
            finish(store, ended[-1])
        kept = [each for each in ended if store.get(each.id) is not None]
        assert sum(each.kept_bytes for each in kept) <= max_bytes
        assert len(kept) <= keep
        assert kept == ended[len(ended) - len(kept) :]
        assert sorted(each.id for each in store.live) == sorted(each.id for each in live)
        assert all(store.get(each.id) is each for each in [*live, *kept])
        moments = [each.admission.at_ms for each in finished(store.select(None, 1000))]
        assert moments == sorted(moments, reverse=True)


def test_the_bounds_drop_no_more_than_they_must() -> None:
    store = TaskStore(EMPTY, 2)
    made = [task(number) for number in range(3)]
    for each in made:
        store.add(each)
        finish(store, each)
    assert [each.id for each in finished(store.select(None, 9))] == ["t2", "t1"]
    assert store.get("t0") is None


class Later:
    """Has ends told of later, as it is where a disk has to take them first."""

    def __init__(self) -> None:
        self.tell: list[Callable[[], None]] = []

    def speaks(self, task: Task) -> None: ...

    def sends(self, task: Task) -> None: ...

    def grows(self, task: Task) -> int:
        return 1 << 60

    def ends(self, task: Task, event: End | StreamError) -> None: ...

    def freed(self, task: Task) -> None: ...

    def told(self, tell: Callable[[], None]) -> None:
        self.tell.append(tell)

    async def settled(self) -> None: ...


def test_the_bytes_at_hand_are_bounded_also_where_ends_are_told_of_later() -> None:
    store, later = TaskStore(EMPTY, 1000, 1000), Later()
    for number in range(100):
        ending = Task(task(number).admission, later)
        ending.texts(["x" * 100], 0.0)
        store.add(ending)
        finish(store, ending)
        later.tell.pop()()
    at_hand = [each for each in finished(store.select(None, 1000)) if store.at_hand(each.id)]
    assert 0 < len(at_hand) <= 1000 // 100


def test_what_is_not_at_hand_is_looked_for_among_what_is_kept() -> None:
    shelf = Shelf()
    store = TaskStore(shelf, 1)
    made = [task(number) for number in range(3)]
    for each in made:
        store.add(each)
        finish(store, each)
        shelf.ended[each.id] = each
    assert store.at_hand("t0") is None
    assert store.get("t0") is made[0]
    assert [each.id for each in finished(store.select(None, 2))] == ["t2", "t1"]


def test_a_task_is_settled_once() -> None:
    store = TaskStore(EMPTY, 2)
    one = task(1)
    store.add(one)
    finish(store, one)
    store.settle(one)
    assert finished(store.select(None, 9)) == [one]
    store.settle(task(9))
    assert store.get("t9") is None


def test_the_newest_are_selected_by_state_and_number() -> None:
    store = TaskStore(EMPTY, 10)
    made = [task(number) for number in range(6)]
    for each in made:
        store.add(each)
    for each in made[::2]:
        finish(store, each)
    assert [each.id for each in finished(store.select(None, 3))] == ["t5", "t4", "t3"]
    assert [each.id for each in finished(store.select(TaskState.CANCELED, 2))] == ["t4", "t2"]
    assert [each.id for each in finished(store.select(TaskState.QUEUED, 9))] == ["t5", "t3", "t1"]
    assert finished(store.select(TaskState.FAILED, 9)) == []


def test_every_end_is_counted_once_also_of_what_is_forgotten() -> None:
    store = TaskStore(EMPTY, 1)
    for number in range(3):
        ending = task(number)
        store.add(ending)
        finish(store, ending)
        store.settle(ending)
    assert store.settled == 3


def test_a_task_that_ends_while_the_others_are_read_is_listed_all_the_same() -> None:
    store = TaskStore(EMPTY, 1)
    ends, stays = task(1), task(2)
    store.add(ends)
    selecting = store.select(None, 9)
    next(selecting)
    finish(store, ends)
    store.add(stays)
    last = task(3)
    store.add(last)
    finish(store, last)  # the only one that is at hand now
    assert [each.id for each in finished(selecting)] == ["t3", "t2", "t1"]
