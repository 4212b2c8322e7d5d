"""vLLM's OpenAI server, behind uvicorn.

Every byte is as its serving code writes it: events by pydantic without what was never set, errors by ``json.dumps``
with its spaces, and ``[DONE]`` after either of them.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from tests.standin.connection import Request
from tests.standin.knobs import Fault, Knobs
from tests.standin.wires import openai_style
from tests.standin.wires.base import (
    CREATED,
    DONE,
    ENCODE,
    REASONS,
    Answer,
    Job,
    Kind,
    Looks,
    Run,
    WorkerDeath,
    answer_bytes,
    chunk,
    data,
    decoded,
    render,
    tokenize,
)

UVICORN = b"date: Tue, 01 Sep 2026 12:00:00 GMT\r\nserver: uvicorn\r\n"
DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
USUAL_LIMIT = 16
METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="{model}"}} {running}.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="{model}"}} {waiting}.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0",model_name="{model}"}} 0.25
"""


def error(message: str, kind: str, code: int, param: str | None = None) -> dict[str, object]:
    """An error in the order of its class."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Vllm:
    """See ``base.Wire``."""

    name = "vllm"
    key_variable = "VLLM_API_KEY"
    ping = b": ping\n\n"  # it sends none; a proxy on the way may
    listens_late = True
    worker_death = WorkerDeath.REPORTED
    closes_after_errors = False

    def gate(self, request: Request, *, authorized: bool, loading: bool) -> Answer | None:
        if not authorized and request.path.startswith(("/v1", "/v2", "/inference")):
            return Answer(401, b'{"error":"Unauthorized"}')
        return None

    def generates(self, request: Request) -> bool:
        return request.method == "POST" and request.path in openai_style.TASKS

    def job(self, request: Request, knobs: Knobs) -> Job | Answer:
        kind = openai_style.TASKS[request.path]
        if kind not in knobs.serves:
            return Answer(404, b'{"detail":"Not Found"}')
        body = decoded(request.body)
        if isinstance(body, str):
            return _refusal(400, f"[{{'type': 'json_invalid', 'loc': ('body', 1), 'msg': '{body}'}}]")
        if body.get("model") not in {None, knobs.model}:
            text = f"The model `{body['model']}` does not exist."
            return Answer(404, ENCODE(error(text, "NotFoundError", 404, "model")))
        job = openai_style.job_of(kind, body, usual_limit=USUAL_LIMIT)
        if isinstance(job, str):
            text = f"[{{'type': 'missing', 'loc': ('body', '{job}'), 'msg': 'Field required'}}]"
            return _refusal(400, text)
        if body.get("stream_options") and not job.stream:
            return _refusal(400, "Stream options can only be defined when `stream=True`.", "stream_options")
        if job.evaluated >= knobs.ctx:
            text = (
                f"You passed {job.evaluated} input tokens and requested {job.limit or 0} output tokens. However, the "
                f"model's context length is only {knobs.ctx} tokens, resulting in a maximum input length of "
                f"{max(knobs.ctx - (job.limit or 0), 0)} tokens. Please reduce the length of the input prompt. "
                f"(parameter=input_tokens, value={job.evaluated})"
            )
            return _refusal(400, text, "input_tokens")
        return job

    def plain(self, request: Request, engine: Looks) -> Answer:
        knobs = engine.knobs
        match request.method, request.path:
            case "GET" | "POST", "/health" | "/ping":
                return Answer(503 if engine.broken else 200, content_type=None)
            case "GET", "/version":
                said: object = {"version": knobs.build}
            case "GET", "/v1/models":
                said = {"object": "list", "data": [_card(knobs)]}
            case "GET", "/openapi.json":
                said = _openapi(knobs)
            case "POST", "/tokenize":
                return _tokenized(request, knobs)
            case "GET", "/metrics" if knobs.metrics != "":
                text = METRICS.format(model=knobs.model, running=engine.stats.running, waiting=engine.stats.waiting)
                return Answer(200, (knobs.metrics or text).encode(), "text/plain; version=0.0.4; charset=utf-8")
            case _:
                return Answer(404, b'{"detail":"Not Found"}')
        return Answer(200, ENCODE(said))

    def answer(self, answer: Answer) -> bytes:
        return answer_bytes(answer, before=UVICORN)

    def head(self, status: int, content_type: str | None) -> bytes:
        kind = (content_type or "text/event-stream; charset=utf-8").encode()
        return (
            b"HTTP/1.1 %d %b\r\n" % (status, REASONS[status].encode())
            + UVICORN
            + b"content-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % kind
        )

    def block(self, job: Job, knobs: Knobs, index: int, count: int) -> bytes:
        first = job.seed % len(knobs.words)
        limited = job.limit is not None and (knobs.tokens is None or job.limit <= knobs.tokens)
        limit = job.limit if limited else None
        return _block(job.kind, knobs.words, first, model=knobs.model, index=index, count=count, limit=limit)

    def end(self, job: Job, knobs: Knobs, run: Run) -> bytes:
        """The finishing event, the usage in one without choices, and [DONE]: each in a chunk of its own.

        At the limit the last token's own event was the finishing one.
        """
        finish = b"" if run.limited and run.total else chunk(_event(job.kind, knobs.model, "", "stop"))
        role = chunk(_role(knobs.model)) if job.kind is Kind.CHAT and run.total == 0 else b""
        if not openai_style.wants_usage(job):
            return role + finish + chunk(DONE)
        counts = openai_style.usage(job, knobs, run.total)
        said = {**_head(job.kind, knobs.model), "choices": [], "usage": counts}
        return role + finish + chunk(data(said)) + chunk(DONE)

    def whole(self, job: Job, knobs: Knobs, run: Run) -> Answer:
        return Answer(200, ENCODE(openai_style.whole(job, knobs, run)))

    def event(self, job: Job, knobs: Knobs, text: str) -> bytes:
        return _event(job.kind, knobs.model, text)

    def failure(self, job: Job, fault: Fault) -> tuple[int, bytes]:
        match fault:
            case Fault.ERROR_STRING:
                return 200, data({"error": "the worker died"})
            case Fault.OVERLOADED:
                said = error("The server is overloaded", "ServiceUnavailableError", 503)
            case _:
                said = error(DEAD, "InternalServerError", 500)
        done = b"" if fault is Fault.ERROR else DONE
        return 200, b"data: " + json.dumps(said).encode() + b"\n\n" + done


def _refusal(status: int, message: str, param: str | None = None) -> Answer:
    return Answer(status, ENCODE(error(message, "BadRequestError", status, param)))


def _head(kind: Kind, model: str) -> dict[str, object]:
    chat = kind is Kind.CHAT
    name = "chatcmpl-standin0000" if chat else "cmpl-standin0000"
    return {
        "id": name,
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": CREATED,
        "model": model,
    }


def _event(kind: Kind, model: str, text: str, finish: str | None = None) -> bytes:
    choice: dict[str, object] = {"index": 0}
    if kind is Kind.CHAT:
        choice |= {"delta": {"content": text}, "logprobs": None, "finish_reason": finish}
        if finish is not None:
            choice["stop_reason"] = None
        choice["token_ids"] = None
    else:
        choice |= {"text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None}
        choice |= {"prompt_token_ids": None, "token_ids": None}
    return data({**_head(kind, model), "choices": [choice]})


def _role(model: str) -> bytes:
    """The first event of a chat."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    return data({**_head(Kind.CHAT, model), "choices": [choice], "prompt_token_ids": None})


