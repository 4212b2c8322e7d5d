"""When the client of a connection is too slow, asks for too much, or is idle for too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestratord.conduct import Bounds, Conduct, Fault, Phase

BOUNDS = Bounds(header_s=10, body_s=30, idle_s=100, header_bytes=64, body_bytes=40_960)
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
pytestmark = pytest.mark.req("OP-02")


def conduct(now: float = 0.0) -> Conduct:
    return Conduct(BOUNDS, now)


def at_rest(now: float, *, known: bool = True) -> Conduct:
    """A connection whose first request was answered at ``now``."""
    made = conduct()
    made.received(HEAD, now, body_open=False)
    made.entered(now)
    made.known = known
    made.answered(now, body_open=False)
    return made


def test_who_says_nothing_has_the_time_for_a_head() -> None:
    made = conduct()
    assert made.look(9.9, body_open=False) == pytest.approx(10)
    assert made.look(10, body_open=False) is Fault.SILENT


def test_line_breaks_are_no_beginning_of_a_request() -> None:
    made = conduct()
    assert made.received(b"\r\n\r\n\r\n", 9, body_open=False) is None
    assert made.phase is Phase.OPEN
    assert made.look(10, body_open=False) is Fault.SILENT


def test_a_first_head_has_its_time_since_the_connection_was_opened() -> None:
    made = conduct()
    for second in range(1, 10):
        assert made.received(b"G", second, body_open=False) is None
    assert made.look(9.5, body_open=False) == 10
    assert made.look(10, body_open=False) is Fault.SLOW_HEAD


def test_a_later_head_has_its_time_since_its_first_byte() -> None:
    made = at_rest(5)
    made.received(b"G", 50, body_open=False)
    assert made.look(59, body_open=False) == 60
    assert made.look(60, body_open=False) is Fault.SLOW_HEAD


def test_a_head_that_waits_behind_an_answer_has_its_time_since_that() -> None:
    made = conduct()
    made.received(HEAD, 0, body_open=False)
    made.entered(0)
    made.received(b"GET /next", 1, body_open=False)
    assert made.look(1_000, body_open=False) == 1_010
    made.answered(1_000, body_open=False)
    assert made.phase is Phase.HEAD
    assert made.look(1_010, body_open=False) is Fault.SLOW_HEAD


def test_a_line_break_behind_a_body_is_no_next_request() -> None:
    made = conduct()
    made.received(HEAD, 0, body_open=False)
    made.entered(0)
    made.received(b"\r\n", 0, body_open=False)
    made.answered(1, body_open=False)
    assert made.phase is Phase.REST


def test_an_idle_connection_is_closed_after_its_time() -> None:
    made = at_rest(5)
    assert made.look(99, body_open=False) == 105
    assert made.look(105, body_open=False) is Fault.IDLE


def test_who_has_shown_no_token_is_idle_for_no_longer_than_one_that_says_nothing() -> None:
    made = at_rest(5, known=False)
    assert made.look(14, body_open=False) == 15
    assert made.look(15, body_open=False) is Fault.IDLE


def test_a_short_idle_time_holds_for_everybody() -> None:
    bounds = Bounds(header_s=10, body_s=30, idle_s=2, header_bytes=64, body_bytes=1_024)
    assert (bounds.stranger_s, bounds.soonest_s) == (2, 2)


def test_a_body_has_to_come_on() -> None:
    made = conduct()
    made.received(HEAD, 0, body_open=False)
    made.entered(0)
    for moment in (29, 58, 87):
        assert not isinstance(made.look(moment, body_open=True), Fault)
        made.received(b"x", moment, body_open=True)
    assert made.look(117, body_open=True) is Fault.SLOW_BODY


@pytest.mark.parametrize(("size", "until"), [(1, 121), (256, 128), (1 << 20, 130)])
def test_a_body_that_comes_on_by_and_by_has_to_end(size: int, until: int) -> None:
    """Four times 30 s, and a second more for each 4 KiB of it, up to the 40 KiB that a body may have."""
    made = conduct()
    made.received(HEAD, 0, body_open=False)
    made.entered(0)
    for second in range(1, until):
        assert not isinstance(made.look(second, body_open=True), Fault)
        made.received(b"x" * size, second, body_open=True)
    assert made.look(until, body_open=True) is Fault.SLOW_BODY


def test_a_handler_that_works_may_take_as_long_as_it_likes() -> None:
    made = conduct()
    made.received(HEAD, 0, body_open=False)
    made.entered(0)
    assert made.look(1e6, body_open=False) == 1e6 + 10


def test_nothing_is_said_in_place_of_an_answer_that_has_begun() -> None:
    made = conduct()
    made.received(HEAD, 0, body_open=False)
    made.entered(0)
    made.begun = True
    assert not isinstance(made.look(1_000, body_open=True), Fault)


def test_what_comes_of_a_body_after_its_answer_is_no_request() -> None:
    made = conduct()
    made.received(HEAD, 0, body_open=False)
    made.entered(0)
    made.answered(1, body_open=True)
    assert made.received(b"x" * 1_000, 2, body_open=True) is None
    assert not isinstance(made.look(1_000, body_open=True), Fault)
    assert made.look(1_001, body_open=False) == pytest.approx(1_011)
    assert made.phase is Phase.REST


@given(st.integers(40, 90), st.integers(1, 40), st.binary(max_size=200))
def test_a_head_is_measured_wherever_it_is_cut_in_pieces(length: int, piece: int, body: bytes) -> None:
    head = b"G" * (length - 4) + b"\r\n\r\n"
    whole, made = head + body, conduct()
    found = [made.received(whole[start : start + piece], 0, body_open=False) for start in range(0, len(whole), piece)]
    assert (Fault.LARGE_HEAD in found) == (length > BOUNDS.header_bytes)


@given(st.lists(st.sampled_from(["wait", "bytes", "enter", "answer"]), max_size=200))
def test_looking_when_told_sees_what_looking_all_the_time_sees(steps: list[str]) -> None:
    told, always, again = conduct(), conduct(), 10.0
    for now, step in enumerate(steps + ["wait"] * 110):
        for made in (told, always):
            if step == "bytes":
                made.received(b"x", now, body_open=False)
            elif step == "enter" and made.phase is Phase.HEAD:
                made.entered(now)
            elif step == "answer" and made.phase is Phase.BUSY:
                made.answered(now, body_open=False)
        seen, found = always.look(now, body_open=False), None
        if now >= again:
            found = told.look(now, body_open=False)
            again = again if isinstance(found, Fault) else found
        assert isinstance(seen, Fault) == isinstance(found, Fault)
        if isinstance(seen, Fault):
            return
