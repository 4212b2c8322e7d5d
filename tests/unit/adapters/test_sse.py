import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.base import EngineError, Failure
from adapters.sse import SseParser

COMMON = b'data: {"a":1}\n\ndata: {"b":2}\n\n'


def parse(*reads: bytes) -> list[bytes]:
    parser = SseParser()
    return [event for read in reads for event in parser.feed(read)]


def at_every_cut(stream: bytes) -> list[list[bytes]]:
    return [parse(stream[:cut], stream[cut:]) for cut in range(len(stream) + 1)]


def bytewise(stream: bytes) -> list[bytes]:
    return parse(*(stream[i : i + 1] for i in range(len(stream))))


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        pytest.param(COMMON, [b'{"a":1}', b'{"b":2}'], id="many in one read"),
        pytest.param(b"data:x\n\ndata:  y\n\n", [b"x", b" y"], id="no space, and only one space belongs to the field"),
        pytest.param(b"data: x\r\n\r\ndata: y\r\n\r\n", [b"x", b"y"], id="CRLF"),
        pytest.param(b"data: x\r\rdata: y\r\r", [b"x", b"y"], id="CR"),
        pytest.param(b"data: x\n\r\ndata: y\r\n\n", [b"x", b"y"], id="mixed line ends"),
        pytest.param(b": ping\n\n:\n\ndata: x\n\n: ping\n\n", [b"x"], id="comments"),
        pytest.param(b": note\ndata: x\n\n", [b"x"], id="a comment inside an event"),
        pytest.param(b"data: x\ndata: y\n\n", [b"x\ny"], id="several data lines"),
        pytest.param(
            b"data: w\n\ndata: x\ndata: y\n\ndata: z\n\n", [b"w", b"x\ny", b"z"], id="several data lines between"
        ),
        pytest.param(b"data\n\ndata:\n\ndata: \n\n", [b"", b"", b""], id="empty data"),
        pytest.param(b"event: e\nid: 7\nretry: 3\ndata: x\n\nevent: e\n\n", [b"x"], id="other fields"),
        pytest.param(b"\n\n\ndata: x\n\n\n\n\ndata: y\n\n\n", [b"x", b"y"], id="more empty lines than needed"),
        pytest.param('data: {"t":"äöü€🙂"}\n\n'.encode(), ['{"t":"äöü€🙂"}'.encode()], id="UTF-8"),
        pytest.param(b'error: {"code":500}\n\n', [b'{"error":{"code":500}}'], id="a field named error"),
        pytest.param(b"", [], id="nothing"),
    ],
)
def test_events_of_a_stream_whatever_the_cut(stream: bytes, events: list[bytes]) -> None:
    assert parse(stream) == events
    assert all(found == events for found in at_every_cut(stream))
    assert bytewise(stream) == events


LINES = st.sampled_from(
    [b"data: x", b"data:y", b"data", b": ping", b"id: 1", b"", b"", 'data: {"t":"\u20ac"}'.encode(), b"data: data: "]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
STREAMS = st.lists(st.tuples(LINES, ENDS), max_size=30).map(lambda lines: b"".join(line + end for line, end in lines))


@settings(deadline=None)
@given(STREAMS, st.lists(st.integers(0, 400), max_size=8))
def test_cuts_never_change_the_events(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    assert parse(*(stream[a:b] for a, b in itertools.pairwise(edges))) == parse(stream) == bytewise(stream)


def reference(stream: bytes) -> list[bytes]:
    """The standard's own words: line by line, with nothing clever."""
    events: list[bytes] = []
    data: list[bytes] = []
    for line in stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]:
        name, _, value = line.partition(b":")
        if not line and data:
            events.append(b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return events


@settings(deadline=None)
@given(STREAMS)
def test_the_fast_path_finds_what_the_standard_says(stream: bytes) -> None:
    assert parse(stream) == reference(stream)


def test_finish_tells_whether_an_event_was_cut_off() -> None:
    parser = SseParser()
    assert not parser.finish()
    parser.feed(COMMON)
    assert not parser.finish()
    parser.feed(b"data: {")
    assert parser.finish()
    parser.feed(b"}\n\n\n")
    assert not parser.finish()


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_an_event_may_be_as_large_as_the_limit_and_no_larger(step: int) -> None:
    def run(event: bytes) -> list[bytes]:
        parser = SseParser(max_event_bytes=100)
        stream = COMMON + event + COMMON
        return [data for at in range(0, len(stream), step) for data in parser.feed(stream[at : at + step])]

    assert b"x" * 94 in run(b"data: " + b"x" * 94 + b"\n\n")
    with pytest.raises(EngineError, match="an event of more than 100 bytes") as caught:
        run(b"data: " + b"x" * 95 + b"\n\n")
    assert caught.value.failure is Failure.PROTOCOL


def test_an_event_that_never_ends_is_given_up_at_the_limit() -> None:
    parser = SseParser(max_event_bytes=1000)
    parser.feed(b"data: " + b"x" * 994)
    with pytest.raises(EngineError):
        parser.feed(b"xx")
