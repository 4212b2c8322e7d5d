"""Streams cut at every byte: in two reads, and off.

Over a socket nobody decides where a read ends, so here an adapter's stream is fed from memory: the bytes are what the
stand-in would answer to the request that the adapter really sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager

import pytest

from adapters.base import Adapter, Failure
from adapters.http import EngineHttp, EventStream, StatusError
from adapters.sse import SseParser
from contracts.pools import Endpoint
from tests.integration.adapters.harness import Answer, generate, text_of
from tests.integration.adapters.subjects import Subject
from tests.standin.server import StandIn
from tests.standin.wires.base import Answer as Refusal
from tests.standin.wires.base import Run

pytestmark = pytest.mark.req("AD-03")

TOKENS = 6
"""One of them is a character of two bytes, one of three, and one of four."""
WORDS = (" one", " пять", " 六", " 🙂", " é", "\n\n")


class Reads:
    """The body of an answer in reads of our choice."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts: Iterator[bytes] = (part for part in parts if part)

    async def readany(self) -> bytes:
        return next(self._parts, b"")

    async def read(self, limit: int) -> bytes:
        raise NotImplementedError


class CutHttp(EngineHttp):
    """Asks questions as usual; the answer to a generation comes from ``reads``."""

    reads: Iterable[bytes] = ()

    @asynccontextmanager
    async def stream(
        self, endpoint: Endpoint, path: str, body: bytes, refusal: StatusError, *, request_id: str | None = None
    ) -> AsyncIterator[EventStream]:
        yield EventStream(Reads(self.reads), SseParser(), endpoint, path)


@asynccontextmanager
async def streams(subject: Subject) -> AsyncIterator[tuple[CutHttp, Adapter, bytes, bytes]]:
    """An adapter whose streams come from memory, and the two parts of one: the tokens and the end."""
    knobs = subject.knobs(tokens=TOKENS, words=WORDS)
    async with subject.serve(knobs) as engine, EngineHttp() as http, CutHttp() as cut:
        await generate(subject.adapter(engine.url, http), subject)
        tokens, end = _body(engine)
        yield cut, subject.adapter(engine.url, cut), tokens, end


def _body(engine: StandIn) -> tuple[bytes, bytes]:
    job = engine.wire.job(engine.requests[-1], engine.knobs)
    assert not isinstance(job, Refusal)
    run = Run(total=TOKENS, limited=False, slot=0, decode_ms=1.0)
    return _dechunked(engine.wire.block(job, engine.knobs, 0, TOKENS)), _dechunked(
        engine.wire.end(job, engine.knobs, run)
    )


def _dechunked(body: bytes) -> bytes:
    whole = bytearray()
    at = 0
    while at < len(body):
        line = body.index(b"\r\n", at)
        size = int(body[at:line], 16)
        whole += body[line + 2 : line + 2 + size]
        at = line + 2 + size + 2
    return bytes(whole)


async def read(cut: CutHttp, adapter: Adapter, subject: Subject, reads: Iterable[bytes]) -> Answer:
    cut.reads = reads
    return await generate(adapter, subject)


@pytest.mark.trap(7)
async def test_a_cut_at_any_byte_changes_nothing(subject: Subject) -> None:
    async with streams(subject) as (cut, adapter, tokens, end):
        body = tokens + end
        whole = await read(cut, adapter, subject, [body])
        assert whole.text == "".join(WORDS)
        for at in range(len(body) + 1):
            answer = await read(cut, adapter, subject, [body[:at], body[at:]])
            assert (answer.texts, answer.finished) == (whole.texts, whole.finished), f"cut at byte {at}"


@pytest.mark.trap(7)
async def test_reads_of_a_single_byte_change_nothing(subject: Subject) -> None:
    async with streams(subject) as (cut, adapter, tokens, end):
        body = tokens + end
        whole = await read(cut, adapter, subject, [body])
        answer = await read(cut, adapter, subject, (body[at : at + 1] for at in range(len(body))))
        assert (answer.texts, answer.finished) == (whole.texts, whole.finished)


@pytest.mark.trap(7)
async def test_line_ends_of_another_kind_and_a_proxys_pings_change_nothing(subject: Subject) -> None:
    async with streams(subject) as (cut, adapter, tokens, end):
        body = tokens + end
        whole = await read(cut, adapter, subject, [body])
        for changed in (body.replace(b"\n", b"\r\n"), body.replace(b"\n\n", b"\n\n: ping\n\n")):
            for step in (1, 5, len(changed)):
                reads = [changed[at : at + step] for at in range(0, len(changed), step)]
                answer = await read(cut, adapter, subject, reads)
                assert (answer.texts, answer.finished) == (whole.texts, whole.finished)


@pytest.mark.trap(17)
async def test_a_stream_that_ends_at_any_byte_is_no_success(subject: Subject) -> None:
    """But for the engine whose only end is the end of the body, where that falls between two events."""
    eof_ends = subject.manners.clean_eof_is_an_end
    async with streams(subject) as (cut, adapter, tokens, end):
        body, last = tokens + end, _last_event(end)
        for at in range(len(body)):
            answer = await read(cut, adapter, subject, [body[:at]])
            assert "".join(WORDS).startswith(answer.text)
            between = at == 0 or body[:at].endswith(b"\n\n")
            # The empty lines of the last event may be missing where the event itself is whole; of a chat of TGI, whose
            # older releases end without one, the whole [DONE].
            whole = at >= len(body) - len(last) + len(last.rstrip(b"\n"))
            whole |= subject.name == "tgi chat" and between and at > len(tokens)
            if eof_ends and between:
                assert answer.failure is None, f"cut off at byte {at}"
            elif not whole:
                assert answer.failure in {Failure.BROKEN, Failure.PROTOCOL}, f"cut off at byte {at}"


def _last_event(end: bytes) -> bytes:
    return end[end.rstrip(b"\n").rfind(b"\n\n") + 2 :] if b"\n\n" in end.rstrip(b"\n") else end


@pytest.mark.trap(7)
async def test_the_same_over_a_socket_byte_by_byte(subject: Subject, http: EngineHttp) -> None:
    knobs = subject.knobs(tokens=TOKENS, split_every=1)
    async with subject.serve(knobs) as engine:
        answer = await generate(subject.adapter(engine.url, http), subject)
    assert answer.text == text_of(TOKENS)
    assert answer.finished is not None
