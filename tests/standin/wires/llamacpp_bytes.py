"""llama-server's bytes, as recorded from a real one (tests/integration/adapters compares them).

Everything that a stream repeats is encoded once and kept, so that the stand-in is never what limits a measurement.
"""

from __future__ import annotations

from functools import lru_cache

from tests.standin.wires.base import CREATED, ENCODE, REASONS, chunk
from tests.standin.wires.base import data as event

JSON = "application/json; charset=utf-8"


def answer(status: int, body: bytes, content_type: str = JSON) -> bytes:
    """A whole answer; llama-server closes the connection after an error."""
    last = b"Connection: close" if status >= 400 else b"Keep-Alive: timeout=5, max=100"
    return (
        b"HTTP/1.1 %d %b\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nContent-Type: %b\r\n"
        b"Content-Length: %d\r\n%b\r\n\r\n%b"
    ) % (status, REASONS.get(status, "Error").encode(), content_type.encode(), len(body), last, body)


def stream_head(content_type: str) -> bytes:
    """The head of a stream."""
    return (
        b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\nX-Accel-Buffering: no\r\n"
        b"Content-Type: %b\r\nTransfer-Encoding: chunked\r\nKeep-Alive: timeout=5, max=100\r\n\r\n"
    ) % content_type.encode()


def error(status: int, message: str, kind: str, **more: int) -> bytes:
    """An error as the handlers word it."""
    return ENCODE({"error": {"code": status, "message": message, "type": kind, **more}})


def gate_error(status: int, message: str, kind: str) -> bytes:
    """An error as the server words it before any handler sees the request: other order, same fields."""
    return ENCODE({"error": {"message": message, "type": kind, "code": status}})


def exceeds_context(tokens: int, ctx: int) -> bytes:
    message = f"request ({tokens} tokens) exceeds the available context size ({ctx} tokens), try increasing it"
    return error(400, message, "exceed_context_size_error", n_prompt_tokens=tokens, n_ctx=ctx)


@lru_cache(maxsize=8192)
def completion_block(words: tuple[str, ...], first: int, index: int, count: int, evaluated: int) -> bytes:
    """``count`` tokens of /completion from token ``index`` on, each in a chunk of its own."""
    texts = [ENCODE(word) for word in words]
    template = (
        b'data: {"index":0,"content":%b,"tokens":[%d],"stop":false,"id_slot":-1,'
        b'"tokens_predicted":%d,"tokens_evaluated":%d}\n\n'
    )
    blocks = []
    for i in range(index, index + count):
        at = (first + i) % len(words)
        blocks.append(chunk(template % (texts[at], 300 + at, i + 1, evaluated)))
    return b"".join(blocks)


@lru_cache(maxsize=8192)
def chat_block(words: tuple[str, ...], first: int, index: int, count: int, *, model: str, build: str) -> bytes:
    """The same of /v1/chat/completions; the first token shares its chunk with the delta that names the role."""
    blocks = []
    for i in range(index, index + count):
        delta = chat_event(model, build, {"content": words[(first + i) % len(words)]})
        role = chat_event(model, build, {"role": "assistant", "content": None}) if i == 0 else b""
        blocks.append(chunk(role + delta))
    return b"".join(blocks)


def chat_event(model: str, build: str, delta: dict[str, object], finish: str | None = None, **more: object) -> bytes:
    choices = [{"finish_reason": finish, "index": 0, "delta": delta}]
    return event({"choices": choices, **_chat_tail(model, build), **more})


def _chat_tail(model: str, build: str) -> dict[str, object]:
    return {
        "created": CREATED,
        "id": "chatcmpl-standin00000000000000000000000",
        "model": model,
        "system_fingerprint": build,
        "object": "chat.completion.chunk",
    }


