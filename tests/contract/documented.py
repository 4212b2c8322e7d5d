"""The examples of the committed OpenAPI documents, and how an answer is compared with one.

What differs from run to run is compared by its type: ids that the server makes, moments, spans, versions, and in a 429
the numbers, which are computed. All else must be what the document says, to the letter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from contracts.examples.base import CORRELATION_ID, EVENT_STREAM
from contracts.operations import OPERATIONS
from tests.support.stream_grammar import check
from tests.unit.orchestratord.frames import frames_of

Json = object
FOLDER = Path(__file__).parents[2] / "contracts/openapi"
TOKEN = "a-token-that-is-long-enough"
READY = "a pool that serves the model haiku is ready, and nothing waits"
VOLATILE = {
    "created_ms",
    "decode_ms",
    "decode_time_ms",
    "ended_ms",
    "engine_digest",
    "replica_set",
    "engine_version",
    "artifact_id",
    "at_ms",
    "first_token_ms",
    "job_id",
    "number",
    "queue_time_ms",
    "started_ms",
    "verified_ms",
    "version",
}
COMPUTED = {
    "retry_after_ms",
    "backoff_ms",
    "predicted_start_ms",
    "predicted_start_low_ms",
    "predicted_start_high_ms",
    "ttl_ms_remaining",
    "predicted_end_ms",
    "new_tokens",
}
OF_THE_STAND_IN = {"stream_sha256", "t", "tokens_in"}
"""What the model would have said; the stand-in has words of its own."""
OF_A_RECEIPT = {"id", "size_bytes", "argv"}
"""Where the interpreter and the daemons are installed, and what follows from that."""
OF_A_JOB = {"state", "message", "ended_ms", "result", "reason"}
"""A job that runs may have ended when it is looked at."""

OF_A_POOL_THAT_CHANGES = {"state", "ready", "live", "draining", "next_model_ref", "gates"}
"""What was asked of it may have begun when the answer is written."""


class Documented(msgspec.Struct, frozen=True, kw_only=True):
    """One example as a reader of the document finds it."""

    name: str
    method: str
    path: str
    status: int
    given: str
    value: Any
    request: dict[str, Any]
    headers: dict[str, str]
    media: str | None
    partial: bool

    @property
    def id(self) -> str:
        """For people."""
        return f"{self.method}-{self.path.removeprefix('/v1').strip('/').replace('/', '.')}-{self.status}-{self.name}"

    @property
    def url(self) -> str:
        """The path and the query, filled in."""
        parameters = dict(self.request.get("parameters", {}))
        places = re.findall(r"{(\w+)}", self.path)
        path = self.path.format(**{name: parameters.pop(name) for name in places})
        query = "&".join(f"{name}={value}" for name, value in parameters.items() if name[0].islower())
        return f"{path}?{query}" if query else path

    @property
    def sent(self) -> dict[str, str]:
        """The headers of the request."""
        parameters = self.request.get("parameters", {})
        headers = {name: value for name, value in parameters.items() if name[0].isupper()}
        headers["X-Correlation-Id"] = CORRELATION_ID
        if "authorization" in self.request:
            headers["Authorization"] = self.request["authorization"].replace("$TOKEN", TOKEN)
        if "accept" in self.request:
            headers["Accept"] = self.request["accept"]
        return headers

    @property
    def body(self) -> bytes | None:
        """What is sent."""
        body = self.request.get("body")
        if body is None:
            return None
        raw: str = body if isinstance(body, str) else json.dumps(body)
        padding: int = self.request.get("padding", 0)
        return raw.encode() + b" " * padding


def documented() -> list[Documented]:
    """Every example of both documents."""
    return [
        example
        for plane in ("data", "control")
        for example in _of(yaml.safe_load((FOLDER / f"{plane}.yaml").read_text()))
    ]


def _of(document: dict[str, Any]) -> Iterator[Documented]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, answer in operation["responses"].items():
                found = [(None, answer.get("x-examples", {}))]
                found += [(media, content.get("examples", {})) for media, content in answer.get("content", {}).items()]
                for media, examples in found:
                    for name, example in examples.items():
                        yield Documented(
                            name=name,
                            method=method,
                            path=path,
                            status=int(status),
                            given=example.get("description", f"Given that {READY}.").removeprefix("Given that ")[:-1],
                            value=example.get("value"),
                            request=example["x-request"],
                            headers=example.get("x-headers", {}),
                            media=media,
                            partial=example.get("x-partial", False),
                        )


class Answer(msgspec.Struct, frozen=True):
    """What the server said."""

    status: int
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes


def differences(example: Documented, answer: Answer, *, stand_in: bool) -> list[str]:
    """How an answer differs from the documented one; empty where it does not."""
    if answer.status != example.status:
        return [f"status {answer.status}: {answer.body.decode()}"]
    found = [
        f"header {name}: {answer.headers.get(name.lower())!r}"
        for name, value in {**example.headers, "X-Correlation-Id": CORRELATION_ID}.items()
        if not _same_header(name, value, answer.headers.get(name.lower()))
    ]
    media = answer.headers.get("content-type", "").partition(";")[0] if answer.body else None
    if media != example.media:
        return [*found, f"content type {media}"]
    volatile = VOLATILE | (OF_THE_STAND_IN if stand_in else set())
    if (example.status, example.path.rpartition("/")[2]) in {(202, "drain"), (202, "reload")}:
        volatile |= OF_A_POOL_THAT_CHANGES
    match example.media:
        case None:
            return found
        case "application/json":
            shape = _out_of_shape(example, answer.body)
            return (
                found
                + shape
                + list(
                    unlike(
                        example.value, json.loads(answer.body), volatile, partial=example.partial, status=example.status
                    )
                )
            )
        case str() if example.media == EVENT_STREAM:
            check(answer.body, after=int(example.sent.get("Last-Event-ID", "-1")))
            wanted, got = frames_of(example.value.encode()), frames_of(answer.body)
            if [frame.event for frame in wanted] != [frame.event for frame in got]:
                return [*found, f"events {[frame.event for frame in got]}"]
            pairs = zip(wanted, got, strict=True)
            return found + [each for one, other in pairs for each in unlike(one.data, other.data, volatile)]
        case _:
            page = answer.body.decode()
            return found + [f"no line {line!r}" for line in example.value.splitlines() if line not in page]


def _same_header(name: str, wanted: str, got: str | None) -> bool:
    if name in {"Retry-After", "X-Backoff-Ms"}:
        return got is not None and got.isdecimal() and int(got) >= 1
    return wanted == got


def _out_of_shape(example: Documented, body: bytes) -> list[str]:
    """Whether the answer is exactly what its type can say: it reads, and nothing is left over."""
    operation = next(each for each in OPERATIONS if (each.method, each.path) == (example.method, example.path))
    kind = operation.answers.get(example.status)
    if kind is None:
        return []
    if json.loads(msgspec.json.encode(msgspec.json.decode(body, type=kind))) != json.loads(body):
        return [f"it is no {kind.__name__}: {body.decode()}"]
    return []


def unlike(
    wanted: Json, got: Json, volatile: set[str], *, partial: bool = False, status: int = 200, at: str = ""
) -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(got, dict):
        if wanted.keys() - got.keys() or (not partial and got.keys() - wanted.keys()):
            yield f"{at or 'body'} has {sorted(got)}, not {sorted(wanted)}"
            return
        loose = volatile | COMPUTED | (OF_A_JOB if at.endswith(".job") else set())
        loose |= OF_A_RECEIPT if at.startswith(".receipts[") else set()
        for name, value in wanted.items():
            here = f"{at}.{name}"
            if name in loose:
                if not _one_type(value, got[name]):
                    yield f"{here}: {got[name]!r} is of another type than {value!r}"
            elif status == 429 and name == "message":
                if re.sub(r"\d+", "#", value) != re.sub(r"\d+", "#", got[name]):
                    yield f"{here}: {got[name]!r}"
            else:
                yield from unlike(value, got[name], volatile, partial=partial, at=here)
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        for number, (one, other) in enumerate(zip(wanted, got, strict=True)):
            yield from unlike(one, other, volatile, at=f"{at}[{number}]")
    elif wanted != got or type(wanted) is not type(got):
        yield f"{at or 'body'}: {got!r}, not {wanted!r}"


def _one_type(wanted: Json, got: Json) -> bool:
    return type(wanted) is type(got) or wanted is None or got is None
