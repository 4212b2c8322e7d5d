"""Whole answers of the stand-ins, byte for byte: what they say can only change where somebody changes a file here.

Each file is one answer, head and chunks included, as it goes over the wire. Where a file and an engine differ, the file
is wrong. ``python -m tests.standin.golden`` writes them anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from tests.standin.knobs import Fault, Knobs
from tests.standin.server import WIRES, StandIn

FOLDER = Path(__file__).parent
OPENAI: dict[str, Any] = {"model": "m", "stream": True, "stream_options": {"include_usage": True}, "seed": 1}
COMPLETION = {**OPENAI, "prompt": "hello", "max_tokens": 9}
CHAT = {**OPENAI, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
TGI = {"inputs": "hello", "parameters": {"details": True, "max_new_tokens": 9, "seed": 1}}
TRITON = {"text_input": "hello", "stream": True, "parameters": {"max_tokens": 9, "seed": 1}}
TRITON |= {"return_finish_reason": True, "return_num_input_tokens": True, "return_num_output_tokens": True}
GENERATE = "/v2/models/m/generate_stream"
SERVES: dict[str, tuple[str, ...]] = {"embedding": ("embedding",), "rerank": ("rerank",)}
EMBED = {"model": "m", "input": ["one", "another"]}
RANK = {"model": "m", "query": "one", "documents": ["two", "one"], "top_n": 2}

PATHS: dict[str, tuple[tuple[str, str, dict[str, Any]], ...]] = {
    "llamacpp": (("completion", "/completion", COMPLETION), ("chat", "/v1/chat/completions", CHAT)),
    "vllm": (("completion", "/v1/completions", COMPLETION), ("chat", "/v1/chat/completions", CHAT)),
    "tgi": (("completion", "/generate_stream", TGI), ("chat", "/v1/chat/completions", CHAT)),
    "triton": (("completion", GENERATE, TRITON),),
    "openai": (("completion", "/v1/completions", COMPLETION), ("chat", "/v1/chat/completions", CHAT)),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "stop": {"tokens": 2},
    "length": {"tokens": None},
    "error-first": {"tokens": 2, "fault": Fault.ERROR},
    "error": {"tokens": 2, "fault": Fault.ERROR_DONE, "fault_after": 1},
    "overloaded": {"tokens": 2, "fault": Fault.OVERLOADED},
    "too-long": {"ctx": 2},
}
QUESTIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "llamacpp": (("health", "/health"), ("nowhere", "/nowhere")),
    "vllm": (("models", "/v1/models"), ("version", "/version"), ("nowhere", "/nowhere"), ("health", "/health")),
    "tgi": (("info", "/info"), ("health", "/health"), ("models", "/v1/models")),
    "triton": (
        ("server", "/v2"),
        ("model", "/v2/models/m"),
        ("unknown", "/v2/models/other"),
        ("ready", "/v2/health/ready"),
    ),
    "openai": (("models", "/v1/models"), ("health", "/-/healthz")),
}


async def answers() -> AsyncIterator[tuple[str, bytes]]:
    """The name of each file, and what the stand-in says now."""
    for engine, paths in PATHS.items():
        for kind, path, body in paths:
            for variant, changes in VARIANTS.items():
                limit = 2 if variant == "length" else 9
                yield (
                    f"{engine}-{kind}-{variant}",
                    await _said(engine, Knobs(model="m", **changes), path, _limited(body, limit)),
                )
        for kind, path in QUESTIONS[engine]:
            yield f"{engine}-{kind}", await _said(engine, Knobs(model="m", ctx=100, slots=2), path, None)
        yield f"{engine}-unauthorized", await _said(engine, Knobs(model="m"), paths[0][1], paths[0][2], key="k")
        if engine in {"llamacpp", "vllm", "openai"}:
            for kind, path, body in (("embedding", "/v1/embeddings", EMBED), ("rerank", "/v1/rerank", RANK)):
                knobs = Knobs(model="m", serves=SERVES[kind])
                yield f"{engine}-{kind}", await _said(engine, knobs, path, body)


def _limited(body: dict[str, Any], limit: int) -> dict[str, Any]:
    match body:
        case {"parameters": {"max_new_tokens": _, **rest}}:
            return {**body, "parameters": {**rest, "max_new_tokens": limit}}
        case {"parameters": {"max_tokens": _, **rest}}:
            return {**body, "parameters": {**rest, "max_tokens": limit}}
        case _:
            return {**body, "max_tokens": limit}


async def _said(engine: str, knobs: Knobs, path: str, body: dict[str, Any] | None, *, key: str | None = None) -> bytes:
    content = b"" if body is None else msgspec.json.encode(body)
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    async with StandIn(knobs, WIRES[engine], key=key) as standin:
        reader, writer = await asyncio.open_connection("127.0.0.1", standin.port)
        writer.write(head.encode() + content)
        said = await _answer(reader)
        writer.close()
        await writer.wait_closed()
    return said


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n"))}
    if (length := fields.get(b"content-length")) is not None:
        return head + await reader.readexactly(int(length))
    body = bytearray()
    while not body.endswith(b"\r\n0\r\n\r\n"):
        body += await reader.readuntil(b"\r\n")
    return head + bytes(body)


async def write() -> None:
    """Write every file."""
    async for name, said in answers():
        (FOLDER / f"{name}.http").write_bytes(said)
