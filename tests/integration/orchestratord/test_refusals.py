"""What a client is told that sends something wrong: status, code, field, message, hint and correlation id."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.http_exceptions import TransferEncodingError

from contracts.config import Auth, FullPolicy, Queue
from daemon_core.redaction import fingerprint
from tests.integration.orchestratord.house import BODY, TOKEN, House, house, read_until, tokens_in
from tests.integration.orchestratord.wire import wire
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn
from tests.unit.orchestratord.world import MODEL, pool

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NO_JSON = "send one JSON object, encoded in UTF-8"
STUCK = Knobs(fault=Fault.HANG, fault_after=5, tokens=100)

# what, method, path, body, status, code, field, message, hint
CASES: list[tuple[str, str, str, bytes | None, int, str, str | None, str, str | None]] = [
    ("malformed", "POST", "/v1/tasks", b"{", 400, "INVALID_PARAMS", None, "the body is no JSON: ", NO_JSON),
    ("empty", "POST", "/v1/tasks", b"", 400, "INVALID_PARAMS", None, "the body is no JSON: ", NO_JSON),
    (
        "latin-1",
        "POST",
        "/v1/tasks",
        '{"model_ref":"é"}'.encode("latin-1"),
        400,
        "INVALID_PARAMS",
        None,
        "the body is no JSON: it is not encoded in UTF-8",
        NO_JSON,
    ),
    (
        "unknown-field",
        "POST",
        "/v1/tasks",
        b'{"model_ref":"m","promt":"x"}',
        400,
        "INVALID_PARAMS",
        "promt",
        "promt: unknown field 'promt'",
        "did you mean 'prompt'?",
    ),
    (
        "wrong-type",
        "POST",
        "/v1/tasks",
        b'{"model_ref":"m","prompt":7}',
        400,
        "INVALID_PARAMS",
        "prompt",
        "prompt: expected str | null, got int",
        None,
    ),
    (
        "missing-field",
        "POST",
        "/v1/tasks",
        b'{"prompt":"x"}',
        400,
        "INVALID_PARAMS",
        "model_ref",
        "model_ref: the required field 'model_ref' is missing",
        None,
    ),
    (
        "wrong-enum",
        "POST",
        "/v1/tasks",
        b'{"model_ref":"m","placement":{"mode":"near"}}',
        400,
        "INVALID_PARAMS",
        "placement.mode",
        "placement.mode: 'near' is not one of: auto, prefer, pin",
        None,
    ),
    (
        "no-input",
        "POST",
        "/v1/tasks",
        b'{"model_ref":"m"}',
        400,
        "INVALID_PARAMS",
        "prompt",
        "workload completion takes 'prompt' and nothing else; got none",
        None,
    ),
    (
        "unknown-model",
        "POST",
        "/v1/tasks",
        b'{"model_ref":"n","prompt":"x"}',
        503,
        "MODEL_UNAVAILABLE",
        "model_ref",
        "no pool serves the model 'n'",
        "valid here: m",
    ),
    ("unknown-task", "GET", "/v1/tasks/t9", None, 404, "NOT_FOUND", None, "there is no task 't9'", "the last 1000 "),
    (
        "unknown-stream",
        "GET",
        "/v1/tasks/t9/stream",
        None,
        404,
        "NOT_FOUND",
        None,
        "there is no task 't9'",
        "the last ",
    ),
    (
        "unknown-cancel",
        "POST",
        "/v1/tasks/t9/cancel",
        None,
        404,
        "NOT_FOUND",
        None,
        "there is no task 't9'",
        "the last ",
    ),
    (
        "bad-state",
        "GET",
        "/v1/tasks?state=don",
        None,
        400,
        "INVALID_PARAMS",
        "state",
        "'don' is no task state",
        "did you mean 'done'?",
    ),
    (
        "no-state",
        "GET",
        "/v1/tasks?state=",
        None,
        400,
        "INVALID_PARAMS",
        "state",
        "'' is no task state",
        "valid here: ",
    ),
    (
        "bad-limit",
        "GET",
        "/v1/tasks?limit=0",
        None,
        400,
        "INVALID_PARAMS",
        "limit",
        "limit '0' is no number from 1 to 1000",
        None,
    ),
    (
        "unknown-pool",
        "GET",
        "/v1/pools/q/health",
        None,
        404,
        "NOT_FOUND",
        None,
        "there is no pool 'q'",
        "valid here: p",
    ),
    (
        "unknown-route",
        "GET",
        "/v1/replicasets",
        None,
        404,
        "NOT_FOUND",
        None,
        "there is no such route",
        "GET /openapi.json lists every route",
    ),
    (
        "openai-route",
        "POST",
        "/v1/chat/completions",
        b"{}",
        404,
        "NOT_FOUND",
        None,
        "there is no such route",
        "llama-orch has no OpenAI routes: tasks are asked by POST /v1/tasks, see docs/api.md",
    ),
    (
        "misspelt-query",
        "POST",
        "/v1/tasks?dryrun=true",
        b'{"model_ref":"m","prompt":"x"}',
        400,
        "INVALID_PARAMS",
        "dryrun",
        "there is no query parameter 'dryrun' here",
        "did you mean 'dry_run'?",
    ),
    (
        "query-twice",
        "POST",
        "/v1/tasks?dry_run=false&dry_run=true",
        b'{"model_ref":"m","prompt":"x"}',
        400,
        "INVALID_PARAMS",
        "dry_run",
        "the query parameter 'dry_run' is given 2 times",
        "once says what is meant",
    ),
    (
        "misplaced-query",
        "POST",
        "/v1/pools/p/drain?deadline_ms=5",
        b"{}",
        400,
        "INVALID_PARAMS",
        "deadline_ms",
        "there is no query parameter 'deadline_ms' here",
        "valid here: nothing",
    ),
    (
        "empty-stop",
        "POST",
        "/v1/tasks",
        b'{"model_ref":"m","prompt":"x","sampling":{"stop":["a",""]}}',
        400,
        "INVALID_PARAMS",
        "sampling.stop[1]",
        "sampling.stop[1]: expected str of length >= 1",
        None,
    ),
    (
        "no-such-method",
        "DELETE",
        "/v1/tasks",
        None,
        405,
        "INVALID_PARAMS",
        None,
        "method not allowed",
        "allowed here: GET,HEAD,POST",
    ),
    (
        "too-large",
        "POST",
        "/v1/tasks",
        b" " * 5000,
        413,
        "PAYLOAD_TOO_LARGE",
        None,
        "the body is too large",
        "server.max_body_bytes ",
    ),
    (
        "drain-type",
        "POST",
        "/v1/pools/p/drain",
        b'{"deadline_ms":"soon"}',
        400,
        "INVALID_PARAMS",
        "deadline_ms",
        "deadline_ms: expected int, got str",
        None,
    ),
    (
        "drain-deep",
        "POST",
        "/v1/pools/p/drain",
        b'{"x":' * 500,
        400,
        "INVALID_PARAMS",
        "x",
        "x: unknown field 'x'",
        "valid here: deadline_ms",
    ),
    (
        "reload-nothing",
        "POST",
        "/v1/pools/p/reload",
        b"",
        400,
        "INVALID_PARAMS",
        "new_model_ref",
        "new_model_ref: the required field 'new_model_ref' is missing",
        None,
    ),
    (
        "no-manager",
        "POST",
        "/v1/pools/p/drain",
        b"",
        503,
        "POOL_UNAVAILABLE",
        None,
        "pool-managerd cannot be reached",
        "systemctl --user status pool-managerd",
    ),
]


@pytest.mark.req("HP-22")
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "field", "message", "hint"),
    [case[1:] for case in CASES],
    ids=[case[0] for case in CASES],
)
async def test_a_wrong_request(  # noqa: PLR0917 - one row of the table
    tmp_path: Path,
    method: str,
    path: str,
    body: bytes | None,
    status: int,
    code: str,
    field: str | None,
    message: str,
    hint: str | None,
) -> None:
    async with house(tmp_path, max_body_bytes=4096) as here:
        here.report("http://127.0.0.1:1")
        headers = {"X-Correlation-Id": "my.id:7_x-1"}
        async with here.client.request(method, path, data=body, headers=headers) as answer:
            assert answer.status == status, await answer.text()
            assert answer.content_type == "application/json"
            assert answer.headers["X-Correlation-Id"] == "my.id:7_x-1"
            told = await answer.json()
    assert told["code"] == code
    assert told.get("field") == field
    assert told["message"].startswith(message)
    assert (told.get("hint") or "").startswith(hint or "")
    assert ("hint" in told) == (hint is not None)
    assert told["correlation_id"] == "my.id:7_x-1"
    assert isinstance(told["retriable"], bool)


async def test_a_body_may_be_as_large_as_the_limit_says(tmp_path: Path) -> None:
    async with house(tmp_path, max_body_bytes=4096) as here:
        body = b'{"model_ref":"m"}'
        async with here.client.post("/v1/tasks", data=body + b" " * (4096 - len(body))) as answer:
            assert answer.status == 400
        async with here.client.post("/v1/tasks", data=body + b" " * (4097 - len(body))) as answer:
            assert answer.status == 413


@pytest.mark.parametrize("position", ["", "-1", "x", "1.5", "9" * 19, "٣"])
async def test_a_position_that_is_none(tmp_path: Path, position: str) -> None:
    async with StandIn() as engine, house(tmp_path, engine.url) as here:
        path = f"/v1/tasks/{await here.submit()}/stream"
        async with here.client.get(path, params={"after": position}) as answer:
            assert answer.status == 400
            told = await answer.json()
        assert told["field"] == "after"
        assert told["message"] == f"after {position!r} is no token number"
        assert told["hint"] == "send the id of the last event you saw"
        if position and position.isascii():  # an empty header is as good as none
            async with here.client.get(f"{path}?after=0", headers={"Last-Event-ID": position}) as answer:
                assert (answer.status, (await answer.json())["field"]) == (400, "Last-Event-ID")


@pytest.mark.req("HP-22")
@pytest.mark.parametrize("given", [None, "", "has space", "x" * 129, "semi;colon", "é"])
async def test_a_missing_or_malformed_correlation_id_is_minted(tmp_path: Path, given: str | None) -> None:
    headers = {} if given is None else {"X-Correlation-Id": given}
    async with house(tmp_path) as here:
        async with here.client.get("/v1/pools", headers=headers) as answer:
            first = answer.headers["X-Correlation-Id"]
        async with here.client.get("/nowhere", headers=headers) as answer:
            second = answer.headers["X-Correlation-Id"]
            assert (await answer.json())["correlation_id"] == second
    assert UUID4.fullmatch(first)
    assert UUID4.fullmatch(second)
    assert first != second


@pytest.mark.req("HP-22")
async def test_every_answer_has_a_correlation_id(tmp_path: Path) -> None:
    async with StandIn() as engine, house(tmp_path, engine.url) as here:
        paths = ["/healthz", "/metrics", "/openapi.json", "/v1/capabilities", "/v1/pools", "/v1/tasks"]
        task_id = await here.submit()
        for path in [*paths, f"/v1/tasks/{task_id}", f"/v1/tasks/{task_id}/stream"]:
            async with here.client.get(path, headers={"X-Correlation-Id": "mine"}) as answer:
                assert (answer.status, answer.headers["X-Correlation-Id"]) == (200, "mine"), path
        async with here.client.post(f"/v1/tasks/{task_id}/cancel", headers={"X-Correlation-Id": "x" * 128}) as answer:
            assert (answer.status, answer.headers["X-Correlation-Id"]) == (204, "x" * 128)


# --- who may talk -----------------------------------------------------------------------------------------------------


@pytest.mark.req("ORCH-3810")
@pytest.mark.parametrize(
    ("header", "code", "number"),
    [(None, "MISSING_TOKEN", 40101), ("Bearer wrong", "BAD_TOKEN", 40102), (f"Basic {TOKEN}", "BAD_TOKEN", 40102)],
)
@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/pools", "/metrics", "/openapi.json", "/nowhere"])
async def test_without_the_token_nothing_is_told(
    tmp_path: Path, header: str | None, code: str, number: int, path: str
) -> None:
    async with house(tmp_path, token=TOKEN) as here:
        headers = {} if header is None else {"Authorization": header}
        async with here.client.get(path, headers=headers) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == 'Bearer realm="llama-orch"'
            told = await answer.json()
        assert (told["code"], told["error_number"], told["retriable"]) == (code, number, False)
        assert UUID4.fullmatch(told["correlation_id"])
        assert "llama-orch token" in told["hint"]


@pytest.mark.req("ORCH-3810")
async def test_with_the_token_everything_is_open_and_healthz_needs_none(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN) as here:
        async with here.client.get("/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        async with here.client.get("/v1/pools", headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            assert answer.status == 200


@pytest.mark.req("ORCH-3810")
async def test_a_proxy_that_adds_a_header_of_its_own_is_heard(tmp_path: Path) -> None:
    auth = Auth(optional=True, trust_proxy=True)
    async with house(tmp_path, token=TOKEN, auth=auth) as here:
        for forwarded, status in [(["127.0.0.1"], 200), (["127.0.0.1", "192.0.2.7"], 401), (["192.0.2.7"], 401)]:
            headers = [("X-Forwarded-For", each) for each in forwarded]
            async with here.client.get("/v1/pools", headers=headers) as answer:
                assert answer.status == status, forwarded


@pytest.mark.req("ORCH-3811")
async def test_the_log_tells_who_was_admitted_and_never_the_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with StandIn() as engine, house(tmp_path, engine.url, token=TOKEN) as here:
        headers = {"Authorization": f"Bearer {TOKEN}", "X-Correlation-Id": "mine"}
        async with here.client.post("/v1/tasks", json=BODY, headers=headers) as answer:
            task_id = (await answer.json())["task_id"]
        async with here.client.get(f"/v1/tasks/{task_id}/stream", headers=headers) as answer:
            await answer.read()
        async with here.client.post("/v1/tasks", json=BODY | {"model_ref": "n"}, headers=headers) as answer:
            assert answer.status == 503
    told = {record.message.split()[0] + record.message.split()[-1]: record for record in caplog.records}
    records = [record for record in caplog.records if record.name == "orchestratord.tasks"]
    assert [record.message.split(" ")[2].rstrip(":") for record in records] == ["admitted", "ended", "no"], told
    for record in records:
        assert record.__dict__["identity"] == f"token:{fingerprint(TOKEN)}"
        assert record.__dict__["correlation_id"] == "mine"
    assert TOKEN not in caplog.text
    assert not any(TOKEN in str(record.__dict__) for record in caplog.records)


# --- full queues ------------------------------------------------------------------------------------------------------


async def filled(here: House) -> tuple[str, str]:
    """One task runs, one waits, and there is no room for a third."""
    running = await here.submit(max_tokens=100)
    async with here.client.get(f"/v1/tasks/{running}/stream") as answer:
        await read_until(answer, lambda got: tokens_in(got) == 5)
    return running, await here.submit(priority="batch")


@pytest.mark.req("HP-02", "HP-04")
async def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    small = pool(queue=Queue(capacity=1))
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, small, report={"slots": 1}) as here:
        running, waiting = await filled(here)
        async with here.client.post("/v1/tasks", json=BODY) as answer:
            assert answer.status == 429
            told = await answer.json()
            wait_ms = told["retry_after_ms"]
            assert answer.headers["Retry-After"] == str(max(1, -(-wait_ms // 1000)))
            assert answer.headers["X-Backoff-Ms"] == str(wait_ms)
        assert told == {
            "code": "ADMISSION_REJECT",
            "message": "the queue of pool 'p' is full",
            "retriable": True,
            "correlation_id": told["correlation_id"],
            "hint": "send it again after retry_after_ms; queue.capacity of the pool sets the bound",
            "retry_after_ms": wait_ms,
            "engine": "llamacpp",
            "pool_id": "p",
            "policy_label": "reject",
        }
        shown = (await here.get("/v1/capabilities"))["pools"][0]["queue"]
        assert shown == {"capacity": 1, "policy": "reject", "depth": 1, "batch_share": 0.0}
        for task_id in (waiting, running):
            assert await here.cancel(task_id) == 204


@pytest.mark.req("HP-02", "HP-04")
async def test_under_drop_lru_the_oldest_batch_task_gives_way(tmp_path: Path) -> None:
    small = pool(queue=Queue(capacity=1, full_policy=FullPolicy.DROP_LRU))
    async with StandIn(STUCK) as engine, house(tmp_path, engine.url, small, report={"slots": 1}) as here:
        running, waiting = await filled(here)
        newer = await here.submit()
        dropped = await here.stream(waiting)
        assert b'"code":"QUEUE_FULL_DROP_LRU"' in dropped
        async with here.client.post("/v1/tasks", json=BODY | {"priority": "batch"}) as answer:
            assert answer.status == 429
            told = await answer.json()
        assert (told["code"], told["policy_label"]) == ("QUEUE_FULL_DROP_LRU", "drop-lru")
        assert (await here.get("/v1/capabilities"))["pools"][0]["queue"]["policy"] == "drop-lru"
        for task_id in (newer, running):
            assert await here.cancel(task_id) == 204


# --- robustness -------------------------------------------------------------------------------------------------------


async def test_a_client_that_hangs_up_before_its_answer_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with StandIn() as engine, house(tmp_path, engine.url) as here:
        host, port = here.url.removeprefix("http://").split(":")
        for request in (
            b"GET /v1/pools HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /v1/tasks HTTP/1.1\r\nContent-Le",
            b"\x00\xff",
        ):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            writer.close()
            await writer.wait_closed()
        assert (await here.get("/v1/pools"))["managed"] is True
    assert not [
        record
        for record in caplog.records
        if record.levelname in {"ERROR", "CRITICAL"} and "orchestratord" in record.name
    ]


@pytest.mark.req("ORCH-3811")
async def test_bytes_that_are_no_http_are_one_line_in_the_log_and_never_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with house(tmp_path, token=TOKEN) as here:
        host, port = here.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/pools HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \x00half-a-token\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 400")
        writer.close()
        await writer.wait_closed()
    (record,) = [each for each in caplog.records if each.name == "orchestratord.http.connection"]
    assert record.levelname == "INFO"
    assert re.fullmatch(r"127.0.0.1: bytes that are no HTTP: \w+", record.getMessage())
    assert "half-a-token" not in caplog.text
    assert not record.exc_info


@pytest.mark.parametrize("authorization", ["", f"Authorization: Bearer {TOKEN}\r\n"], ids=["stranger", "client"])
async def test_a_body_that_is_not_what_its_head_says_is_the_clients_mistake_and_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, authorization: str
) -> None:
    caplog.set_level("INFO")
    head = f"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\n{authorization}Transfer-Encoding: chunked\r\n\r\n"
    async with house(tmp_path, token=TOKEN) as here:
        for _ in range(3):
            async with wire(here) as client:
                await client.send(f"{head}no length\r\n".encode())
                heard = await client.answer()
                assert (heard.status, heard.told["message"]) == (400, "the request is no HTTP")
                assert await client.rest() == b""
    assert [each.getMessage() for each in caplog.records if each.levelno > logging.INFO or each.exc_info] == []
    told = [each.getMessage() for each in caplog.records if each.name == "orchestratord.http.connection"]
    assert len(told) == 1
    assert told[0].startswith("127.0.0.1: bytes that are no HTTP: ")


@pytest.mark.parametrize("error", [web.RequestPayloadError("a chunk"), TransferEncodingError("a chunk")], ids=repr)
async def test_a_body_that_the_parser_gives_up_is_400_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async with house(tmp_path) as here:

        def broken(*_: Any) -> None:  # noqa: ANN401 - takes whatever the real one takes
            raise error

        monkeypatch.setattr(here.orchestrator, "select", broken)
        async with here.client.get("/v1/tasks") as answer:
            assert answer.status == 400
            assert (await answer.json())["message"].startswith("the body cannot be read: ")
    assert [each for each in caplog.records if each.exc_info] == []


async def test_an_internal_mistake_is_500_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with house(tmp_path) as here:

        def broken(*_: Any) -> None:  # noqa: ANN401 - takes whatever the real one takes
            raise ZeroDivisionError("a secret detail")

        monkeypatch.setattr(here.orchestrator, "select", broken)
        async with here.client.get("/v1/tasks", headers={"X-Correlation-Id": "mine"}) as answer:
            assert answer.status == 500
            told = await answer.json()
    assert (told["code"], told["retriable"], told["correlation_id"]) == ("INTERNAL", False, "mine")
    assert told["message"] == "internal error; the log has the details under this correlation id"
    record = next(each for each in caplog.records if "failed" in each.message)
    assert record.message == "GET /v1/tasks failed"
    assert record.__dict__["correlation_id"] == "mine"
    assert "a secret detail" in caplog.text


def test_the_model_of_these_tests_is_the_pools() -> None:
    assert BODY["model_ref"] == MODEL
