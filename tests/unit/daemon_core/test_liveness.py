from hypothesis import given
from hypothesis import strategies as st

from daemon_core.liveness import MOST_TURN_S, Sign, ailing, held_up_s, turned_s

PATIENCE_S = 30.0
SECONDS = st.floats(min_value=0, max_value=1e6, allow_nan=False)


def test_who_is_silent_for_longer_than_its_pace_and_our_patience_is_ailing() -> None:
    pace = Sign(name="attendant", every_s=0.5, silent_s=31.0)
    late = Sign(name="attendant", every_s=0.5, silent_s=31.5, where="attendant.py:80 (_round)")
    assert ailing((pace,), PATIENCE_S) == ()
    (found,) = ailing((late,), PATIENCE_S)
    assert (found.name, found.ended) == ("attendant", False)
    assert found.text == "attendant has shown no life for 32 s; it waits in attendant.py:80 (_round)"


def test_who_waits_for_what_may_take_any_time_is_not_but_for_its_end() -> None:
    rests = Sign(name="pool-link", every_s=2.0, silent_s=1e6, resting=True)
    dead = Sign(name="task-store", every_s=2.0, ended=True, resting=True)
    (found,) = ailing((rests, dead), PATIENCE_S)
    assert (found.name, found.ended) == ("task-store", True)
    assert found.text == "task-store has ended, and nobody does its work"


@given(SECONDS, SECONDS, SECONDS)
def test_an_owner_that_keeps_its_pace_is_never_ailing(every_s: float, part: float, patience_s: float) -> None:
    silent_s = min(part, 2 * every_s + patience_s)
    assert ailing((Sign(name="a", every_s=every_s, silent_s=silent_s),), patience_s) == ()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_look_counts_for_more_than_the_loop_can_have_turned(elapsed_s: float) -> None:
    assert 0 <= turned_s(elapsed_s) <= MOST_TURN_S


def test_a_loop_that_is_late_was_held_up() -> None:
    assert held_up_s(1.9, 1.0) is None
    assert held_up_s(4.5, 1.0) == 3.5
