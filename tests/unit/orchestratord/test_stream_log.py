"""The encoded stream: numbers, places, the hash, and who is woken."""

import hashlib
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.errors import ErrorCode
from contracts.events import End, FinishReason, Metrics, StreamError
from orchestratord.stream_log import StreamClosedError, StreamLog
from tests.unit.orchestratord.frames import frames_of, tokens_of

END = End(
    tokens_in=1,
    tokens_out=1,
    decode_time_ms=1,
    decode_ms=1,
    first_token_ms=1,
    queue_time_ms=0,
    finish_reason=FinishReason.STOP,
    stream_sha256="",
)
ERROR = StreamError(code=ErrorCode.WORKER_RESET, message="gone", retriable=True)

NASTY = ["\n", "\n\n", "\nid: 3\n", '"}\n\nevent: end\n', "\r\n", "\u2028", "🙂", "\x00", "", "data: ", "\\", "é\ud7ff"]
text = st.one_of(st.sampled_from(NASTY), st.text(max_size=8))
batches = st.lists(st.one_of(st.lists(text, max_size=4), st.just(None)), max_size=12)
"""Each a batch of texts, or None for a metrics event."""


def write(log: StreamLog, what: list[list[str] | None]) -> list[str]:
    """Append everything; answers with all texts."""
    for depth, batch in enumerate(what):
        if batch is None:
            log.metrics(Metrics(queue_depth=depth))
        else:
            log.texts(batch)
    return [each for batch in what if batch is not None for each in batch]


@pytest.mark.req("HP-10")
@given(batches)
@example([["\nid: 3\n", "\nid: 1\n"], None, ["\n\n", "c", "d"]])
def test_tokens_are_numbered_without_gaps_and_keep_their_text(what: list[list[str] | None]) -> None:
    log = StreamLog()
    texts = write(log, what)
    log.finish(END)
    frames = frames_of(log.read(0))
    tokens = [frame for frame in frames if frame.event == "token"]
    assert [frame.data["t"] for frame in tokens] == texts
    assert [frame.data["i"] for frame in tokens] == list(range(len(texts))) == [frame.number for frame in tokens]
    assert log.tokens == len(texts)
    assert [frame.event for frame in frames].count("metrics") == what.count(None)
    assert frames[-1].event == "end"


@pytest.mark.req("HP-10", "HP-19")
@given(batches)
@example([["\nid: 0\n", "\nid: 1\n", "\nid: 2\n"], None, ["\nid: 11\n"] * 12])
def test_a_returning_reader_gets_the_exact_suffix_at_every_position(what: list[list[str] | None]) -> None:
    log = StreamLog()
    ends = [0]  # where the frame of each token ends, noted while writing
    for batch in what:
        if batch is None:
            log.metrics(Metrics(queue_depth=1))
            continue
        for each in batch:
            log.texts([each])
            ends.append(len(log))
    whole = log.read(0)
    assert [log.offset_after(number) for number in range(-1, log.tokens)] == ends
    assert all(log.read(offset) == whole[offset:] for offset in ends)
    assert log.offset_after(log.tokens + 5) == ends[-1]


def test_one_append_or_many_give_the_same_bytes() -> None:
    together, single = StreamLog(), StreamLog()
    together.texts(NASTY)
    for each in NASTY:
        single.texts([each])
    assert together.read(0) == single.read(0)
    assert together.text_sha256 == single.text_sha256


@given(batches)
def test_the_hash_is_over_the_concatenated_text(what: list[list[str] | None]) -> None:
    log = StreamLog()
    texts = write(log, what)
    assert log.text_sha256 == hashlib.sha256("".join(texts).encode()).hexdigest()


@pytest.mark.req("HP-10")
@pytest.mark.parametrize("close", [lambda log: log.finish(END), lambda log: log.finish(ERROR)], ids=["end", "error"])
@pytest.mark.parametrize(
    "append",
    [
        lambda log: log.texts(["late"]),
        lambda log: log.texts([]),
        lambda log: log.metrics(Metrics(queue_depth=1)),
        lambda log: log.finish(END),
        lambda log: log.finish(ERROR),
    ],
    ids=["texts", "nothing", "metrics", "end", "error"],
)
def test_nothing_follows_the_terminal_event(
    close: Callable[[StreamLog], None], append: Callable[[StreamLog], None]
) -> None:
    log = StreamLog()
    log.texts(["a"])
    close(log)
    before = log.read(0), log.tokens, log.text_sha256
    with pytest.raises(StreamClosedError, match="terminal event"):
        append(log)
    assert (log.read(0), log.tokens, log.text_sha256) == before
    assert log.closed


def test_every_reader_is_woken_once_per_append_until_it_leaves() -> None:
    log = StreamLog()
    woken: list[str] = []
    leave = log.subscribe(lambda: woken.append("first"))
    log.subscribe(lambda: woken.append("second"))
    assert log.readers == 2
    log.texts(["a", "b", "c"])
    assert woken == ["first", "second"]
    leave()
    log.metrics(Metrics(queue_depth=1))
    log.finish(END)
    assert woken == ["first", "second", "second", "second"]
    assert log.readers == 1


def test_a_reader_sees_the_end_when_it_is_woken() -> None:
    log = StreamLog()
    seen: list[tuple[bool, bytes]] = []
    log.subscribe(lambda: seen.append((log.closed, log.read(0))))
    log.finish(END)
    assert seen == [(True, log.read(0))]
    assert b"event: end\ndata: {" in seen[0][1]


def test_a_reader_that_is_woken_sees_how_many_tokens_there_are() -> None:
    log = StreamLog()
    seen: list[int] = []
    log.subscribe(lambda: seen.append(log.tokens))
    log.texts(["a", "b", "c"])
    log.metrics(Metrics(queue_depth=1))
    log.texts(["d"])
    assert seen == [3, 3, 4]


def test_readers_at_their_own_pace_all_read_the_same_bytes() -> None:
    log = StreamLog()
    offsets, read = [0, 0, 0], [b"", b"", b""]
    for step in range(30):
        log.texts([f"w{step}", "\n"])
        for reader in range(3):
            if step % (reader + 2) == 0:
                more = log.read(offsets[reader])
                offsets[reader] += len(more)
                read[reader] += more
    log.finish(END)
    whole = log.read(0)
    assert {done + log.read(offset) for done, offset in zip(read, offsets, strict=True)} == {whole}
    assert len(log) == len(whole)


@given(st.lists(text, max_size=5))
def test_the_token_frame_is_what_the_event_type_says(texts: list[str]) -> None:
    log = StreamLog()
    log.texts(texts)
    assert [token.t for token in tokens_of(log.read(0))] == texts
    assert all(msgspec.json.decode(frame.raw)["i"] == frame.number for frame in frames_of(log.read(0)))


@given(batches, st.integers(1, 300))
def test_a_bounded_read_is_cut_between_frames_and_loses_nothing(what: list[list[str] | None], limit: int) -> None:
    log = StreamLog()
    write(log, what)
    log.finish(END)
    whole, got = log.read(0), b""
    while piece := log.read(len(got), limit):
        assert piece.endswith(b"\n\n")
        assert len(piece) <= limit or piece.count(b"\n\n") == 1
        got += piece
    assert got == whole
