"""One generation of the stand-in on its way through a slot, and where it goes wrong."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from tests.standin.connection import Connection
from tests.standin.knobs import Fault, Times
from tests.standin.state import State
from tests.standin.wires.base import DONE, END_OF_BODY, Answer, Job, Run, WorkerDeath, chunk

WRITES_BETWEEN_YIELDS = 16
GATE_LOOK_MS = 5
TOKENS = 16
"""In a generation that nobody limits."""


class Generation:
    """One generation on its way through a slot."""

    def __init__(self, engine: State, connection: Connection, job: Job) -> None:
        self._engine = engine
        self._wire = engine.wire
        self._knobs = engine.knobs
        self._connection = connection
        self._job = job
        self._started = False
        own = self._knobs.tokens
        limit = job.limit if self._knobs.heeds_limit else None
        self._limited = limit is not None and (own is None or limit <= own)
        self._total = limit if self._limited and limit is not None else TOKENS if own is None else own

    async def run(self) -> None:
        stats = self._engine.stats
        came = time.monotonic_ns()
        try:
            slot = await self._engine.acquire()
            began = time.monotonic_ns()
            try:
                await self._answer(slot)
            finally:
                self._engine.release(slot)
                self._engine.times.append(Times(came, began, time.monotonic_ns()))
        except asyncio.CancelledError:
            stats.cancelled += 1
            raise
        finally:
            self._engine.changed()

    async def _answer(self, slot: int) -> None:
        if self._knobs.not_sse:
            await self._connection.write(self._wire.answer(Answer(200, b"<html>hello</html>", "text/html")))
        elif self._job.stream:
            await self._stream(slot)
        else:
            await self._whole(slot)

    async def _whole(self, slot: int) -> None:
        """An answer that comes in one piece; a fault hits it before, or in its middle."""
        await asyncio.sleep(self._knobs.first_token_delay_ms / 1000)
        answer = self._wire.answer(self._wire.whole(self._job, self._knobs, self._run(slot)))
        match self._knobs.fault:
            case Fault.NONE:
                await self._connection.write(answer)
                self._engine.stats.completed += 1
                return
            case Fault.EXIT | Fault.EXIT_ZERO:
                os._exit(0 if self._knobs.fault is Fault.EXIT_ZERO else 9)
            case Fault.HANG:
                await self._connection.write(answer[:-1])
                await asyncio.get_running_loop().create_future()
            case Fault.GARBAGE:
                await self._connection.write(answer[:-1] + b"!")
            case _:
                await self._connection.write(answer[: -len(answer) // 4])
                self._connection.transport.close()
        self._engine.stats.failed += 1

    async def _stream(self, slot: int) -> None:
        await self._pause(self._knobs.first_token_delay_ms)
        faulty = self._knobs.fault is not Fault.NONE and self._knobs.fault_after <= self._total
        await self._send_tokens(0, self._knobs.fault_after if faulty else self._total)
        if faulty and await self._fail(slot):
            self._engine.stats.failed += 1
            return
        if faulty:
            await self._send_tokens(self._knobs.fault_after, self._total)
        await self._send_end(slot)
        await self._end()
        self._engine.stats.completed += 1

    async def _send_tokens(self, index: int, end: int) -> None:
        writes = 0
        loop = asyncio.get_running_loop()
        due, delay_ms = loop.time(), self._knobs.token_delay_ms
        while index < end:
            count = min(self._knobs.tokens_per_write, end - index)
            await self._opened(index)
            await self._send(self._block(index, count))
            self._engine.stats.tokens += count
            index += count
            writes += 1
            if delay_ms and self._knobs.steady:
                due += delay_ms * count / 1000
                await self._pause(max(0.0, due - loop.time()) * 1000)
            elif delay_ms:
                await self._pause(delay_ms * count)
            elif writes % WRITES_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)  # a client that left must be noticed

    def _block(self, index: int, count: int) -> bytes:
        if self._knobs.stamped:
            stamp = f"@{time.monotonic_ns()};"
            return b"".join(chunk(self._wire.event(self._job, self._knobs, stamp)) for _ in range(count))
        if not self._knobs.event_fields:
            return self._wire.block(self._job, self._knobs, index, count)
        fields, words = self._knobs.event_fields.encode() + b"\n", self._knobs.words
        texts = (words[(self._job.seed + i) % len(words)] for i in range(index, index + count))
        return b"".join(chunk(fields + self._wire.event(self._job, self._knobs, text)) for text in texts)

    def _run(self, slot: int) -> Run:
        spent = self._total * self._knobs.token_delay_ms
        return Run(total=self._total, limited=self._limited, slot=slot, decode_ms=spent)

    async def _send_end(self, slot: int) -> None:
        await self._send(self._wire.end(self._job, self._knobs, self._run(slot)))

    async def _end(self) -> None:
        await self._send(END_OF_BODY)
        if self._knobs.close_streams:
            self._connection.transport.close()

    async def _fail(self, slot: int) -> bool:
        """Do what the fault says; False where the stream goes on after it."""
        match self._knobs.fault:
            case Fault.EXIT:
                os._exit(9)
            case Fault.EXIT_ZERO:
                os._exit(0)
            case Fault.WORKER:
                await self._lose_the_worker()
            case Fault.CLOSE:
                await self._send(b"")
                self._connection.transport.close()
            case Fault.RESET:
                self._connection.transport.abort()
            case Fault.HANG:
                await self._hang()
            case Fault.HUGE:
                await self._send(chunk(self._wire.event(self._job, self._knobs, "x" * self._knobs.huge_bytes)))
                return False
            case Fault.HEADERS:
                await self._never_end_the_headers()
            case Fault.TWO_ENDS | Fault.AFTER_END:
                await self._send_end(slot)
                again = self._knobs.fault is Fault.TWO_ENDS
                await (self._send_end(slot) if again else self._send(self._block(0, 1)))
                await self._end()
            case fault:
                await self._send_broken(fault)
        return True

    async def _send_broken(self, fault: Fault) -> None:
        """Faults that are events, and a clean end of the body after them."""
        status, events = 200, b""
        match fault:
            case Fault.EOF:
                pass
            case Fault.ONLY_DONE:
                events = DONE
            case Fault.CUT:
                events = self._wire.event(self._job, self._knobs, "ab")[:-5]
            case Fault.GARBAGE:
                events = self._wire.event(self._job, self._knobs, "ab")[:-4] + b"\n\n"
            case Fault.NOT_UTF8:
                events = self._wire.event(self._job, self._knobs, "=E9=").replace(b"=E9=", b"\xe9")
            case _:
                status, events = self._wire.failure(self._job, fault)
        await self._send(chunk(events) if events else b"", status)
        await self._end()

    async def _lose_the_worker(self) -> None:
        match self._wire.worker_death:
            case WorkerDeath.TAKES_ALL:
                self._connection.transport.abort()
            case WorkerDeath.TRUNCATES:
                await self._send(b"")
                self._connection.transport.close()
            case WorkerDeath.HANGS:
                await self._hang()
            case WorkerDeath.REPORTED:
                self._engine.broken = True
                await self._send_broken(Fault.WORKER)

    async def _hang(self) -> None:
        await self._send(b"")
        await asyncio.get_running_loop().create_future()

    async def _never_end_the_headers(self) -> None:
        await self._connection.write(b"HTTP/1.1 200 OK\r\n")
        number = 0
        while True:
            await self._connection.write(b"X-More-%d: %b\r\n" % (number, b"x" * 1000))
            number += 1
            await asyncio.sleep(0)

    async def _send(self, data: bytes, status: int = 200) -> None:
        if not self._started:
            self._started = True
            data = self._wire.head(status, self._knobs.stream_type) + data
        await self._connection.write(data)

    async def _opened(self, index: int) -> None:
        """Wait for as long as there is a gate before this token."""
        knobs = self._knobs
        while knobs.gate is not None and index >= knobs.gate_after and Path(knobs.gate).exists():
            await self._pause(GATE_LOOK_MS)

    async def _pause(self, ms: float) -> None:
        ping = self._knobs.ping_ms
        while ping is not None and ms > ping:
            await asyncio.sleep(ping / 1000)
            await self._send(chunk(self._wire.ping))
            ms -= ping
        if ms:
            await asyncio.sleep(ms / 1000)
