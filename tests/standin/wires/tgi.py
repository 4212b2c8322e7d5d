"""Hugging Face's text-generation-inference, behind its Rust router.

Its events have no space behind ``data:``, every failure of a stream comes inside a 200, and only the chat ends with
``[DONE]``: ``/generate_stream`` ends with the event whose ``generated_text`` is set.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from tests.standin.connection import Request
from tests.standin.knobs import Fault, Knobs
from tests.standin.wires.base import (
    CREATED,
    ENCODE,
    END_OF_BODY,
    REASONS,
    Answer,
    Job,
    Kind,
    Looks,
    Run,
    WorkerDeath,
    answer_bytes,
    chunk,
    count_of,
    data,
    decoded,
    render,
    tokenize,
    word,
    words_from,
)

PREFIX = b"data:"
STREAM = "text/event-stream"
DONE = b"data:[DONE]\n\n"
TASKS = {
    "/generate": Kind.COMPLETION,
    "/generate_stream": Kind.COMPLETION,
    "/v1/chat/completions": Kind.CHAT,
}
USUAL_LIMIT = 100
DATE = b"date: Tue, 01 Sep 2026 12:00:00 GMT\r\n"
METRICS = "# TYPE tgi_queue_size gauge\ntgi_queue_size {waiting}\n# TYPE tgi_batch_current_size gauge\n"
METRICS += "tgi_batch_current_size {running}\n"


def error(message: str, kind: str) -> dict[str, object]:
    return {"error": message, "error_type": kind}


class Tgi:
    """See ``base.Wire``."""

    name = "tgi"
    key_variable = "API_KEY"
    ping = b":\n\n"
    listens_late = False
    worker_death = WorkerDeath.REPORTED
    closes_after_errors = False

    def gate(self, request: Request, *, authorized: bool, loading: bool) -> Answer | None:
        if not authorized and (request.path in TASKS or request.path == "/tokenize"):
            return Answer(401, content_type=None)
        if loading and request.path in {"/health", "/ping", "/"}:
            return _unhealthy()
        if loading:
            return Answer(503, ENCODE(error("unhealthy", "healthcheck")))
        return None

    def generates(self, request: Request) -> bool:
        return request.method == "POST" and request.path in TASKS

    def job(self, request: Request, knobs: Knobs) -> Job | Answer:
        kind = TASKS[request.path]
        body = decoded(request.body)
        if isinstance(body, str):
            return Answer(400, f"Failed to parse the request body as JSON: {body}".encode(), "text/plain")
        parameters = body.get("parameters") or {}
        if kind is Kind.COMPLETION and ("inputs" not in body or not isinstance(parameters, dict)):
            text = "Failed to deserialize the JSON body into the target type: missing field `inputs`"
            return Answer(422, text.encode(), "text/plain; charset=utf-8")
        job = _job(kind, request.path, body, parameters)
        refused = _refused(job, parameters, knobs)
        if refused is None:
            return job
        # The stream is a 200 that begins with its error; a chat is worded for clients of the OpenAI format.
        said = {"error": {"message": refused, "http_status_code": 422}} if kind is Kind.CHAT else None
        events = data(said or error(refused, "validation"), PREFIX) + (DONE if kind is Kind.CHAT else b"")
        if not job.stream:
            return Answer(422, ENCODE(error(refused, "validation")))
        return Answer(200, events, STREAM)

    def plain(self, request: Request, engine: Looks) -> Answer:
        knobs = engine.knobs
        match request.method, request.path:
            case "GET", "/health" | "/ping" | "/":
                return _unhealthy() if engine.broken else Answer(200, content_type=None)
            case "GET", "/info":
                return Answer(200, ENCODE(_info(knobs)))
            case "GET", "/v1/models":
                card = {"id": knobs.model, "object": "model", "created": 0, "owned_by": knobs.model}
                return Answer(200, ENCODE({"object": "list", "data": [card]}))
            case "POST", "/tokenize" | "/chat_tokenize":
                return _tokenized(request)
            case "GET", "/metrics" if knobs.metrics != "":
                text = METRICS.format(waiting=engine.stats.waiting, running=engine.stats.running)
                return Answer(200, (knobs.metrics or text).encode(), "text/plain")
            case _:
                return Answer(404, content_type=None)

    def answer(self, answer: Answer) -> bytes:
        if answer.content_type == STREAM:  # a stream whose only event is its refusal
            return self.head(answer.status, None) + chunk(answer.body) + END_OF_BODY
        return answer_bytes(answer, after=DATE)

    def head(self, status: int, content_type: str | None) -> bytes:
        return (
            b"HTTP/1.1 %d %b\r\nx-compute-type: gpu+optimized\r\nx-compute-characters: 5\r\nx-accel-buffering: no\r\n"
            b"content-type: %b\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n%b\r\n"
        ) % (status, REASONS[status].encode(), (content_type or STREAM).encode(), DATE)

    def block(self, job: Job, knobs: Knobs, index: int, count: int) -> bytes:
        if _is_limited(job, knobs) and index + count == job.limit:
            count -= 1  # the last token is the end
        return _block(job.kind, knobs.words, job.seed % len(knobs.words), model=knobs.model, index=index, count=count)

    def end(self, job: Job, knobs: Knobs, run: Run) -> bytes:
        """The event of the last token: the special one that ended the text, or the last one that was asked for."""
        last = word(job, knobs, run.total - 1) if run.limited and run.total else ""
        if job.kind is Kind.CHAT:
            return _chat_end(job, knobs, run, last)
        words = words_from(job, knobs)
        said: dict[str, object] = {
            "index": run.total + (0 if run.limited else 1),
            "token": {"id": 2, "text": last if run.limited else "</s>", "logprob": -0.5, "special": not run.limited},
            "generated_text": "".join(words[i % len(words)] for i in range(min(run.total, 1000))),
            "details": None,
        }
        if (job.body.get("parameters") or {}).get("details") is True:
            said["details"] = {
                "finish_reason": "length" if run.limited else "eos_token",
                "generated_tokens": count_of(knobs, run.total),
                "seed": job.seed,
                "input_length": count_of(knobs, job.evaluated),
            }
        return chunk(data(said, PREFIX))

    def whole(self, job: Job, knobs: Knobs, run: Run) -> Answer:
        words = words_from(job, knobs)
        return Answer(200, ENCODE({"generated_text": "".join(words[i % len(words)] for i in range(run.total))}))

    def event(self, job: Job, knobs: Knobs, text: str) -> bytes:
        return _event(job.kind, knobs.model, 1, 301, text)

    def failure(self, job: Job, fault: Fault) -> tuple[int, bytes]:
        if fault is Fault.OVERLOADED:
            message, kind = "Model is overloaded", "overloaded"
        else:
            message, kind = "Request failed during generation: Server error: transport error", "generation"
        if job.kind is not Kind.CHAT:
            return 200, data(error(message, kind), PREFIX) + (DONE if fault is Fault.ERROR_DONE else b"")
        if fault is Fault.ERROR_STRING:
            return 200, data({"error": message}, PREFIX)
        event = data({"error": {"message": message, "http_status_code": 422}}, PREFIX)
        return 200, event + (b"" if fault is Fault.ERROR else DONE)


def _unhealthy() -> Answer:
    return Answer(503, ENCODE(error("unhealthy", "healthcheck")))


def _job(kind: Kind, path: str, body: dict[str, Any], parameters: dict[str, Any]) -> Job:
    if kind is Kind.CHAT:
        prompt, limit, stream = render(body.get("messages", [])), body.get("max_tokens"), body.get("stream") is True
    else:
        prompt, limit = str(body["inputs"]), parameters.get("max_new_tokens", USUAL_LIMIT)
        body, stream = {**body, "seed": parameters.get("seed", 0)}, path == "/generate_stream"
    return Job(
        kind=kind,
        body=body,
        prompt=prompt,
        evaluated=len(tokenize(prompt, bos=True)),
        limit=limit if isinstance(limit, int) else None,
        stream=stream,
    )


def _refused(job: Job, parameters: dict[str, Any], knobs: Knobs) -> str | None:
    given = parameters if job.kind is Kind.COMPLETION else job.body
    if parameters.get("best_of") not in {None, 1}:
        return "Input validation error: `best_of` != 1 is not supported when streaming tokens"
    temperature, top_p, top_k = given.get("temperature"), given.get("top_p"), parameters.get("top_k")
    if temperature is not None and temperature <= 0:
        return "Input validation error: `temperature` must be strictly positive"
    if top_p is not None and not 0 < top_p < 1:
        return "Input validation error: `top_p` must be > 0.0 and < 1.0"
    if top_k is not None and top_k <= 0:
        return "Input validation error: `top_k` must be strictly positive"
    if job.evaluated + (job.limit or 0) > knobs.ctx:
        return (
            f"Input validation error: `inputs` tokens + `max_new_tokens` must be <= {knobs.ctx}. "
            f"Given: {job.evaluated} `inputs` tokens and {job.limit or 0} `max_new_tokens`"
        )
    return None


def _event(kind: Kind, model: str, index: int, token: int, text: str) -> bytes:
    if kind is Kind.CHAT:
        delta = {"role": "assistant", "content": text}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return data({**_chat_head(model), "choices": [choice], "usage": None}, PREFIX)
    said = {"id": token, "text": text, "logprob": -0.5, "special": False}
    return data({"index": index, "token": said, "generated_text": None, "details": None}, PREFIX)


def _chat_head(model: str) -> dict[str, object]:
    return {
        "object": "chat.completion.chunk",
        "id": "",
        "created": CREATED,
        "model": model,
        "system_fingerprint": "3.3.5-native",
    }


def _is_limited(job: Job, knobs: Knobs) -> bool:
    return job.limit is not None and (knobs.tokens is None or job.limit <= knobs.tokens)


def _chat_end(job: Job, knobs: Knobs, run: Run, text: str) -> bytes:
    delta = {"role": "assistant", "content": text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": "length" if run.limited else "stop"}
    last = chunk(data({**_chat_head(knobs.model), "choices": [choice], "usage": None}, PREFIX))
    options = job.body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage") is True:
        counts = {
            "prompt_tokens": count_of(knobs, job.evaluated),
            "completion_tokens": count_of(knobs, run.total),
            "total_tokens": job.evaluated + run.total,
        }
        last += chunk(data({**_chat_head(knobs.model), "choices": [], "usage": counts}, PREFIX))
    return last + chunk(DONE)


@lru_cache(maxsize=4096)
def _block(kind: Kind, words: tuple[str, ...], first: int, *, model: str, index: int, count: int) -> bytes:
    at = ((i, (first + i) % len(words)) for i in range(index, index + count))
    return b"".join(chunk(_event(kind, model, i + 1, 300 + number, words[number])) for i, number in at)


def _info(knobs: Knobs) -> dict[str, object]:
    return {
        "model_id": knobs.model,
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": knobs.slots,
        "max_best_of": 2,
        "max_stop_sequences": 4,
        "max_input_tokens": max(knobs.ctx - 1, 1),
        "max_total_tokens": knobs.ctx,
        "validation_workers": 2,
        "max_client_batch_size": 4,
        "router": "text-generation-router",
        "version": knobs.build,
        "sha": None,
        "docker_label": None,
    }


def _tokenized(request: Request) -> Answer:
    body = decoded(request.body)
    if isinstance(body, str):
        return Answer(400, body.encode(), "text/plain")
    text = render(body["messages"]) if "messages" in body else str(body.get("inputs", ""))
    numbers = tokenize(text, bos=True)
    tokens = [{"id": number, "text": "", "start": 0, "stop": 0} for number in numbers]
    said: object = tokens
    if request.path == "/chat_tokenize":
        said = {"tokenize_response": tokens, "templated_text": text}
    return Answer(200, ENCODE(said))
