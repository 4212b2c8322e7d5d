"""How a refusal becomes a response."""

from typing import Any

import msgspec
import pytest
from aiohttp import web

from contracts.errors import ERROR_NUMBER, RETRIABLE, STATUS, ErrorCode
from contracts.labels import PolicyLabel
from contracts.pools import DrainRequest
from contracts.tasks import TaskRequest
from orchestratord.admission import Refusal
from orchestratord.errors import ApiError
from orchestratord.http.errors import decode, from_framework, response_of


def body_of(response: web.Response) -> dict[str, Any]:
    assert isinstance(response.body, bytes)
    assert response.content_type == "application/json"
    return msgspec.json.decode(response.body)  # type: ignore[no-any-return]


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_its_status_and_says_whether_to_try_again(code: ErrorCode) -> None:
    response = response_of(Refusal(code=code, message="no"), "corr")
    assert response.status == STATUS[code]
    body = body_of(response)
    number = {"error_number": ERROR_NUMBER[code]} if code in ERROR_NUMBER else {}
    retriable = code in RETRIABLE
    assert body == {"code": code, "message": "no", "retriable": retriable, "correlation_id": "corr", **number}
    assert ("WWW-Authenticate" in response.headers) == (response.status == 401)


def test_everything_that_is_known_is_told() -> None:
    refusal = Refusal(
        code=ErrorCode.INVALID_PARAMS,
        message="no",
        hint="mend it",
        field="a.b",
        pool_id="p",
        engine="llamacpp",
        retry_after_ms=10,
        policy_label=PolicyLabel.REJECT,
    )
    assert body_of(response_of(refusal, "corr")) == {
        "code": "INVALID_PARAMS",
        "message": "no",
        "retriable": False,
        "correlation_id": "corr",
        "hint": "mend it",
        "field": "a.b",
        "pool_id": "p",
        "engine": "llamacpp",
        "retry_after_ms": 10,
        "policy_label": "reject",
    }


@pytest.mark.req("HP-04")
@pytest.mark.parametrize(
    ("after_ms", "seconds"), [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (2_000, "2"), (59_999, "60")]
)
def test_retry_after_is_whole_seconds_and_never_too_early(after_ms: int, seconds: str) -> None:
    refusal = Refusal(
        code=ErrorCode.ADMISSION_REJECT, message="full", retry_after_ms=after_ms, policy_label=PolicyLabel.REJECT
    )
    response = response_of(refusal, "corr")
    assert response.status == 429
    assert response.headers["Retry-After"] == seconds
    assert response.headers["X-Backoff-Ms"] == str(after_ms)
    assert body_of(response)["retriable"] is True


def test_without_a_known_time_no_header_invents_one() -> None:
    response = response_of(Refusal(code=ErrorCode.POOL_UNREADY, message="stopped"), "corr")
    assert not {"Retry-After", "X-Backoff-Ms"} & set(response.headers)


@pytest.mark.parametrize(
    ("error", "status", "code", "message", "hint"),
    [
        (web.HTTPNotFound(), 404, "NOT_FOUND", "there is no such route", "GET /openapi.json lists every route"),
        (
            web.HTTPMethodNotAllowed("PUT", ["GET", "POST"]),
            405,
            "INVALID_PARAMS",
            "method not allowed",
            "allowed here: GET,POST",
        ),
        (
            web.HTTPRequestEntityTooLarge(max_size=1, actual_size=2),
            413,
            "PAYLOAD_TOO_LARGE",
            "the body is too large",
            "server.max_body_bytes of the configuration sets the limit",
        ),
        (web.HTTPBadRequest(), 400, "INVALID_PARAMS", "bad request", None),
    ],
    ids=["404", "405", "413", "400"],
)
def test_what_the_framework_refuses_is_said_in_our_words(
    error: web.HTTPException, status: int, code: str, message: str, hint: str | None
) -> None:
    response = from_framework(error, "corr", "/v1/replicasets")
    body = body_of(response)
    assert response.status == status
    assert (body["code"], body["message"], body.get("hint")) == (code, message, hint)
    assert response.headers.get("Allow") == ("GET,POST" if status == 405 else None)


