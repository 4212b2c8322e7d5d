"""``python -m bench.floor --engine URL``: the least that a relay in Python can be, to be measured beside ours.

aiohttp on both sides and no product between them: it decodes every event of llama-server, encodes it as our ``token``
frame, and writes all frames of one read at once. No token, no queue, no slot, no limit, no log, no second reader, and
the engine's connection is used again. What it cannot do is what ours costs more for.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import aiohttp
import msgspec
from aiohttp import web

from tests.standin.loops import uvloop_factory


class Wanted(msgspec.Struct):
    """What is looked at of a task."""

    prompt: str
    max_tokens: int
    seed: int


class Event(msgspec.Struct):
    """What is looked at of an event of ``/completion``."""

    content: str = ""
    stop: bool = False


_wanted = msgspec.json.Decoder(Wanted).decode
_event = msgspec.json.Decoder(Event).decode
_encode = msgspec.json.Encoder().encode
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
ENGINE: web.AppKey[aiohttp.ClientSession] = web.AppKey("engine", aiohttp.ClientSession)


async def relay(request: web.Request) -> web.StreamResponse:
    """``POST /v1/tasks`` of a client that wants the stream at once."""
    wanted = _wanted(await request.read())
    body = {"prompt": wanted.prompt, "stream": True, "n_predict": wanted.max_tokens, "seed": wanted.seed}
    response = web.StreamResponse(headers=HEADERS)
    async with request.app[ENGINE].post("/completion", data=_encode(body), headers=HEADERS_OUT) as engine:
        await response.prepare(request)
        number, rest = 0, b""
        while chunk := await engine.content.readany():
            *events, rest = (rest + chunk).split(b"\n\n")
            frames = []
            for data in events:
                text = _event(data[6:]).content  # behind "data: "
                if text:
                    frames.append(b'event: token\nid: %d\ndata: {"t":%b,"i":%d}\n\n' % (number, _encode(text), number))
                    number += 1
            if frames:
                await response.write(b"".join(frames))
    await response.write_eof()
    return response


HEADERS_OUT = {"Content-Type": "application/json"}


async def healthz(_: web.Request) -> web.Response:
    """``GET /healthz``."""
    return web.Response(body=b'{"status":"ok"}', content_type="application/json")


def make_app(engine_url: str) -> web.Application:
    """The relay before one engine."""

    async def session(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(engine_url, connector=connector, auto_decompress=False) as app[ENGINE]:
            yield

    app = web.Application()
    app.cleanup_ctx.append(session)
    app.add_routes([web.post("/v1/tasks", relay), web.get("/healthz", healthz)])
    return app


async def serve(engine_url: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    runner = web.AppRunner(make_app(engine_url), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
        sys.stderr.write(f"listening on http://127.0.0.1:{runner.addresses[0][1]}\n")
        sys.stderr.flush()
        await over.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """The relay as a process."""
    parser = argparse.ArgumentParser(prog="python -m bench.floor", description=__doc__)
    parser.add_argument("--engine", required=True, metavar="URL")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop_factory() if options.uvloop else None) as runner:
        runner.run(serve(options.engine, options.port))


if __name__ == "__main__":
    main()
