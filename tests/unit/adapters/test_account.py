import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.account import LONGEST_MS, MOST_TOKENS, believable
from adapters.base import Finished
from contracts.events import FinishReason

pytestmark = pytest.mark.req("AD-03")


@given(
    st.none() | st.integers(),
    st.none() | st.integers(-3, MOST_TOKENS + 3),
    st.none() | st.floats(),
)
def test_no_number_gets_through_that_cannot_be(tokens: int | None, cached: int | None, ms: float | None) -> None:
    told = Finished(reason=FinishReason.STOP, tokens_in=tokens, tokens_out=tokens, cached_tokens=cached, decode_ms=ms)
    kept = believable(told)
    for count in (kept.tokens_in, kept.tokens_out, kept.cached_tokens):
        assert count is None or 0 <= count <= MOST_TOKENS
    assert kept.decode_ms is None or (math.isfinite(kept.decode_ms) and 0 <= kept.decode_ms <= LONGEST_MS)
    assert kept.reason is told.reason


def test_what_can_be_stays_as_it_was_told() -> None:
    told = Finished(reason=FinishReason.LENGTH, tokens_in=0, tokens_out=7, cached_tokens=MOST_TOKENS, decode_ms=0.25)
    assert believable(told) == told
