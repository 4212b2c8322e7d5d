"""A server of the OpenAI format that is none of the engines known by name: an application behind Ray Serve.

It streams as the format's reference says, refuses a full queue in plain text, and where the replica that computes
dies, the body ends before its end and nobody says why.
"""

from __future__ import annotations

from functools import lru_cache

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
)

UVICORN = b"date: Tue, 01 Sep 2026 12:00:00 GMT\r\nserver: uvicorn\r\n"
USUAL_LIMIT = 16


class OpenAi:
    """See ``base.Wire``."""

    name = "openai"
    key_variable = "OPENAI_API_KEY"
    ping = b": keep-alive\n\n"
    listens_late = False
    worker_death = WorkerDeath.TRUNCATES
    closes_after_errors = False

    def gate(self, request: Request, *, authorized: bool, loading: bool) -> Answer | None:
        if not authorized and request.path != "/-/healthz":
            return Answer(401, ENCODE(error("Incorrect API key provided.", "invalid_request_error", "invalid_api_key")))
        if loading:
            return Answer(503, b"Service Unavailable", "text/plain; charset=utf-8")
        return None

    def generates(self, request: Request) -> bool:
        return request.method == "POST" and request.path in openai_style.TASKS

    def job(self, request: Request, knobs: Knobs) -> Job | Answer:
        kind = openai_style.TASKS[request.path]
        if kind not in knobs.serves:
            return Answer(404, b'{"detail":"Not Found"}')
        body = decoded(request.body)
        if isinstance(body, str):
            return Answer(400, ENCODE(error(f"We could not parse the JSON body: {body}", "invalid_request_error")))
        if body.get("model") != knobs.model:
            text = f"The model `{body.get('model')}` does not exist."
            return Answer(404, ENCODE(error(text, "invalid_request_error", "model_not_found", "model")))
        job = openai_style.job_of(kind, body, usual_limit=USUAL_LIMIT)
        if isinstance(job, str):
            text = f"Missing required parameter: '{job}'."
            return Answer(400, ENCODE(error(text, "invalid_request_error", "missing_required_parameter", job)))
        if job.evaluated >= knobs.ctx:
            text = (
                f"This model's maximum context length is {knobs.ctx} tokens. However, your messages resulted in "
                f"{job.evaluated} tokens. Please reduce the length of the messages."
            )
            said = error(text, "invalid_request_error", "context_length_exceeded", openai_style.FIELD[kind])
            return Answer(400, ENCODE(said))
        return job

    def plain(self, request: Request, engine: Looks) -> Answer:
        knobs = engine.knobs
        match request.method, request.path:
            case "GET", "/-/healthz":
                return Answer(200, b"success", "text/plain; charset=utf-8")
            case "GET", "/v1/models":
                card = {"id": knobs.model, "object": "model", "created": CREATED, "owned_by": "us"}
                return Answer(200, ENCODE({"object": "list", "data": [card]}))
            case "GET", "/openapi.json":
                return Answer(200, ENCODE(openai_style.openapi(knobs)))
            case "GET", "/metrics" if knobs.metrics:
                return Answer(200, knobs.metrics.encode(), "text/plain")
            case _:
                return Answer(404, b'{"detail":"Not Found"}')

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
        return _block(job.kind, knobs.words, job.seed % len(knobs.words), model=knobs.model, index=index, count=count)

    def end(self, job: Job, knobs: Knobs, run: Run) -> bytes:
        finish = chunk(_event(job.kind, knobs.model, "", "length" if run.limited else "stop"))
        if not openai_style.wants_usage(job):
            return finish + chunk(DONE)
        said = {**_head(job.kind, knobs.model), "choices": [], "usage": openai_style.usage(job, knobs, run.total)}
        return finish + chunk(data(said)) + chunk(DONE)

    def whole(self, job: Job, knobs: Knobs, run: Run) -> Answer:
        return Answer(200, ENCODE(openai_style.whole(job, knobs, run)))

    def event(self, job: Job, knobs: Knobs, text: str) -> bytes:
        return _event(job.kind, knobs.model, text)

    def failure(self, job: Job, fault: Fault) -> tuple[int, bytes]:
        match fault:
            case Fault.ERROR_STRING:
                return 200, data({"error": "the worker died"})
            case Fault.OVERLOADED:
                said = error("That model is currently overloaded.", "server_error", "rate_limit_exceeded")
            case _:
                said = error("The server had an error while processing your request.", "server_error")
        return 200, data(said) + (DONE if fault is Fault.ERROR_DONE else b"")


def error(message: str, kind: str, code: str | None = None, param: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _head(kind: Kind, model: str) -> dict[str, object]:
    chat = kind is Kind.CHAT
    return {
        "id": "chatcmpl-standin" if chat else "cmpl-standin",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": CREATED,
        "model": model,
    }


def _event(kind: Kind, model: str, text: str, finish: str | None = None) -> bytes:
    choice: dict[str, object] = {"index": 0}
    if kind is Kind.CHAT:
        choice["delta"] = {"content": text} if finish is None else {}
    else:
        choice["text"] = text
    choice |= {"logprobs": None, "finish_reason": finish}
    return data({**_head(kind, model), "choices": [choice]})


@lru_cache(maxsize=4096)
def _block(kind: Kind, words: tuple[str, ...], first: int, *, model: str, index: int, count: int) -> bytes:
    role = b""
    if kind is Kind.CHAT and index == 0:
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        role = chunk(data({**_head(kind, model), "choices": [choice]}))
    texts = (words[(first + i) % len(words)] for i in range(index, index + count))
    return role + b"".join(chunk(_event(kind, model, text)) for text in texts)
