from orchestratord.crash_loop import CAREFUL_FROM, ENDS, Starts, next_start, refusal


def test_a_first_start_is_not_careful_and_condemns_nobody() -> None:
    first = next_start(Starts(), ())
    assert (first.in_a_row, first.careful, first.condemned) == (1, False, frozenset())


def test_the_third_start_in_a_row_is_careful() -> None:
    starts = Starts()
    seen = []
    for _ in range(CAREFUL_FROM):
        starts = next_start(starts, ())
        seen.append(starts.careful)
    assert seen == [False, False, True]


def test_a_task_that_ran_at_three_ends_in_a_row_is_condemned() -> None:
    starts = Starts(in_a_row=CAREFUL_FROM)
    for count in range(1, ENDS + 1):
        starts = next_start(starts, {"poison"})
        assert starts.suspects == {"poison": count}
    assert starts.condemned == {"poison"}


def test_a_task_that_was_not_running_at_one_of_them_is_none_of_the_suspects() -> None:
    starts = next_start(Starts(in_a_row=5, suspects={"innocent": 2, "poison": 2}), {"poison", "beside"})
    assert starts.suspects == {"poison": 3, "beside": 1}
    assert starts.condemned == {"poison"}


def test_what_it_ends_with_is_not_to_be_tried_again() -> None:
    told = refusal(Starts(in_a_row=6, suspects={"poison": ENDS}))
    assert told.retriable is False
    assert f"{ENDS} times in a row while this task ran so it" in told.message


def test_who_ran_beside_it_each_time_may_try_again() -> None:
    told = refusal(Starts(in_a_row=6, suspects={"poison": ENDS, "innocent": ENDS, "late": 1}))
    assert told.retriable is True
    assert "with 1 others beside it" in told.message
