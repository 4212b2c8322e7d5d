"""The one place where a refusal becomes an HTTP response.

Decides headers and body of every error. Never decides the code: whoever refused did.
"""

from __future__ import annotations

import json
import math
import re
from typing import TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET

from contracts.base import explain
from contracts.errors import ERROR_NUMBER, RETRIABLE, STATUS, ErrorBody, ErrorCode
from orchestratord.admission import Refusal
from orchestratord.errors import ApiError, api_error

Body = TypeVar("Body", bound=msgspec.Struct)

_encode = msgspec.json.Encoder().encode
TOO_MANY_REQUESTS = 429
# An escaped backslash and a whole surrogate pair are passed over; what is caught is half of one.
_HALVED = re.compile(rb"\\\\|\\ud[89ab]..\\ud[c-f]..|(\\ud[89a-f]..)", re.IGNORECASE)
_OPENAI_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/v1/embeddings"})
_OPENAI_HINT = "llama-orch has no OpenAI routes: tasks are asked by POST /v1/tasks, see docs/api.md"
_FRAMEWORK_CODES = {404: ErrorCode.NOT_FOUND, 413: ErrorCode.PAYLOAD_TOO_LARGE}


def response_of(refusal: Refusal, correlation_id: str) -> web.Response:
    """Status, headers and body of a refusal."""
    status = STATUS[refusal.code]
    headers = {}
    if refusal.retry_after_ms is not None:
        headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after_ms / 1000)))
        headers["X-Backoff-Ms"] = str(refusal.retry_after_ms)
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="llama-orch"'
    body = body_of(refusal, correlation_id)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def body_of(refusal: Refusal, correlation_id: str) -> bytes:
    """The body of a refusal."""
    body = ErrorBody(
        code=refusal.code,
        message=refusal.message,
        retriable=refusal.code in RETRIABLE if refusal.retriable is None else refusal.retriable,
        correlation_id=correlation_id,
        hint=UNSET if refusal.hint is None else refusal.hint,
        retry_after_ms=UNSET if refusal.retry_after_ms is None else refusal.retry_after_ms,
        engine=UNSET if refusal.engine is None else refusal.engine,
        pool_id=UNSET if refusal.pool_id is None else refusal.pool_id,
        policy_label=UNSET if refusal.policy_label is None else refusal.policy_label,
        error_number=ERROR_NUMBER.get(refusal.code, UNSET),
        field=UNSET if refusal.field is None else refusal.field,
    )
    return _encode(body)


def from_framework(error: web.HTTPException, correlation_id: str, path: str) -> web.Response:
    """What aiohttp refuses by itself (no such route, a body too large), in our words; its own headers stay."""
    code = _FRAMEWORK_CODES.get(error.status, ErrorCode.INVALID_PARAMS)
    hints = {
        404: _OPENAI_HINT if path.rstrip("/") in _OPENAI_PATHS else "GET /openapi.json lists every route",
        405: f"allowed here: {error.headers.get('Allow', '')}",
        413: "server.max_body_bytes of the configuration sets the limit",
        417: "Expect: 100-continue is all that may be expected; without the header the body is read as it comes",
    }
    texts = {
        404: "there is no such route",
        413: "the body is too large",
        417: "it expects what is not known here",
    }
    text = texts.get(error.status, error.reason)
    refusal = Refusal(code=code, message=text.lower(), hint=hints.get(error.status))
    response = response_of(refusal, correlation_id)
    response.set_status(error.status)
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def unreadable_body() -> Refusal:
    """What came behind the head is not what the head says."""
    text = "the body cannot be read: it is not what Transfer-Encoding says"
    return Refusal(code=ErrorCode.INVALID_PARAMS, message=text, hint="send it with its Content-Length")


def decode(body: bytes, kind: type[Body]) -> Body:
    """A request's JSON body. Raises ApiError with what is wrong with one that is no ``kind``."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        found = explain(error, kind)
        text = f"{found.where}: {found.message}"
        raise api_error(ErrorCode.INVALID_PARAMS, text, found.hint, field=found.where) from error
    except msgspec.DecodeError as error:
        raise _no_json(_why(body, str(error).removeprefix("JSON is malformed: "))) from error
    except UnicodeDecodeError as error:
        raise _no_json("it is not encoded in UTF-8") from error
    except RecursionError as error:
        raise _no_json("it is nested too deeply") from error


def _why(body: bytes, said: str) -> str:
    """Why a body is no JSON, where the decoder's own words would send one looking for something else."""
    if not body.strip():
        return "it is empty"
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return said
    halved = next((found[1].decode() for found in _HALVED.finditer(body) if found[1]), None)
    return said if halved is None else f"{halved} is half of a surrogate pair, and no character"


def _no_json(why: str) -> ApiError:
    text = f"the body is no JSON: {why}"
    return api_error(ErrorCode.INVALID_PARAMS, text, "send one JSON object, encoded in UTF-8")
