import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.events import Metrics, Token
from llama_orch.sse import MAX_EVENT_BYTES, SseError, SseParser, StreamEvent
from tests.unit.llama_orch.fake import end, frame, started

EVENTS = st.one_of(
    st.builds(Token, t=st.text(max_size=10), i=st.integers(0, 9)),
    st.builds(Metrics, queue_depth=st.integers(0, 9)),
    st.just(started("t")),
    st.just(end("x")),
)
NOISE = st.sampled_from([b"", b": ping\n\n", b"event: novelty\ndata: {}\n\n", b"id: 3\n\n", b"\n\n"])
KIND = {"Token": "token", "Metrics": "metrics", "Started": "started", "End": "end"}


@given(st.lists(st.tuples(EVENTS, NOISE), max_size=8), st.lists(st.integers(0, 2000), max_size=12), st.booleans())
def test_whole_events_come_out_however_the_bytes_are_cut(
    script: list[tuple[StreamEvent, bytes]], cuts: list[int], carriage_returns: bool
) -> None:
    data = b"".join(noise + frame(KIND[type(event).__name__], event) for event, noise in script)
    if carriage_returns:
        data = data.replace(b"\n", b"\r\n")
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    parser = SseParser()
    found = [event for begin, stop in itertools.pairwise(places) for event in parser.feed(data[begin:stop])]
    assert found == [event for event, _ in script]


def test_data_on_several_lines_is_one_event() -> None:
    assert SseParser().feed(b'event: token\ndata: {"t":"x",\ndata:"i":1}\n\n') == [Token(t="x", i=1)]


def test_what_is_no_event_of_ours_is_told() -> None:
    with pytest.raises(SseError, match="the event 'token' cannot be read"):
        SseParser().feed(b"event: token\ndata: <html>\n\n")
    with pytest.raises(SseError, match="the event 'token' cannot be read"):
        SseParser().feed(b'event: token\ndata: {"t":"\xff","i":1}\n\n')


def test_an_event_without_end_is_refused() -> None:
    with pytest.raises(SseError, match="an event of more than"):
        SseParser().feed(b"data: " + b"x" * MAX_EVENT_BYTES)
