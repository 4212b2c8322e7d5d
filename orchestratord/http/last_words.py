"""What is told to a client whose connection is about to be closed without a handler having seen it.

Decides status and words of each case, in the shape of every other error.
"""

from __future__ import annotations

import http
import math

from contracts.config import Server
from contracts.errors import ErrorCode
from contracts.labels import PolicyLabel
from orchestratord.admission import Refusal
from orchestratord.conduct import Fault
from orchestratord.http.correlation import HEADER, new_correlation_id
from orchestratord.http.errors import body_of

RETRY_MS = 1_000
"""After so long a client that has met a bound of connections may try again."""


def of_fault(fault: Fault, limits: Server) -> bytes | None:
    """What a client hears that is cut off; None where it has asked nothing, so that nothing is to be answered."""
    match fault:
        case Fault.SLOW_HEAD:
            text = f"no whole request came within {limits.header_timeout_ms} ms"
            hint = "server.header_timeout_ms of the configuration sets the limit"
            return _answer(408, Refusal(code=ErrorCode.INVALID_PARAMS, message=text, hint=hint, retriable=True))
        case Fault.SLOW_BODY:
            text = f"the body does not come on: nothing for {limits.body_timeout_ms} ms, or a little now and then"
            hint = "server.body_timeout_ms of the configuration sets the limit"
            return _answer(408, Refusal(code=ErrorCode.INVALID_PARAMS, message=text, hint=hint, retriable=True))
        case Fault.LARGE_HEAD:
            return _answer(431, large_head(limits))
        case _:
            return None


def large_head(limits: Server) -> Refusal:
    """Too much before the body."""
    text = f"more than {limits.max_header_bytes} bytes, or {limits.max_headers} headers, before the body"
    hint = "server.max_header_bytes and server.max_headers of the configuration set the limits"
    return Refusal(code=ErrorCode.INVALID_PARAMS, message=text, hint=hint, retriable=False)


def no_http() -> Refusal:
    """What came cannot be read. It is not repeated: it may hold a token."""
    text = "the request is no HTTP"
    return Refusal(code=ErrorCode.INVALID_PARAMS, message=text, hint="is it meant for another port?")


def no_place(label: PolicyLabel, limits: Server) -> bytes:
    """As many connections as there may be are open."""
    if label is PolicyLabel.MAX_CONNECTIONS_PER_CLIENT:
        text = f"{limits.max_connections_per_client} connections of this client are open"
    else:
        text = f"{limits.max_connections} connections are open"
    hint = f"close some, or raise server.{label}"
    refusal = Refusal(
        code=ErrorCode.ADMISSION_REJECT, message=text, hint=hint, retry_after_ms=RETRY_MS, policy_label=label
    )
    return _answer(429, refusal)


def https_only() -> bytes:
    """HTTP was spoken where TLS is."""
    text = "this port speaks HTTPS, and this request came without TLS"
    refusal = Refusal(code=ErrorCode.INVALID_PARAMS, message=text, hint="use https:// in place of http://")
    return _answer(400, refusal)


def _answer(status: int, refusal: Refusal) -> bytes:
    """The bytes of a whole answer. Nothing of the request is in it."""
    correlation_id = new_correlation_id()
    body = body_of(refusal, correlation_id)
    lines = [
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"{HEADER}: {correlation_id}",
        "Server: llama-orch",
        "Connection: close",
    ]
    if refusal.retry_after_ms is not None:
        lines += [
            f"Retry-After: {max(1, math.ceil(refusal.retry_after_ms / 1000))}",
            f"X-Backoff-Ms: {refusal.retry_after_ms}",
        ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