@pytest.mark.req("OP-02")
@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "models", "models/", "embeddings"])
def test_a_client_of_another_api_is_told_how_tasks_are_asked_here(path: str) -> None:
    body = body_of(from_framework(web.HTTPNotFound(), "corr", f"/v1/{path}"))
    assert body["message"] == "there is no such route"
    assert body["hint"] == "llama-orch has no OpenAI routes: tasks are asked by POST /v1/tasks, see docs/api.md"


DEEP = b'{"model_ref":"m","sampling":{"json_schema":' + b'{"a":' * 50_000


@pytest.mark.parametrize(
    ("body", "message", "field", "hint"),
    [
        (b"", "the body is no JSON: it is empty", None, "send one JSON object, encoded in UTF-8"),
        (
            rb'{"model_ref":"m","prompt":"\\ud800 \ud83d\ude00 \uD83d"}',
            r"the body is no JSON: \uD83d is half of a surrogate pair, and no character",
            None,
            "send one JSON object, encoded in UTF-8",
        ),
        (b"{", "the body is no JSON: Input data was truncated", None, "send one JSON object, encoded in UTF-8"),
        (
            b"{]",
            "the body is no JSON: object keys must be strings (byte 1)",
            None,
            "send one JSON object, encoded in UTF-8",
        ),
        (
            b'{"model_ref":"\xff"}',
            "the body is no JSON: it is not encoded in UTF-8",
            None,
            "send one JSON object, encoded in UTF-8",
        ),
        (DEEP, "the body is no JSON: it is nested too deeply", None, "send one JSON object, encoded in UTF-8"),
        (b"[]", "the document: expected object, got array", "the document", None),
        (b"{}", "model_ref: the required field 'model_ref' is missing", "model_ref", None),
        (
            b'{"model_ref":"m","promt":"x"}',
            "promt: unknown field 'promt'",
            "promt",
            "did you mean 'prompt'?",
        ),
        (
            b'{"model_ref":"m","session_id":"a b"}',
            "session_id: expected 1 to 128 of A-Z a-z 0-9 . _ : -",
            "session_id",
            None,
        ),
        (
            b'{"model_ref":"m","sampling":{"topp":1}}',
            "sampling.topp: unknown field 'topp'",
            "sampling.topp",
            "did you mean 'top_p'?",
        ),
        (
            b'{"model_ref":"m","max_tokens":"many"}',
            "max_tokens: expected int | null, got str",
            "max_tokens",
            None,
        ),
        (
            b'{"model_ref":"m","priority":"urgent"}',
            "priority: 'urgent' is not one of: interactive, batch",
            "priority",
            None,
        ),
        (
            b'{"model_ref":"m","messages":[{"role":"user"}]}',
            "messages[0].content: the required field 'content' is missing",
            "messages[0].content",
            None,
        ),
    ],
    ids=[
        "empty",
        "half-a-pair",
        "cut",
        "malformed",
        "utf-8",
        "deep",
        "array",
        "missing",
        "unknown",
        "pattern",
        "inner",
        "type",
        "enum",
        "item",
    ],
)
def test_a_body_that_does_not_fit_is_told_where_and_why(
    body: bytes, message: str, field: str | None, hint: str | None
) -> None:
    with pytest.raises(ApiError) as caught:
        decode(body, TaskRequest)
    refusal = caught.value.refusal
    assert (refusal.code, refusal.message) == (ErrorCode.INVALID_PARAMS, message)
    assert (refusal.field, refusal.hint) == (field, hint)


def test_a_good_body_is_decoded() -> None:
    assert decode(b'{"model_ref":"m","prompt":"\\u00e9"}', TaskRequest).prompt == "é"
    assert decode(b"{}", DrainRequest) == DrainRequest()
