"""llama-server: its routes and its manners."""

from __future__ import annotations

from tests.standin.connection import Request
from tests.standin.knobs import Fault, Knobs
from tests.standin.wires import llamacpp_bytes as spoken
from tests.standin.wires.base import (
    DONE,
    ENCODE,
    Answer,
    Job,
    Kind,
    Looks,
    Run,
    WorkerDeath,
    chunk,
    count_of,
    data,
    decoded,
    render,
    score,
    tokenize,
    vector,
    words_from,
)

OPEN_PATHS = frozenset({"/health", "/v1/health", "/models", "/v1/models"})
TASKS = {
    "/completion": Kind.COMPLETION,
    "/completions": Kind.COMPLETION,
    "/chat/completions": Kind.CHAT,
    "/v1/chat/completions": Kind.CHAT,
    "/embeddings": Kind.EMBEDDING,
    "/v1/embeddings": Kind.EMBEDDING,
    "/rerank": Kind.RERANK,
    "/v1/rerank": Kind.RERANK,
}
_NEEDS = {
    Kind.COMPLETION: "This server does not support completions. Start it without `--embeddings`",
    Kind.CHAT: "This server does not support completions. Start it without `--embeddings`",
    Kind.EMBEDDING: "This server does not support embeddings. Start it with `--embeddings`",
    Kind.RERANK: "This server does not support reranking. Start it with `--reranking`",
}
_REPORTED = spoken.error(500, "Context size has been exceeded.", "server_error")


def _refusal(status: int, body: bytes) -> Answer:
    return Answer(status, body, spoken.JSON)


def _invalid(message: str) -> Answer:
    return _refusal(400, spoken.error(400, message, "invalid_request_error"))


class LlamaCpp:
    """See ``base.Wire``."""

    name = "llamacpp"
    key_variable = "LLAMA_API_KEY"
    ping = b":\n\n"
    listens_late = False
    worker_death = WorkerDeath.TAKES_ALL
    closes_after_errors = True

    def gate(self, request: Request, *, authorized: bool, loading: bool) -> Answer | None:
        if not authorized and request.path not in OPEN_PATHS:
            return _refusal(401, spoken.gate_error(401, "Invalid API Key", "authentication_error"))
        if loading:
            return _refusal(503, spoken.gate_error(503, "Loading model", "unavailable_error"))
        return None

    def generates(self, request: Request) -> bool:
        return request.method == "POST" and request.path in TASKS

    def job(self, request: Request, knobs: Knobs) -> Job | Answer:
        kind = TASKS[request.path]
        if kind not in knobs.serves:
            return _refusal(501, spoken.error(501, _NEEDS[kind], "not_supported_error"))
        body = decoded(request.body)
        if isinstance(body, str):
            return _invalid(f"[json.exception.parse_error.101] parse error: {body}")
        made = _job(kind, body)
        if isinstance(made, Answer):
            return made
        if made.evaluated >= knobs.ctx:
            return _refusal(400, spoken.exceeds_context(made.evaluated, knobs.ctx))
        return made

    def plain(self, request: Request, engine: Looks) -> Answer:
        knobs = engine.knobs
        match request.method, request.path:
            case "GET", "/health" | "/v1/health":
                return Answer(200, b'{"status":"ok"}', spoken.JSON)
            case "GET", "/props":
                said: object = spoken.props(ctx=knobs.ctx, slots=knobs.slots, model=knobs.model, build=knobs.build)
            case "GET", "/slots":
                said = [spoken.slot(n, knobs.ctx, busy=n in engine.busy) for n in range(knobs.slots)]
            case "GET", "/metrics" if knobs.metrics is not None:
                return Answer(200, knobs.metrics.encode(), "text/plain; version=0.0.4")
            case "GET", "/metrics":
                message = "This server does not support metrics endpoint. Start it with `--metrics`"
                return _refusal(501, spoken.error(501, message, "not_supported_error"))
            case "GET", "/v1/models" | "/models":
                said = {"object": "list", "data": [{"id": knobs.model, "object": "model"}]}
            case "POST", "/tokenize" | "/apply-template":
                return _about_text(request)
            case "POST", "/slots/0":
                # What a restore of a file that was computed by another build says: success, and nothing of use.
                said = {"id_slot": 0, "filename": "session", "n_restored": 3, "n_read": 512, "timings": {}}
            case _:
                return _refusal(404, spoken.gate_error(404, "File Not Found", "not_found_error"))
        return Answer(200, ENCODE(said), spoken.JSON)

    def answer(self, answer: Answer) -> bytes:
        return spoken.answer(answer.status, answer.body, answer.content_type or spoken.JSON)

    def head(self, status: int, content_type: str | None) -> bytes:
        return spoken.stream_head(content_type or "text/event-stream")

    def block(self, job: Job, knobs: Knobs, index: int, count: int) -> bytes:
        first = job.seed % len(knobs.words)
        if job.kind is Kind.CHAT:
            return spoken.chat_block(knobs.words, first, index, count, model=knobs.model, build=knobs.build)
        return spoken.completion_block(knobs.words, first, index, count, job.evaluated)

    def end(self, job: Job, knobs: Knobs, run: Run) -> bytes:
        if job.kind is not Kind.CHAT:
            return chunk(data(_final(job, knobs, run)))
        options = job.body.get("stream_options")
        final = spoken.chat_final(
            model=knobs.model,
            build=knobs.build,
            predicted=run.total,
            evaluated=job.evaluated,
            claimed=(count_of(knobs, run.total), count_of(knobs, job.evaluated)),
            finish="length" if run.limited else "stop",
            usage=isinstance(options, dict) and options.get("include_usage") is True,
            timings=spoken.timings(run.total, job.evaluated, run.decode_ms),
        )
        return chunk(final) + chunk(DONE)

    def whole(self, job: Job, knobs: Knobs, run: Run) -> Answer:
        usage = {"prompt_tokens": count_of(knobs, job.evaluated), "total_tokens": count_of(knobs, job.evaluated)}
        if job.kind is Kind.EMBEDDING:
            found: list[dict[str, object]] = [
                {"embedding": vector(text), "index": index, "object": "embedding"}
                for index, text in enumerate(job.inputs)
            ]
            said: object = {"model": knobs.model, "object": "list", "usage": usage, "data": found}
        elif job.kind is Kind.RERANK:
            found = [
                {"index": index, "relevance_score": score(job.prompt, text)} for index, text in enumerate(job.inputs)
            ]
            found.sort(key=lambda each: -float(str(each["relevance_score"])))
            said = {"model": knobs.model, "object": "list", "usage": usage, "results": found}
        else:
            words = words_from(job, knobs)
            text = "".join(words[i % len(words)] for i in range(run.total))
            said = {**_final(job, knobs, run), "content": text}
        return Answer(200, ENCODE(said), spoken.JSON)

    def event(self, job: Job, knobs: Knobs, text: str) -> bytes:
        if job.kind is Kind.CHAT:
            return spoken.chat_event(knobs.model, knobs.build, {"content": text})
        return data({"index": 0, "content": text, "tokens": [1], "stop": False, "id_slot": -1})

    def failure(self, job: Job, fault: Fault) -> tuple[int, bytes]:
        match fault:
            case Fault.ERROR_FIELD:
                return 200, b"error: " + _REPORTED.removeprefix(b'{"error":')[:-1] + b"\n\n"
            case Fault.ERROR_STRING:
                return 200, data({"error": "the worker died"})
            case Fault.ERROR_DONE:
                return 200, b"data: " + _REPORTED + b"\n\n" + DONE
            case Fault.OVERLOADED:
                return 200, b"data: " + spoken.error(503, "no slot available", "unavailable_error") + b"\n\n"
            case _:
                return 200, b"data: " + _REPORTED + b"\n\n"


