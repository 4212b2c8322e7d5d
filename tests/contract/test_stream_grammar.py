"""The checker of streams lets every right one pass and finds every kind of wrong one."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import events
from contracts.config import Profile
from contracts.errors import ErrorCode
from contracts.events import FinishReason
from contracts.examples.base import sse
from tests.support.stream_grammar import StreamWrongError, check

STARTED = events.Started(
    task_id="t",
    job_id="j",
    queue_position=0,
    predicted_start_ms=0,
    engine="llamacpp",
    engine_version="b1",
    model_digest="sha256:0",
    pool_id="p",
    replica_id="p-0",
    profile=Profile.TRIAL,
    seed=1,
    kv_warmth=False,
)
ERROR = events.StreamError(code=ErrorCode.WORKER_RESET, message="gone", retriable=True)
METRICS = events.Metrics(queue_depth=3)


def end(*texts: str, reason: FinishReason = FinishReason.STOP) -> events.End:
    return events.End(
        tokens_in=1,
        tokens_out=len(texts),
        decode_time_ms=1,
        decode_ms=1,
        first_token_ms=1 if "".join(texts) else None,
        queue_time_ms=0,
        finish_reason=reason,
        stream_sha256=hashlib.sha256("".join(texts).encode()).hexdigest(),
    )


def tokens(*texts: str, start: int = 0) -> list[events.Token]:
    return [events.Token(t=text, i=start + number) for number, text in enumerate(texts)]


def wire(*made: msgspec.Struct) -> bytes:
    return sse(*made).encode()


RIGHT = wire(METRICS, STARTED, *tokens("a", "ß"), METRICS, *tokens("c", start=2), end("a", "ß", "c"))
WRONG = {
    "empty": b"",
    "no-end": wire(STARTED, *tokens("a")),
    "two-ends": wire(STARTED, end(), end()),
    "end-and-error": wire(STARTED, end(), ERROR),
    "token-after-end": wire(STARTED, end(), *tokens("a")),
    "metrics-after-end": wire(STARTED, end(), METRICS),
    "token-before-started": wire(*tokens("a"), STARTED, end("a")),
    "never-started": wire(*tokens("a"), end("a")),
    "stop-without-start": wire(end()),
    "started-twice": wire(STARTED, STARTED, end()),
    "gap": wire(STARTED, *tokens("a"), *tokens("b", start=2), end("a", "b")),
    "again": wire(STARTED, *tokens("a"), *tokens("a"), end("a", "a")),
    "from-one": wire(STARTED, *tokens("a", start=1), end("a")),
    "sha": wire(STARTED, *tokens("a"), end("b")),
    "decode-ms": wire(STARTED, msgspec.structs.replace(end(), decode_ms=2)),
    "first-token": wire(STARTED, msgspec.structs.replace(end(), first_token_ms=5)),
    "broken-off": RIGHT[:-1],
    "id-not-i": RIGHT.replace(b"id: 1\n", b"id: 7\n"),
    "no-id": RIGHT.replace(b"id: 1\n", b""),
    "id-on-end": RIGHT.replace(b"event: end\n", b"event: end\nid: 3\n"),
    "unknown-event": RIGHT.replace(b"event: metrics", b"event: progress"),
    "unknown-field": RIGHT.replace(b'"queue_depth":3', b'"queue_depth":3,"tokens":1'),
    "unset-as-null": RIGHT.replace(b'"queue_depth":3', b'"queue_depth":null'),
    "no-json": RIGHT.replace(b'{"queue_depth":3}', b'{"queue_depth":3'),
    "carriage-return": RIGHT.replace(b"\n", b"\r\n"),
    "latin-1": RIGHT.replace("ß".encode(), "ß".encode("latin-1")),
    "two-data": RIGHT.replace(b'data: {"queue_depth":3}', b"data: {}\ndata: {}"),
    "other-line": RIGHT.replace(b"event: end\n", b"event: end\nretry: 5\n"),
}


@pytest.mark.req("HP-10")
@pytest.mark.parametrize("stream", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_stream_is_found(stream: bytes) -> None:
    with pytest.raises(StreamWrongError):
        check(stream)


def test_what_a_right_stream_said() -> None:
    said = check(b": ping\n\n" + RIGHT)
    assert said.names == ["metrics", "started", "token", "token", "metrics", "token", "end"]
    assert said.text == "aßc"
    assert check(wire(METRICS, end(reason=FinishReason.CANCELED))).started is None
    assert check(wire(ERROR)).error == ERROR
    behind = RIGHT.index(b"event: token\nid: 2")
    assert check(RIGHT[behind:], after=1).text == "c"
    assert check(RIGHT[: behind + 20], whole=False).end is None


TEXTS = st.lists(st.text(max_size=3), max_size=4)


@given(texts=TEXTS, good=st.booleans(), noise=st.lists(st.integers(0, 5), max_size=3))
def test_every_order_that_the_grammar_allows_passes(texts: list[str], good: bool, noise: list[int]) -> None:
    last: msgspec.Struct = end(*texts) if good else ERROR
    made: list[msgspec.Struct] = [STARTED, *tokens(*texts), last]
    for place in noise:
        made.insert(min(place, len(made) - 1), METRICS)
    assert check(wire(*made)).text == "".join(texts)


@given(
    texts=TEXTS.filter(bool),
    moves=st.data(),
)
def test_no_event_may_be_lost_doubled_or_moved(texts: list[str], moves: st.DataObject) -> None:
    made: list[msgspec.Struct] = [STARTED, *tokens(*texts), end(*texts)]
    place = moves.draw(st.integers(0, len(made) - 1))
    how = moves.draw(st.sampled_from(["lost", "doubled", "moved"]))
    spoilt = list(made)
    match how:
        case "lost":
            # An empty last token leaves no trace in the hash, and nothing counts it: only a gap would show it.
            del spoilt[place]
        case "doubled":
            spoilt.insert(place, made[place])
        case _:
            spoilt.insert(moves.draw(st.integers(0, len(made) - 2)), spoilt.pop(place))
    lost_last_empty = how == "lost" and place == len(texts) and not texts[-1]
    if spoilt == made or lost_last_empty:
        return
    with pytest.raises(StreamWrongError):
        check(wire(*spoilt))


@given(at=st.integers(0, len(RIGHT) - 1))
def test_a_stream_that_breaks_off_anywhere_is_found(at: int) -> None:
    with pytest.raises(StreamWrongError):
        check(RIGHT[:at])
