import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_orch.amounts import ago_text, amount_text, percent, rate_text, shortened, size_text, span_text, tokens_text

SIZES = st.integers(0, 1 << 55)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), ((1 << 20) - 1, "1.0 MiB"), (2019377696, "1.9 GiB")],
)
def test_a_size_has_the_unit_that_fits(size: int, text: str) -> None:
    assert size_text(size) == text


@given(SIZES)
def test_no_size_has_more_than_four_digits_before_the_point(size: int) -> None:
    assert re.fullmatch(r"\d{1,4}(\.\d)? [KMGTP]?i?B", size_text(size))


@given(SIZES, SIZES)
def test_an_amount_has_one_unit_and_a_percentage_is_never_100_before_the_end(done: int, total: int) -> None:
    done = min(done, total)
    text = amount_text(done, total)
    assert text.endswith(size_text(total))
    assert text.count("B") == 1
    assert (percent(done, total) == 100) == (done == total)


def test_what_nobody_knows_is_left_out() -> None:
    assert amount_text(2048, None) == "2.0 KiB"
    assert percent(2048, None) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.6, "1 s"), (92, "1 min 32 s"), (3600, "1 h"), (7501, "2 h 5 min"), (86_460, "1 d")],
)
def test_a_span_has_two_units_at_most(seconds: float, text: str) -> None:
    assert span_text(seconds) == text


@pytest.mark.parametrize(
    ("passed_s", "text"),
    [(-5, "just now"), (59, "just now"), (60, "1 min ago"), (7200, "2 h ago"), (259_200, "3 d ago")],
)
def test_a_time_is_told_from_now(passed_s: int, text: str) -> None:
    assert ago_text(1_000_000_000, 1_000_000_000 + 1000 * passed_s) == text


def test_speeds_and_lengths_of_context() -> None:
    assert rate_text(50_436_505.6) == "48.1 MiB/s"
    assert [tokens_text(count) for count in (131_072, 8192, 1000, 0)] == ["128k", "8k", "1000", "0"]


def test_a_name_that_is_too_long_keeps_what_tells_it_from_others() -> None:
    names = [f"Llama-3.2-3B-Instruct-Q4_K_M-0000{number}-of-00002.gguf" for number in (1, 2)]
    assert [shortened(name, 26) for name in names] == [
        "Llama-3.2…01-of-00002.gguf",
        "Llama-3.2…02-of-00002.gguf",
    ]


@given(st.text(max_size=80), st.integers(0, 90))
def test_a_name_is_never_longer_than_there_is_room(name: str, width: int) -> None:
    cut = shortened(name, width)
    assert len(cut) <= width
    assert cut == name or len(name) > width