def _job(kind: Kind, body: dict[str, object]) -> Job | Answer:
    name = {Kind.CHAT: "messages", Kind.EMBEDDING: "input", Kind.RERANK: "documents"}.get(kind, "prompt")
    if name not in body:
        return _invalid(f"[json.exception.out_of_range.403] key '{name}' not found")
    given = body[name]
    if kind in {Kind.EMBEDDING, Kind.RERANK}:
        inputs = tuple(map(str, given)) if isinstance(given, list) else (str(given),)
        evaluated = sum(len(tokenize(text, bos=True)) for text in inputs)
        return Job(
            kind=kind, body=body, prompt=str(body.get("query", "")), inputs=inputs, evaluated=evaluated, stream=False
        )
    prompt = render(given) if isinstance(given, list) and kind is Kind.CHAT else str(given)
    asked = body.get("n_predict", body.get("max_tokens", -1))
    return Job(
        kind=kind,
        body=body,
        prompt=prompt,
        evaluated=len(tokenize(prompt, bos=True)),
        limit=asked if isinstance(asked, int) and asked >= 0 else None,
        stream=body.get("stream") is True,
    )


def _about_text(request: Request) -> Answer:
    body = decoded(request.body)
    if isinstance(body, str):
        return _invalid(f"[json.exception.parse_error.101] parse error: {body}")
    if request.path == "/tokenize":
        tokens = tokenize(str(body.get("content", "")), bos=body.get("add_special") is True)
        return Answer(200, ENCODE({"tokens": tokens}), spoken.JSON)
    return Answer(200, ENCODE({"prompt": render(body.get("messages", []))}), spoken.JSON)


def _final(job: Job, knobs: Knobs, run: Run) -> dict[str, object]:
    final = spoken.completion_final(
        body=job.body,
        model=knobs.model,
        slot=run.slot,
        predicted=run.total,
        evaluated=job.evaluated,
        stop_type="limit" if run.limited else "eos",
        predicted_ms=run.decode_ms,
    )
    if knobs.claims is not None:
        final |= {"tokens_predicted": count_of(knobs, 0), "tokens_evaluated": count_of(knobs, 0)}
    return final
