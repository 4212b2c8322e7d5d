"""What servers of the OpenAI format share: how a request is read, and what is answered in one piece."""

from __future__ import annotations

from typing import Any

from tests.standin.knobs import Knobs
from tests.standin.wires.base import (
    CREATED,
    Job,
    Kind,
    Run,
    count_of,
    render,
    score,
    tokenize,
    vector,
    words_from,
)

TASKS = {
    "/v1/completions": Kind.COMPLETION,
    "/v1/chat/completions": Kind.CHAT,
    "/v1/embeddings": Kind.EMBEDDING,
    "/v1/rerank": Kind.RERANK,
    "/rerank": Kind.RERANK,
}
FIELD = {
    Kind.COMPLETION: "prompt",
    Kind.CHAT: "messages",
    Kind.EMBEDDING: "input",
    Kind.RERANK: "documents",
}


def job_of(kind: Kind, body: dict[str, Any], *, usual_limit: int | None = None) -> Job | str:
    """The job, or the name of the field that is missing. ``usual_limit``: where a completion names none."""
    if FIELD[kind] not in body:
        return FIELD[kind]
    given = body[FIELD[kind]]
    if kind in {Kind.EMBEDDING, Kind.RERANK}:
        inputs = tuple(map(str, given)) if isinstance(given, list) else (str(given),)
        evaluated = sum(len(tokenize(text, bos=True)) for text in inputs)
        return Job(
            kind=kind, body=body, prompt=str(body.get("query", "")), inputs=inputs, evaluated=evaluated, stream=False
        )
    prompt = render(given) if kind is Kind.CHAT else str(given)
    asked = body.get("max_tokens", body.get("max_completion_tokens"))
    if asked is None and kind is Kind.COMPLETION:
        asked = usual_limit
    return Job(
        kind=kind,
        body=body,
        prompt=prompt,
        evaluated=len(tokenize(prompt, bos=True)),
        limit=asked if isinstance(asked, int) else None,
        stream=body.get("stream") is True,
    )


def openapi(knobs: Knobs, *fields: str) -> dict[str, object]:
    """The document that FastAPI makes of the routes; ``fields``: what the bodies of generations have of their own."""
    usual = ("model", "stream", "stream_options", "max_tokens", "temperature", "top_p", "stop", "seed", *fields)
    known = {Kind.EMBEDDING: ("model", "input"), Kind.RERANK: ("model", "query", "documents", "top_n")}
    paths: dict[str, object] = {"/v1/models": {"get": {}}}
    for path, kind in TASKS.items():
        if kind in knobs.serves:
            names = known.get(kind, (FIELD[kind], *usual))
            schema = {"type": "object", "properties": {name: {} for name in names}}
            content = {"application/json": {"schema": schema}}
            paths[path] = {"post": {"requestBody": {"content": content, "required": True}}}
    return {"openapi": "3.1.0", "info": {"title": "FastAPI", "version": "0.1.0"}, "paths": paths}


def wants_usage(job: Job) -> bool:
    options = job.body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def usage(job: Job, knobs: Knobs, predicted: int) -> dict[str, object]:
    """In the order of vLLM's class."""
    return {
        "prompt_tokens": count_of(knobs, job.evaluated),
        "total_tokens": count_of(knobs, job.evaluated + predicted),
        "completion_tokens": count_of(knobs, predicted),
    }


def whole(job: Job, knobs: Knobs, run: Run) -> dict[str, object]:
    """The answer to a request that asked for no stream, or has none."""
    finish = "length" if run.limited else "stop"
    words = words_from(job, knobs)
    text = "".join(words[i % len(words)] for i in range(run.total))
    shared: dict[str, object] = {"created": CREATED, "model": knobs.model}
    match job.kind:
        case Kind.COMPLETION:
            choice: dict[str, object] = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
            return {"id": "cmpl-standin", "object": "text_completion", **shared, "choices": [choice]} | {
                "usage": usage(job, knobs, run.total)
            }
        case Kind.CHAT:
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
            return {"id": "chatcmpl-standin", "object": "chat.completion", **shared, "choices": [choice]} | {
                "usage": usage(job, knobs, run.total)
            }
        case Kind.EMBEDDING:
            found: list[dict[str, object]] = [
                {"index": index, "object": "embedding", "embedding": vector(text)}
                for index, text in enumerate(job.inputs)
            ]
            return {"id": "embd-standin", "object": "list", **shared, "data": found, "usage": usage(job, knobs, 0)}
        case Kind.RERANK:
            order = sorted(range(len(job.inputs)), key=lambda index: -score(job.prompt, job.inputs[index]))
            results = [
                {
                    "index": index,
                    "document": {"text": job.inputs[index]},
                    "relevance_score": score(job.prompt, job.inputs[index]),
                }
                for index in order
            ]
            counts = {"prompt_tokens": count_of(knobs, job.evaluated), "total_tokens": count_of(knobs, job.evaluated)}
            return {"id": "rerank-standin", "model": knobs.model, "usage": counts, "results": results}
