"""The book of sessions: step by step, and whatever the order of what happens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from contracts.config import Sessions
from contracts.errors import ErrorCode
from contracts.sessions import SessionBudgets
from orchestratord.admission import Refusal
from orchestratord.sessions import Ask, Book, Home, Session, Turn, Used

HOME = Home("p", "p-0", 1)
TURN_MS = 700.0


def ask(session_id: str = "s", **changes: Any) -> Ask:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {"session_id": session_id, "model_ref": "m", "prompt_tokens": 10, "max_tokens": 5}
    return Ask(**(fields | changes))


def enter(book: Book, now: float = 0.0, wanted: Ask | None = None, task_id: str = "t") -> Turn:
    wanted = wanted or ask()
    assert book.refusal(wanted, now, TURN_MS) is None
    return book.enter(wanted, task_id, now)[0]


def refused(book: Book, now: float = 0.0, wanted: Ask | None = None) -> Refusal:
    found = book.refusal(wanted or ask(), now, TURN_MS)
    assert found is not None
    return found


def play(
    book: Book, now: float = 0.0, wanted: Ask | None = None, *, took_ms: float = 0.0, used: Used | None = None
) -> Turn:
    """A whole turn."""
    turn = enter(book, now, wanted)
    book.began(turn, HOME, now)
    book.concluded(turn, used or Used())
    book.over(turn, now + took_ms)
    return turn


def known(book: Book, session_id: str = "s", now: float = 0.0) -> Session:
    session = book.get(session_id, now)
    assert session is not None
    return session


# --- how long it lives ------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-15")
def test_it_lives_for_its_ttl_after_its_last_turn() -> None:
    book = Book(Sessions(ttl_ms=1000))
    play(book, 0, took_ms=500)
    assert book.ttl_remaining_ms(known(book, now=600), 600) == 900
    assert book.get("s", 1499) is not None
    assert book.get("s", 1500) is None
    assert [session.id for session in book.expired(1500)] == ["s"]
    assert not book


@pytest.mark.req("HP-15")
def test_it_does_not_age_while_a_turn_waits_or_runs() -> None:
    book = Book(Sessions(ttl_ms=1000))
    turn = enter(book)
    assert book.ttl_remaining_ms(known(book, now=5000), 5000) == 1000
    book.began(turn, HOME, 6000)
    assert book.get("s", 9000) is not None
    assert not book.expired(9000)
    book.over(turn, 9000)
    assert book.ttl_remaining_ms(known(book, now=9400), 9400) == 600


@pytest.mark.req("HP-15")
def test_one_that_expired_begins_anew() -> None:
    book = Book(Sessions(ttl_ms=1000, max_turns=1))
    first = play(book)
    second = enter(book, 1000, ask(model_ref="another"))
    assert second.session is not first.session
    assert second.session.number != first.session.number
    assert second.session.turns == 1


@pytest.mark.req("HP-15")
def test_it_takes_eight_turns_and_says_when_a_new_one_may_begin() -> None:
    book = Book(Sessions())
    for number in range(8):
        play(book, number * 1000)
    refusal = refused(book, 7000 + 60_000)
    assert (refusal.code, refusal.policy_label) == (ErrorCode.BUDGET_EXHAUSTED, "session_turns")
    assert refusal.retry_after_ms == 540_000
    assert refusal.message == "session 's' has had 8 of 8 turns"
    book.end(known(book, now=67_000))
    assert book.refusal(ask(), 67_000, TURN_MS) is None


def test_a_turn_that_never_ran_is_none() -> None:
    book = Book(Sessions(max_turns=1))
    book.over(enter(book), 10)
    assert known(book).turns == 0
    assert book.refusal(ask(), 10, TURN_MS) is None


@pytest.mark.req("HP-15")
def test_the_one_that_was_idle_for_longest_makes_room() -> None:
    book = Book(Sessions(max_sessions=2))
    play(book, 0, ask("a"))
    play(book, 1, ask("b"))
    play(book, 2, ask("a"))
    _, gone = book.enter(ask("c"), "t", 3)
    assert [session.id for session in gone] == ["b"]
    assert book.get("b", 3) is None
    assert len(book) == 2


def test_none_makes_room_whose_turn_is_not_over() -> None:
    book = Book(Sessions(max_sessions=1))
    turn = enter(book)
    refusal = refused(book, wanted=ask("other"))
    assert (refusal.code, refusal.policy_label, refusal.retry_after_ms) == (
        ErrorCode.ADMISSION_REJECT,
        "max_sessions",
        700,
    )
    book.over(turn, 1)
    assert book.refusal(ask("other"), 1, TURN_MS) is None


def test_it_goes_on_with_the_model_that_it_began_with() -> None:
    book = Book(Sessions())
    play(book)
    refusal = refused(book, wanted=ask(model_ref="n"))
    assert (refusal.code, refusal.field) == (ErrorCode.CONFLICT, "session_id")
    assert "'m'" in refusal.message
    assert "'n'" in refusal.message
    assert book.refusal(ask(model_ref="sha256:0", same_model={"m", "sha256:0"}), 0, TURN_MS) is None


# --- one after the other ----------------------------------------------------------------------------------------------


def test_turns_run_one_after_the_other() -> None:
    book = Book(Sessions())
    first, second, third = (enter(book, task_id=each) for each in "abc")
    assert [turn.first for turn in (first, second, third)] == [True, False, False]
    assert book.over(second, 1) is None  # it was cancelled while it waited
    assert book.over(first, 2) is third
    assert third.first
    assert book.over(third, 3) is None


def test_what_is_open_of_an_ended_session_finishes_and_another_begins() -> None:
    book = Book(Sessions())
    first, second = enter(book, task_id="a"), enter(book, task_id="b")
    book.end(first.session)
    assert book.get("s", 0) is None
    fresh = enter(book, task_id="c")
    assert fresh.first
    assert fresh.session is not first.session
    assert book.over(first, 1) is second
    assert book.over(second, 2) is None
    assert known(book) is fresh.session


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-16")
def test_what_a_turn_may_use_is_set_aside_and_what_it_did_not_use_is_given_back() -> None:
    book = Book(Sessions(token_budget=100))
    turn = enter(book, wanted=ask(prompt_tokens=30, max_tokens=40))
    refusal = refused(book, wanted=ask(prompt_tokens=30, max_tokens=1))
    assert (refusal.code, refusal.policy_label) == (ErrorCode.BUDGET_EXHAUSTED, "session_tokens")
    assert refusal.message == (
        "session 's' has 100 of 100 tokens left, 70 of them set aside for turns that are not over; "
        "this turn may take 31"
    )
    assert (refusal.retry_after_ms, refusal.retriable) == (700, True)  # by then that turn may be over
    book.began(turn, HOME, 0)
    book.concluded(turn, Used(tokens=35))
    assert book.budgets(turn.session, 0) == SessionBudgets(tokens_remaining=65)
    assert book.refusal(ask(prompt_tokens=30, max_tokens=35), 0, TURN_MS) is None
    assert refused(book, wanted=ask(prompt_tokens=30, max_tokens=36)).hint == (
        "ask for at most 35 max_tokens, or DELETE the session and go on in a new one"
    )


@pytest.mark.req("HP-16")
def test_a_turn_that_names_no_bound_gets_what_is_left() -> None:
    book = Book(Sessions(token_budget=100))
    turn = enter(book, wanted=ask(prompt_tokens=30, max_tokens=None))
    assert turn.max_tokens == 70
    assert enter(Book(Sessions()), wanted=ask(max_tokens=None)).max_tokens is None
    assert refused(book, wanted=ask(prompt_tokens=30, max_tokens=None)).hint == (
        "wait for those turns, or name max_tokens in each of them, or DELETE the session and go on in a new one"
    )
    book.began(turn, HOME, 0)
    book.concluded(turn, Used(tokens=90))
    book.over(turn, 0)
    refusal = refused(book, 100, ask(prompt_tokens=10, max_tokens=None))
    assert refusal.hint == "shorten the prompt, or DELETE the session and go on in a new one"
    assert (refusal.retry_after_ms, refusal.retriable) == (599_900, None)  # the session has to end first


@pytest.mark.req("HP-16")
def test_a_first_turn_over_the_budget_is_refused_and_begins_no_session() -> None:
    book = Book(Sessions(token_budget=12))
    assert refused(book).policy_label == "session_tokens"
    assert not book


@pytest.mark.req("HP-04", "HP-16")
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("prompt", "most", "hint", "field"),
    [
        (2, 400, "ask for at most 298 max_tokens", "max_tokens"),
        (300, 1, "shorten the prompt, or raise sessions.token_budget", "session_id"),
        (301, None, "shorten the prompt, or raise sessions.token_budget", "session_id"),
    ],
)
def test_a_turn_that_no_session_holds_is_wrong_and_told_no_time(
    prompt: int, most: int | None, hint: str, field: str, *, begun: bool
) -> None:
    book = Book(Sessions(token_budget=300))
    if begun:
        enter(book, wanted=ask(prompt_tokens=10, max_tokens=10))
    refusal = refused(book, wanted=ask(prompt_tokens=prompt, max_tokens=most))
    assert (refusal.code, refusal.retry_after_ms, refusal.retriable) == (ErrorCode.INVALID_PARAMS, None, None)
    assert (refusal.hint, refusal.field) == (hint, field)


@pytest.mark.req("HP-16")
def test_time_is_what_turns_keep_slots_busy() -> None:
    book = Book(Sessions(time_budget_ms=1000))
    turn = enter(book, 0)
    book.began(turn, HOME, 5000)  # waiting costs nothing
    assert book.budgets(turn.session, 5400).time_remaining_ms == 600
    book.freed(turn, 5400)  # its replica failed, and it waits for another
    assert book.budgets(turn.session, 9000).time_remaining_ms == 600
    book.began(turn, HOME, 9000)
    assert book.refusal(ask(), 9500, TURN_MS) is None
    refusal = refused(book, 9600)
    assert (refusal.code, refusal.policy_label) == (ErrorCode.BUDGET_EXHAUSTED, "session_time")
    book.over(turn, 9700)
    assert book.budgets(known(book, now=9700), 9700).time_remaining_ms == 0
    assert refused(book, 9800).retry_after_ms == 599_900


# --- what is warm -----------------------------------------------------------------------------------------------------


@pytest.mark.req("HP-15")
def test_warm_is_what_the_engine_counts() -> None:
    book = Book(Sessions())
    play(book, used=Used(tokens=24, prompt_tokens=20, cached_tokens=19, kept_tokens=23))
    assert not known(book).warm  # what a first turn reused was left by somebody else
    play(book, used=Used(tokens=34, prompt_tokens=30, cached_tokens=20, kept_tokens=33))
    assert known(book).warm
    assert known(book).kv_tokens == 33
    play(book, used=Used(tokens=44, prompt_tokens=40, cached_tokens=1, kept_tokens=43))
    assert not known(book).warm  # every two prompts have their first token in common
    play(book, used=Used(tokens=54, prompt_tokens=50, cached_tokens=None))
    assert not known(book).warm  # an engine that does not say proves nothing


def test_a_turn_that_was_cut_off_says_nothing_of_the_cache() -> None:
    book = Book(Sessions())
    for cached in (0, 15):
        play(book, used=Used(tokens=24, prompt_tokens=20, cached_tokens=cached, kept_tokens=23))
    play(book, used=Used(tokens=3))
    assert known(book).warm
    assert known(book).kv_tokens == 23


@pytest.mark.req("HP-07")
def test_another_replica_has_nothing_of_it() -> None:
    book = Book(Sessions())
    play(book, used=Used(tokens=24, prompt_tokens=20, cached_tokens=0, kept_tokens=23))
    turn = enter(book)
    book.began(turn, Home("q", "q-0", 1), 0)
    assert turn.session.home == Home("q", "q-0", 1)
    assert turn.session.kv_tokens == 0


# --- whatever happens -------------------------------------------------------------------------------------------------

LIMITS = Sessions(ttl_ms=50, max_turns=3, max_sessions=2, token_budget=60, time_budget_ms=100)


class BookMachine(RuleBasedStateMachine):
    """Turns come, start, end, lose their replica and are cancelled in any order; sessions end in every way they can."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book(LIMITS)
        self.now = 0.0
        self.tasks = 0
        self.waiting: list[Turn] = []
        self.running: list[Turn] = []
        self.spent: dict[int, int] = {}
        self.sessions: dict[int, Session] = {}

    @rule(ms=st.integers(1, 40))
    def pass_time(self, ms: int) -> None:
        self.now += ms

    @rule(session=st.sampled_from("abc"), prompt=st.integers(1, 30), new=st.none() | st.integers(1, 30))
    def submit(self, session: str, prompt: int, new: int | None) -> None:
        wanted = ask(session, prompt_tokens=prompt, max_tokens=new)
        refusal = self.book.refusal(wanted, self.now, TURN_MS)
        if refusal is not None:
            assert refusal.retry_after_ms is not None
            assert refusal.retry_after_ms > 0
            return
        self.tasks += 1
        turn, gone = self.book.enter(wanted, f"t{self.tasks}", self.now)
        assert all(not each.open for each in gone)
        self.waiting.append(turn)
        self.sessions[turn.session.number] = turn.session

    @precondition(lambda self: any(turn.first for turn in self.waiting))
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from([each for each in self.waiting if each.first]))
        self.waiting.remove(turn)
        self.running.append(turn)
        self.book.began(turn, HOME, self.now)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), share=st.floats(0, 1))
    def finish(self, data: st.DataObject, share: float) -> None:
        turn = data.draw(st.sampled_from(self.running))
        self.running.remove(turn)
        used = int(turn.reserved * share)
        number = turn.session.number
        self.spent[number] = self.spent.get(number, 0) + used
        self.book.concluded(turn, Used(tokens=used))
        self._over(turn)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def lose_its_replica(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.running))
        self.running.remove(turn)
        self.waiting.append(turn)
        reserved = turn.reserved
        self.book.concluded(turn, Used(), again=True)
        self.book.freed(turn, self.now)
        assert turn.reserved == reserved

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        turn = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(turn)
        self._over(turn)

    @rule(session=st.sampled_from("abc"))
    def delete(self, session: str) -> None:
        found = self.book.get(session, self.now)
        if found is not None:
            self.book.end(found)

    def _over(self, turn: Turn) -> None:
        was_first = turn.first
        following = self.book.over(turn, self.now)
        assert (following is not None) == (was_first and bool(turn.session.open))
        assert following is None or following.first

    @invariant()
    def no_budget_is_passed(self) -> None:
        for number, session in self.sessions.items():
            assert session.spent_tokens == self.spent.get(number, 0)
            assert session.spent_tokens + session.reserved <= 60

    @invariant()
    def no_bound_is_passed(self) -> None:
        assert len(self.book) <= 2
        assert all(0 <= session.turns <= 3 for session in self.sessions.values())

    @invariant()
    def one_turn_of_a_session_runs_and_the_next_may(self) -> None:
        sessions = [turn.session.number for turn in self.running]
        assert len(sessions) == len(set(sessions))
        for session in self.sessions.values():
            assert not session.open or session.open[0].first

    @invariant()
    def none_expires_with_an_open_turn(self) -> None:
        for turn in (*self.waiting, *self.running):
            assert turn.session.ended or self.book.get(turn.session.id, self.now) is turn.session


@pytest.mark.req("HP-15")
@pytest.mark.req("HP-16")
def test_no_order_of_events_passes_a_bound() -> None:
    run_state_machine_as_test(BookMachine, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
