"""Triton's HTTP server with its vLLM backend.

Fields of an event come in alphabetical order, numbers of tokens are per event, a failure that comes first has its own
status and is an event all the same, and nothing but the end of the body says that a stream is over.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from tests.standin.connection import Request
from tests.standin.knobs import Fault, Knobs
from tests.standin.wires.base import (
    ENCODE,
    END_OF_BODY,
    REASONS,
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
    tokenize,
    words_from,
)

STREAM = "text/event-stream; charset=utf-8"
USUAL_LIMIT = 16
_MODEL_VERB = re.compile(r"/v2/models/[^/]+(/versions/[0-9]+)?/generate(_stream)?")
INPUTS = (
    ("text_input", "BYTES"),
    ("stream", "BOOL"),
    ("sampling_parameters", "BYTES"),
    ("exclude_input_in_output", "BOOL"),
    ("return_finish_reason", "BOOL"),
    ("return_cumulative_logprob", "BOOL"),
    ("return_logprobs", "BOOL"),
    ("return_num_input_tokens", "BOOL"),
    ("return_num_output_tokens", "BOOL"),
)
OUTPUTS = (
    ("text_output", "BYTES"),
    ("finish_reason", "BYTES"),
    ("num_input_tokens", "UINT32"),
    ("num_output_tokens", "UINT32"),
)


class Triton:
    """See ``base.Wire``. The model's name is the knob's."""

    name = "triton"
    key_variable = "TRITON_KEY"  # it knows no key; what restricts it is a proxy before it
    ping = b": ping\n\n"  # it sends none; a proxy on the way may
    listens_late = True
    worker_death = WorkerDeath.HANGS
    closes_after_errors = False

    def gate(self, request: Request, *, authorized: bool, loading: bool) -> Answer | None:
        return None if authorized else Answer(401, b"", None)

    def generates(self, request: Request) -> bool:
        return request.method == "POST" and _MODEL_VERB.fullmatch(request.path) is not None

    def job(self, request: Request, knobs: Knobs) -> Job | Answer:
        model, verb = _parts(request.path)
        if model != knobs.model:
            return _refusal(404, f"Request for unknown model: '{model}' is not found")
        body = decoded(request.body)
        if isinstance(body, str):
            return _refusal(500, f"failed to parse the request JSON buffer: {body}")
        if "text_input" not in body:
            text = f"[request id: <id_unknown>] expected 1 inputs but got 0 inputs for model '{model}'"
            return _refusal(400, text)
        job = _job(body, stream=verb == "generate_stream")
        if job.evaluated >= knobs.ctx:
            text = (
                f"The decoder prompt (length {job.evaluated}) is longer than the maximum model length of {knobs.ctx}. "
                "Make sure that `max_model_len` is no smaller than the number of text tokens."
            )
            # The backend's own words: the first response of a stream, so an event with the status of a failure.
            return Answer(400, data({"error": text}), STREAM)
        return job

    def plain(self, request: Request, engine: Looks) -> Answer:
        knobs = engine.knobs
        model = f"/v2/models/{knobs.model}"
        match request.method, request.path:
            case "GET", "/v2/health/live" | "/v2/health/ready":
                return Answer(200, content_type=None)
            case "GET", "/v2":
                said: object = {"name": "triton", "version": knobs.build, "extensions": ["classification", "generate"]}
            case "POST", "/v2/repository/index":
                said = [{"name": knobs.model, "version": "1", "state": "READY"}]
            case "GET", path if path == model:
                said = _metadata(knobs)
            case "GET", path if path == f"{model}/config":
                said = _config(knobs)
            case "GET", path if path == f"{model}/ready":
                return Answer(200, content_type=None)
            case "GET", path if path.startswith("/v2/models/"):
                return _refusal(404, f"Request for unknown model: '{path.split('/')[3]}' is not found")
            case _:
                return Answer(404, content_type=None)
        return Answer(200, ENCODE(said))

    def answer(self, answer: Answer) -> bytes:
        if answer.content_type == STREAM:  # a stream whose only response is a failure
            return self.head(answer.status, None) + chunk(answer.body) + END_OF_BODY
        kind = b"" if answer.content_type is None else b"Content-Type: %b\r\n" % answer.content_type.encode()
        return b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
            answer.status,
            REASONS.get(answer.status, "Error").encode(),
            kind,
            len(answer.body),
            answer.body,
        )

    def head(self, status: int, content_type: str | None) -> bytes:
        kind = (content_type or STREAM).encode()
        return b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % (
            status,
            REASONS[status].encode(),
            kind,
        )

    def block(self, job: Job, knobs: Knobs, index: int, count: int) -> bytes:
        limited = job.limit is not None and (knobs.tokens is None or job.limit <= knobs.tokens)
        limit = job.limit if limited else None
        first = job.seed % len(knobs.words)
        return _block(_asked(job, knobs), knobs.words, first, index=index, count=count, limit=limit)

    def end(self, job: Job, knobs: Knobs, run: Run) -> bytes:
        """A last response without text where the model ended by itself; at the limit the last token was the last."""
        if run.limited and run.total:
            return b""
        return chunk(_event(_asked(job, knobs), "", "stop", 0))

    def whole(self, job: Job, knobs: Knobs, run: Run) -> Answer:
        words = words_from(job, knobs)
        text = "".join(words[i % len(words)] for i in range(run.total))
        return Answer(200, ENCODE({"model_name": knobs.model, "model_version": "1", "text_output": text}))

    def event(self, job: Job, knobs: Knobs, text: str) -> bytes:
        return _event(_asked(job, knobs), text, "None", 1)

    def failure(self, job: Job, fault: Fault) -> tuple[int, bytes]:
        text = "Error generating stream: EngineCore encountered an issue."
        if fault is Fault.OVERLOADED:
            return 503, data({"error": "Exceeds maximum queue size"})
        return 400, data({"error": text}) + (b"data: [DONE]\n\n" if fault is Fault.ERROR_DONE else b"")


def _parts(path: str) -> tuple[str, str]:
    """Of ``/v2/models/M[/versions/V]/verb``: the model and the verb."""
    parts = path.split("/")
    return parts[3], parts[-1]


def _refusal(status: int, message: str) -> Answer:
    return Answer(status, ENCODE({"error": message}))


def _job(body: dict[str, Any], *, stream: bool) -> Job:
    """Parameters stand in ``parameters``, beside it, or as JSON in the input ``sampling_parameters``."""
    parameters = {**body, **(body.get("parameters") or {})}
    if isinstance(given := parameters.get("sampling_parameters"), str):
        said = decoded(given.encode())
        parameters |= said if isinstance(said, dict) else {}
    prompt = str(body["text_input"])
    limit = parameters.get("max_tokens", USUAL_LIMIT)
    return Job(
        kind=Kind.COMPLETION,
        body=parameters,
        prompt=prompt,
        evaluated=len(tokenize(prompt, bos=True)),
        limit=limit if isinstance(limit, int) else USUAL_LIMIT,
        stream=stream,
    )


class _Asked(NamedTuple):
    """What every event of a stream repeats, and which additional outputs the client asked for."""

    reason: bool
    inputs: bool
    outputs: bool
    evaluated: int
    model: str
    claims: str | None


def _asked(job: Job, knobs: Knobs) -> _Asked:
    names = ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens")
    reason, inputs, outputs = (knobs.tells and job.body.get(name) is True for name in names)
    return _Asked(reason, inputs, outputs, job.evaluated, knobs.model, knobs.claims)


def _event(asked: _Asked, text: str, reason: str, tokens: int) -> bytes:
    knobs = Knobs(claims=asked.claims)
    said: dict[str, object] = {"finish_reason": reason} if asked.reason else {}
    said |= {"model_name": asked.model, "model_version": "1"}
    if asked.inputs:
        said["num_input_tokens"] = count_of(knobs, asked.evaluated)
    if asked.outputs:
        said["num_output_tokens"] = count_of(knobs, tokens)
    return data({**said, "text_output": text})


@lru_cache(maxsize=4096)
def _block(asked: _Asked, words: tuple[str, ...], first: int, *, index: int, count: int, limit: int | None) -> bytes:
    events = (
        _event(asked, words[(first + i) % len(words)], "length" if limit == i + 1 else "None", 1)
        for i in range(index, index + count)
    )
    return b"".join(map(chunk, events))


def _metadata(knobs: Knobs) -> dict[str, object]:
    def tensors(named: tuple[tuple[str, str], ...]) -> list[dict[str, object]]:
        return [{"name": name, "datatype": kind, "shape": [1]} for name, kind in named]

    return {
        "name": knobs.model,
        "versions": ["1"],
        "platform": "vllm",
        "inputs": tensors(INPUTS if knobs.tells else INPUTS[:3]),
        "outputs": tensors(OUTPUTS if knobs.tells else OUTPUTS[:1]),
    }


def _config(knobs: Knobs) -> dict[str, object]:
    return {
        "name": knobs.model,
        "platform": "",
        "backend": "vllm",
        "max_batch_size": 0,
        "input": [
            {"name": name, "data_type": f"TYPE_{kind}", "dims": [1]}
            for name, kind in (INPUTS if knobs.tells else INPUTS[:3])
        ],
        "output": [
            {"name": name, "data_type": f"TYPE_{kind}", "dims": [-1]}
            for name, kind in (OUTPUTS if knobs.tells else OUTPUTS[:1])
        ],
        "model_transaction_policy": {"decoupled": True},
        "parameters": {},
    }
