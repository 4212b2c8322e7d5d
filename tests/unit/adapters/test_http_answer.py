"""Answers over HTTP: cut anywhere, cut off anywhere, and framed in ways that no two readers would read alike."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpResponseParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from adapters.http_answer import MAX_HEAD_BYTES, MAX_HEADERS, AnswerParser, Head

pytestmark = pytest.mark.req("AD-02")

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = [b'data: {"a":1}\n\n', b"data: \xf0\x9f\x99\x82\n\n", b"\r\n5\r\n\r\n", b"0\r\n\r\n", b"x" * 300]
"""Some look like framing themselves."""


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


WHOLE = {
    "chunked": CHUNKED + b"".join(map(chunk, EVENTS)) + b"0\r\n\r\n",
    "trailers": CHUNKED + b"".join(map(chunk, EVENTS)) + b"0;last\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
    "extensions": CHUNKED + b"".join(chunk(each, b';a="b";c') for each in EVENTS) + b"000\r\n\r\n",
    "length": OK + b"CONTENT-LENGTH:  %d \r\n\r\n" % sum(map(len, EVENTS)) + b"".join(EVENTS),
    "until it closes": b"HTTP/1.0 200 \r\n\r\n" + b"".join(EVENTS),
    "behind interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 \r\nLink: <x>\r\n\r\n"
    + CHUNKED
    + b"".join(map(chunk, EVENTS))
    + b"0\r\n\r\n",
}
BODY = b"".join(EVENTS)


def fed(*reads: bytes) -> tuple[AnswerParser, bytes]:
    parser = AnswerParser()
    return parser, b"".join(parser.feed(read) for read in reads)


def outcome(*reads: bytes) -> tuple[Head | None, bytes, bool, str | None]:
    parser, body = fed(*reads)
    whole = parser.finish()
    return parser.head, body, whole, None if parser.fault is None else str(parser.fault)


@pytest.mark.parametrize("name", WHOLE)
def test_a_cut_at_any_byte_changes_nothing(name: str) -> None:
    answer = WHOLE[name]
    expected = outcome(answer)
    assert expected[1:] == (BODY, True, None)
    for at in range(len(answer) + 1):
        assert outcome(answer[:at], answer[at:]) == expected, f"cut at byte {at}"
    assert outcome(*(answer[at : at + 1] for at in range(len(answer)))) == expected


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_that_is_cut_off_is_neither_whole_nor_wrong(name: str) -> None:
    answer = WHOLE[name]
    for at in range(len(answer)):
        parser, body = fed(answer[:at])
        assert parser.fault is None, f"cut off at byte {at}"
        assert BODY.startswith(body)
        if name != "until it closes" or parser.head is None:
            assert not parser.finish(), f"cut off at byte {at}"


@given(
    st.lists(st.one_of(st.sampled_from(EVENTS), st.binary(min_size=1, max_size=40)), max_size=12),
    st.lists(st.integers(0, 400), max_size=20),
    st.sampled_from([b"", b";x=1"]),
)
def test_chunks_and_reads_of_any_size_give_the_same_body(
    pieces: list[bytes], cuts: list[int], extension: bytes
) -> None:
    answer = CHUNKED + b"".join(chunk(piece, extension) for piece in pieces) + b"0\r\n\r\n"
    places = [0, *sorted(min(cut, len(answer)) for cut in cuts), len(answer)]
    reads = [answer[start:end] for start, end in pairwise(places)]
    assert outcome(*reads)[1:] == (b"".join(pieces), True, None)


def test_the_head_says_status_and_type() -> None:
    parser, _ = fed(b"HTTP/1.1 429 Too Many\r\nContent-type: Application/JSON ; charset=utf-8\r\n\r\n")
    assert parser.head == Head(429, "application/json")
    parser, _ = fed(OK + b"\r\n")
    assert parser.head == Head(200, "")  # and its end is that of the connection


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (OK + b"Content-Length: 0\r\n", True),
        (OK + b"Transfer-Encoding: chunked\r\nKeep-Alive: timeout=5\r\n", True),
        (OK + b"Content-Length: 0\r\nConnection: x, Close \r\n", False),
        (OK + b"Content-Length: 0\r\nConnection: keep-alive\r\nConnection: close\r\n", False),
        (OK, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n", False),
    ],
)
def test_the_head_says_whether_another_request_may_follow(head: bytes, *, keeps: bool) -> None:
    parser, _ = fed(head + b"\r\n")
    assert parser.head is not None
    assert parser.head.keeps == keeps


def test_what_nobody_asked_for_behind_an_answer_is_noted() -> None:
    for name, answer in WHOLE.items():
        if name != "until it closes":
            assert not fed(answer)[0].excess
            assert fed(answer + b"H")[0].excess
            assert fed(answer, b"H")[0].excess


@pytest.mark.parametrize("status", [204, 304])
def test_a_status_that_has_no_body_has_none(status: int) -> None:
    parser, body = fed(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\nhello" % status)
    assert (parser.complete, body) == (True, b"")


def test_what_comes_behind_the_answer_is_passed_over() -> None:
    for name, answer in WHOLE.items():
        if name != "until it closes":
            assert outcome(answer + b"HTTP/1.1 500 X\r\n\r\n")[1:] == (BODY, True, None)
            assert outcome(answer, b"more")[1:] == (BODY, True, None)


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 200\tOK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        OK + b"X-Y : 1\r\n\r\n",
        OK + b" X: folded\r\n\r\n",
        OK + b"X: 1\r\n folded\r\n\r\n",
        OK + b"X\r\n\r\n",
        OK + b": 1\r\n\r\n",
        OK + b"X: a\x00b\r\n\r\n",
        OK + b"X: a\nY: b\r\n\r\n",
        OK + b"X: a\rb\r\n\r\n",
        OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
        OK + b"Content-Length: 1, 1\r\n\r\n",
        OK + b"Content-Length: +1\r\n\r\n",
        OK + b"Content-Length: -1\r\n\r\n",
        OK + b"Content-Length: 1_0\r\n\r\n",
        OK + b"Content-Length: \r\n\r\n",
        OK + b"Content-Length: 9999999999999999999\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"X: y\r\n" * (MAX_HEADERS + 1) + b"\r\n",
        OK + b"X: " + b"y" * MAX_HEAD_BYTES,
        OK + b"X: y\r\n" * (MAX_HEAD_BYTES // 6),
        b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD_BYTES // 20),
    ],
)
def test_a_head_that_is_none(head: bytes) -> None:
    bytewise = [head[at : at + 1] for at in range(len(head))]
    for reads in ([head], bytewise if len(head) < 500 else [head[:700], head[700:]]):
        parser, body = fed(*reads)
        assert parser.fault is not None
        assert (parser.head, parser.complete, body, parser.finish()) == (None, False, b"", False)


@pytest.mark.parametrize(
    "bad",
    [
        b"g\r\nx\r\n",
        b"\r\nx\r\n",
        b" 1\r\nx\r\n",
        b"+1\r\nx\r\n",
        b"0x1\r\nx\r\n",
        b"1_0\r\nx\r\n",
        b"-1\r\nx\r\n",
        b"1\nx\r\n",
        b"1\rx\r\n",
        b"1 \r\nx\r\n",
        b"1 ;a\r\nx\r\n",
        b"1; a\r\nx\r\n",
        b'1;a="b\r\nx\r\n',
        b"1;a\nb\r\nx\r\n",
        b"1;\x00\r\nx\r\n",
        b"1234567890abcdef0\r\nx",
        b"1;" + b"x" * 5_000 + b"\r\n",
        b"1;" + b"x" * 5_000,
        b"1\r\nxy\r\n",
        b"1\r\nx\n",
        b"1\r\nx1\r\n",
        b"0\r\nX : 1\r\n\r\n",
        b"0\r\nX: 1\n\r\n",
        b"0\r\nContent-Length: 3\r\n\r\n",
        b"0\r\n" + b"X: 1\r\n" * (MAX_HEAD_BYTES // 6) + b"\r\n",
    ],
)
def test_a_chunk_that_is_none_ends_the_body_behind_what_was_good(bad: bytes) -> None:
    good = CHUNKED + chunk(b"good")
    for reads in ([good + bad], [good, bad], [good[:-1], good[-1:] + bad]):
        parser, body = fed(*reads)
        assert parser.fault is not None
        assert body.startswith(b"good")
        assert len(body) <= len(b"good") + 1
        assert (parser.complete, parser.finish(), parser.feed(chunk(b"more"))) == (False, False, b"")


def refused_by_aiohttp(answer: bytes) -> bool:
    """Whether aiohttp's client would not take this answer."""
    loop = asyncio.new_event_loop()
    try:
        parser = HttpResponseParser(BaseProtocol(loop), loop, 2**16, read_until_eof=True)
        try:
            messages, _, _ = parser.feed_data(answer)
            parser.feed_eof()
        except HttpProcessingError:
            return True
        return any(payload.exception() is not None for _, payload in messages)
    finally:
        loop.close()


edits = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.integers(0, 3),
        st.sampled_from([b"", *(bytes([byte]) for byte in b"\r\n \t\x00:;05fg,\xff"), b"\r\n"]),
    ),
    max_size=3,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), edits)
@example("chunked", [(0, 1, b"")])
def test_what_aiohttp_refuses_is_refused(name: str, changes: list[tuple[int, int, bytes]]) -> None:
    answer = WHOLE[name]
    for at, length, put in changes:
        answer = answer[:at] + put + answer[at + length :]
    parser = AnswerParser()
    taken = 0
    while taken < len(answer) and not parser.complete:
        parser.feed(answer[taken : taken + 1])
        taken += 1
    if parser.fault is None and parser.finish():
        assert not refused_by_aiohttp(answer[:taken])  # and what we passed over behind it does not matter