def chat_final(
    *,
    model: str,
    build: str,
    predicted: int,
    evaluated: int,
    claimed: tuple[object, object],
    finish: str,
    usage: bool,
    timings: dict[str, object],
) -> bytes:
    """The chunk of a chat's end: the finishing delta and, where asked for, the usage in an event of its own.

    ``claimed``: the two counts as they are told.
    """
    if not usage:
        return chat_event(model, build, {}, finish, timings=timings)
    counts = {
        "completion_tokens": claimed[0],
        "prompt_tokens": claimed[1],
        "total_tokens": predicted + evaluated,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    last = {"choices": [], **_chat_tail(model, build), "usage": counts, "timings": timings}
    return chat_event(model, build, {}, finish) + event(last)


def timings(predicted: int, evaluated: int, predicted_ms: float) -> dict[str, object]:
    ms = max(predicted_ms, 0.001)
    return {
        "cache_n": 0,
        "prompt_n": evaluated,
        "prompt_ms": 1.0,
        "prompt_per_token_ms": 1.0 / max(evaluated, 1),
        "prompt_per_second": evaluated * 1000.0,
        "predicted_n": predicted,
        "predicted_ms": ms,
        "predicted_per_token_ms": ms / max(predicted, 1),
        "predicted_per_second": predicted * 1000.0 / ms,
    }


def completion_final(
    *,
    body: dict[str, object],
    model: str,
    slot: int,
    predicted: int,
    evaluated: int,
    stop_type: str,
    predicted_ms: float,
) -> dict[str, object]:
    """The final event of /completion, and the whole answer where no stream was asked for."""
    return {
        "index": 0,
        "content": "",
        "tokens": [],
        "id_slot": slot,
        "stop": True,
        "model": model,
        "tokens_predicted": predicted,
        "tokens_evaluated": evaluated,
        "generation_settings": generation_settings(body),
        "prompt": body.get("prompt"),
        "has_new_line": False,
        "truncated": False,
        "stop_type": stop_type,
        "stopping_word": "",
        "tokens_cached": predicted + evaluated - 1,
        "timings": timings(predicted, evaluated, predicted_ms),
    }


def generation_settings(body: dict[str, object]) -> dict[str, object]:
    predict = body.get("n_predict", body.get("max_tokens", -1))
    asked = {name: body[name] for name in _SETTINGS if name in body}
    return {**_SETTINGS, **asked, "max_tokens": predict, "n_predict": predict, "stream": bool(body.get("stream"))}


_SETTINGS: dict[str, object] = {
    "seed": 4294967295,
    "temperature": 0.800000011920929,
    "dynatemp_range": 0.0,
    "dynatemp_exponent": 1.0,
    "top_k": 40,
    "top_p": 0.949999988079071,
    "min_p": 0.05000000074505806,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
    "xtc_threshold": 0.10000000149011612,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "repeat_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_penalty_last_n": 64,
    "dry_sequence_breakers": ["\n", ":", '"', "*"],
    "mirostat": 0,
    "mirostat_tau": 5.0,
    "mirostat_eta": 0.10000000149011612,
    "adaptive_target": -1.0,
    "adaptive_decay": 0.8999999761581421,
    "stop": [],
    "max_tokens": -1,
    "n_predict": -1,
    "n_keep": 0,
    "n_discard": 0,
    "ignore_eos": False,
    "stream": False,
    "logit_bias": [],
    "n_probs": 0,
    "min_keep": 0,
    "grammar": "",
    "grammar_lazy": False,
    "grammar_triggers": [],
    "preserved_tokens": [],
    "chat_format": "Content-only",
    "reasoning_format": "deepseek",
    "reasoning_in_content": False,
    "generation_prompt": "",
    "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"],
    "speculative.types": "none",
    "timings_per_token": False,
    "post_sampling_probs": False,
    "backend_sampling": False,
    "lora": [],
}

# What /slots and /props leave out of the settings.
_NOT_SHOWN = {
    "dry_sequence_breakers",
    "stop",
    "logit_bias",
    "grammar",
    "grammar_lazy",
    "grammar_triggers",
    "preserved_tokens",
}
SHOWN_SETTINGS = {name: value for name, value in _SETTINGS.items() if name not in _NOT_SHOWN}


def slot(number: int, ctx: int, *, busy: bool) -> dict[str, object]:
    """One entry of /slots."""
    return {
        "id": number,
        "n_ctx": ctx,
        "speculative": False,
        "is_processing": busy,
        "id_task": number,
        "n_prompt_tokens": 1,
        "n_prompt_tokens_processed": 0,
        "n_prompt_tokens_cache": 0,
        "params": SHOWN_SETTINGS,
        "next_token": [{"has_next_token": busy, "has_new_line": False, "n_remain": -1, "n_decoded": 0}],
    }


def props(*, ctx: int, slots: int, model: str, build: str) -> dict[str, object]:
    """What of /props a client can use."""
    return {
        "default_generation_settings": {"params": SHOWN_SETTINGS, "n_ctx": ctx},
        "total_slots": slots,
        "model_alias": model,
        "model_path": model,
        "modalities": {"vision": False, "video": False, "audio": False},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": False,
        "chat_template": "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] ",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "build_info": build,
        "is_sleeping": False,
    }
