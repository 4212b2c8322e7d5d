"""A moment keeps its time until somebody sets the clock."""

from pool_managerd.wall_clock import WallClock

HOUR_MS = 3_600_000


def test_a_moment_keeps_its_time_though_clocks_round_and_are_slewed() -> None:
    times = iter([1_000_000, 1_000_501, 1_001_200])
    moments = iter([0.0, 500.4, 1_000.6])
    clock = WallClock(lambda: next(times), lambda: next(moments))
    assert [clock.offset_ms, clock.offset_ms] == [1_000_000, 1_000_000]


def test_a_clock_that_is_set_moves_what_is_told_in_either_direction() -> None:
    now = [1_000_000]
    clock = WallClock(lambda: now[0], lambda: 0.0)
    for step in (HOUR_MS, -3 * HOUR_MS):
        now[0] += step
        assert clock.offset_ms == now[0]
