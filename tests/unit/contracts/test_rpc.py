"""The frames between the daemons: they round-trip, and nothing malformed passes or crashes."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import rpc
from contracts.config import Engine, Mode
from contracts.pools import Endpoint, PoolSnapshot, PoolState

SNAPSHOT = PoolSnapshot(
    pool_id="gpu0",
    revision=7,
    state=PoolState.READY,
    replica_id="gpu0-0",
    engine=Engine.LLAMACPP,
    provisioning_mode=Mode.SOURCE,
    model_ref="m.gguf",
    ctx_max=4096,
    slots=1,
    endpoint=Endpoint(url="http://127.0.0.1:9", api_key="very-secret"),
)


def test_a_call_and_its_answer_round_trip() -> None:
    call = rpc.parse(rpc.call(3, rpc.Method.POOL_HEALTH, rpc.PoolRef(pool_id="gpu0")))
    assert isinstance(call, rpc.Request)
    assert (call.id, call.method) == (3, "pool.health")
    assert msgspec.json.decode(call.params, type=rpc.PoolRef).pool_id == "gpu0"
    answer = rpc.parse(rpc.answer(3, SNAPSHOT))
    assert isinstance(answer, rpc.Response)
    assert isinstance(answer.result, msgspec.Raw)
    assert msgspec.json.decode(answer.result, type=PoolSnapshot) == SNAPSHOT


def test_a_notification_has_no_id() -> None:
    line = rpc.notification(rpc.Push.POOL_CHANGED, SNAPSHOT)
    assert "id" not in msgspec.json.decode(line)
    message = rpc.parse(line)
    assert isinstance(message, rpc.Request)
    assert message.id is None


def test_a_newer_peer_may_send_a_field_that_this_one_does_not_know() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"result":{"protocol":"1.7","name":"x","version":"9","colour":"red"},"trace":1}'
    message = rpc.parse(line)
    assert isinstance(message, rpc.Response)
    assert isinstance(message.result, msgspec.Raw)
    assert msgspec.json.decode(message.result, type=rpc.Hello).protocol == "1.7"


@pytest.mark.req("PM-05")
@pytest.mark.parametrize(
    ("ours", "theirs", "talk"), [("1.0", "1.9", True), ("1.0", "2.0", False), ("1.0", "10.0", False)]
)
def test_the_major_version_decides_whether_two_can_talk(ours: str, theirs: str, *, talk: bool) -> None:
    assert rpc.same_major(ours, theirs) is talk


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", rpc.RpcCode.PARSE),
        (b"[]", rpc.RpcCode.PARSE),
        (b'{"method":"\xff","jsonrpc":"2.0"}', rpc.RpcCode.INVALID_REQUEST),
        (b'{"\xff":1}', rpc.RpcCode.PARSE),
        (b'{"params":' + b"[" * 100_000, rpc.RpcCode.PARSE),
        (b'{"method":3,"jsonrpc":"2.0"}', rpc.RpcCode.INVALID_REQUEST),
        (b'{"method":"x","jsonrpc":"1.0"}', rpc.RpcCode.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0"}', rpc.RpcCode.INVALID_REQUEST),
    ],
)
def test_what_is_no_message_is_told_apart(line: bytes, code: int) -> None:
    with pytest.raises(rpc.ProtocolError) as caught:
        rpc.parse(line)
    assert caught.value.code == code


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(line: bytes) -> None:
    with contextlib.suppress(rpc.ProtocolError):
        rpc.parse(line)


def test_a_frame_over_the_limit_is_not_made() -> None:
    with pytest.raises(rpc.ProtocolError, match="passes the limit"):
        rpc.notification(rpc.Push.POOL_LOG, rpc.LogLine(pool_id="a", line="x" * rpc.MAX_FRAME_BYTES))


@pytest.mark.req("PM-01")
def test_a_name_that_is_no_text_breaks_no_frame() -> None:
    line = rpc.LogLine(pool_id="a", line="caf\udce9 and \u00e9", correlation_ids=("\ud800",))
    told = msgspec.json.decode(rpc.notification(rpc.Push.POOL_LOG, line))
    assert told["params"]["line"] == "caf\\udce9 and \u00e9"
    assert told["params"]["correlation_ids"] == ["\\ud800"]
    error = rpc.parse(rpc.refusal(1, rpc.RpcCode.CONFLICT, "caf\udce9", {"caf\udce9": "caf\udce9"}))
    assert isinstance(error, rpc.Response)
    assert error.error == rpc.RpcErrorBody(
        code=rpc.RpcCode.CONFLICT, message="caf\\udce9", data={"caf\\udce9": "caf\\udce9"}
    )


@pytest.mark.req("EP-13")
def test_the_key_of_an_endpoint_is_not_in_its_representation() -> None:
    assert "very-secret" not in f"{SNAPSHOT!r} {SNAPSHOT}"
