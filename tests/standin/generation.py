"""One generation of the stand-in on its way through a slot, and where it goes wrong."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tests.standin import wire
from tests.standin.connection import Connection
from tests.standin.knobs import Fault
from tests.standin.state import State

WRITES_BETWEEN_YIELDS = 16
TOKENS = 16
"""In a generation that nobody limits."""


class Generation:
    """One generation on its way through a slot."""

    def __init__(
        self, engine: State, connection: Connection, body: dict[str, Any], *, chat: bool, evaluated: int
    ) -> None:
        self._engine = engine
        self._knobs = engine.knobs
        self._connection = connection
        self._body = body
        self._chat = chat
        self._evaluated = evaluated
        self._started = False
        asked = body.get("n_predict", body.get("max_tokens", -1))
        own = self._knobs.tokens
        self._limited = isinstance(asked, int) and asked >= 0 and (own is None or asked <= own)
        self._total = asked if self._limited else TOKENS if own is None else own

    async def run(self) -> None:
        stats = self._engine.stats
        try:
            slot = await self._engine.acquire()
            try:
                await (self._stream(slot) if self._body.get("stream") is True else self._whole(slot))
            finally:
                self._engine.release(slot)
        except asyncio.CancelledError:
            stats.cancelled += 1
            raise
        finally:
            self._engine.changed()

    async def _whole(self, slot: int) -> None:
        text = "".join(self._words()[i % len(self._words())] for i in range(self._total))
        await self._connection.write(wire.answer(200, wire.ENCODE({**self._final(slot), "content": text})))
        self._engine.stats.completed += 1

    async def _stream(self, slot: int) -> None:
        if self._knobs.not_sse:
            await self._connection.write(wire.answer(200, b"<html>hello</html>", "text/html"))
            return
        await self._pause(self._knobs.first_token_delay_ms)
        faulty = self._knobs.fault is not Fault.NONE and self._knobs.fault_after <= self._total
        await self._send_tokens(0, self._knobs.fault_after if faulty else self._total)
        if faulty and await self._fail():
            self._engine.stats.failed += 1
            return
        if faulty:
            await self._send_tokens(self._knobs.fault_after, self._total)
        await self._send_end(slot)
        self._engine.stats.completed += 1

    async def _send_tokens(self, index: int, end: int) -> None:
        writes = 0
        while index < end:
            count = min(self._knobs.tokens_per_write, end - index)
            await self._send(self._block(index, count))
            self._engine.stats.tokens += count
            index += count
            writes += 1
            if self._knobs.token_delay_ms:
                await self._pause(self._knobs.token_delay_ms * count)
            elif writes % WRITES_BETWEEN_YIELDS == 0:
                await asyncio.sleep(0)  # a client that left must be noticed

    def _block(self, index: int, count: int) -> bytes:
        words, first = self._knobs.words, self._first()
        if self._chat:
            return wire.chat_block(words, first, index, count, model=self._knobs.model, build=self._knobs.build)
        return wire.completion_block(words, first, index, count, self._evaluated)

    async def _send_end(self, slot: int) -> None:
        if not self._chat:
            await self._send(wire.chunk(wire.event(self._final(slot))))
        else:
            options = self._body.get("stream_options")
            final = wire.chat_final(
                model=self._knobs.model,
                build=self._knobs.build,
                predicted=self._total,
                evaluated=self._evaluated,
                finish="length" if self._limited else "stop",
                usage=isinstance(options, dict) and options.get("include_usage") is True,
                timings=wire.timings(self._total, self._evaluated, self._decode_ms()),
            )
            await self._send(wire.chunk(final))
            await self._send(wire.chunk(wire.DONE))
        await self._end()

    async def _end(self) -> None:
        await self._send(wire.END_OF_BODY)
        if self._knobs.close_streams:
            self._connection.transport.close()

    async def _fail(self) -> bool:
        """Do what the fault says; False where the stream goes on after it."""
        match self._knobs.fault:
            case Fault.EXIT:
                os._exit(9)
            case Fault.CLOSE:
                await self._send(b"")
                self._connection.transport.close()
            case Fault.RESET:
                self._connection.transport.abort()
            case Fault.HANG:
                await self._send(b"")
                await asyncio.get_running_loop().create_future()
            case Fault.EOF:
                await self._end()
            case Fault.CUT:
                await self._send(wire.chunk(b'data: {"index":0,"content":"ab'))
                await self._end()
            case Fault.HUGE:
                await self._send(wire.chunk(self._huge()))
                return False
            case Fault.GARBAGE:
                await self._send(wire.chunk(b'data: {"index":0,"content":"ab\n\n'))
                await self._end()
            case fault:
                await self._send(wire.chunk(_error_events(fault)))
                await self._end()
        return True

    def _huge(self) -> bytes:
        text = "x" * self._knobs.huge_bytes
        if self._chat:
            return wire.chat_event(self._knobs.model, self._knobs.build, {"content": text})
        return wire.event({"index": 0, "content": text, "tokens": [1], "stop": False, "id_slot": -1})

    async def _send(self, data: bytes) -> None:
        if not self._started:
            self._started = True
            data = wire.STREAM_HEAD + data
        await self._connection.write(data)

    async def _pause(self, ms: float) -> None:
        ping = self._knobs.ping_ms
        while ping is not None and ms > ping:
            await asyncio.sleep(ping / 1000)
            await self._send(wire.chunk(wire.PING))
            ms -= ping
        if ms:
            await asyncio.sleep(ms / 1000)

    def _first(self) -> int:
        seed = self._body.get("seed", 0)
        return seed % len(self._knobs.words) if isinstance(seed, int) and seed >= 0 else 0

    def _words(self) -> tuple[str, ...]:
        words, first = self._knobs.words, self._first()
        return words[first:] + words[:first]

    def _decode_ms(self) -> float:
        return self._total * self._knobs.token_delay_ms

    def _final(self, slot: int) -> dict[str, object]:
        return wire.completion_final(
            body=self._body,
            model=self._knobs.model,
            slot=slot,
            predicted=self._total,
            evaluated=self._evaluated,
            stop_type="limit" if self._limited else "eos",
            predicted_ms=self._decode_ms(),
        )


def _error_events(fault: Fault) -> bytes:
    error = wire.error(500, "Context size has been exceeded.", "server_error")
    match fault:
        case Fault.ERROR_FIELD:
            return b"error: " + error.removeprefix(b'{"error":')[:-1] + b"\n\n"
        case Fault.ERROR_STRING:
            return wire.event({"error": "the worker died"})
        case Fault.ERROR_DONE:
            return b"data: " + error + b"\n\n" + wire.DONE
        case _:
            return b"data: " + error + b"\n\n"