@lru_cache(maxsize=4096)
def _block(
    kind: Kind, words: tuple[str, ...], first: int, *, model: str, index: int, count: int, limit: int | None
) -> bytes:
    role = chunk(_role(model)) if kind is Kind.CHAT and index == 0 else b""
    events = (
        _event(kind, model, words[(first + i) % len(words)], "length" if limit == i + 1 else None)
        for i in range(index, index + count)
    )
    return role + b"".join(map(chunk, events))


def _card(knobs: Knobs) -> dict[str, object]:
    return {
        "id": knobs.model,
        "object": "model",
        "created": CREATED,
        "owned_by": "vllm",
        "root": knobs.model,
        "parent": None,
        "max_model_len": knobs.ctx,
        "permission": [],
    }


def _openapi(knobs: Knobs) -> dict[str, Any]:
    own = ("top_k", "min_p", "repetition_penalty", "response_format", "structured_outputs", "cache_salt", "priority")
    document: dict[str, Any] = openai_style.openapi(knobs, *own)
    names = ("model", "prompt", "messages")
    schema = {"type": "object", "properties": {name: {} for name in names}}
    document["paths"] |= {
        "/tokenize": {"post": {"requestBody": {"content": {"application/json": {"schema": schema}}}}},
        **{path: {"get": {}} for path in ("/health", "/ping", "/version", "/metrics")},
    }
    return document


def _tokenized(request: Request, knobs: Knobs) -> Answer:
    body = decoded(request.body)
    if isinstance(body, str):
        return _refusal(400, body)
    text = render(body["messages"]) if "messages" in body else str(body.get("prompt", ""))
    tokens = tokenize(text, bos=True)
    return Answer(200, ENCODE({"count": len(tokens), "max_model_len": knobs.ctx, "tokens": tokens, "token_strs": None}))
