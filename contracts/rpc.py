"""What orchestratord and pool-managerd say to each other: newline-delimited JSON-RPC 2.0 over a Unix socket.

Decides the envelope, the methods with their parameter and result types, the protocol version and the frame limit, and
turns bytes into messages and back. Never touches a socket.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from contracts.base import Message, writable
from contracts.catalog import CatalogJob
from contracts.engines import Finding
from contracts.pools import Gpu, PoolSnapshot

PROTOCOL = "1.0"
MAX_FRAME_BYTES = 1 << 20
MAX_JOBS = 16
"""Correlation ids that are told of a pool at most."""
MAX_LOG_LINES = 1_000
"""Lines from before that ``pool.log`` answers with at most."""


class RpcCode:
    """Error codes: JSON-RPC's own, and ours below -32000."""

    PARSE = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL = -32603
    VERSION_MISMATCH = -32001
    HELLO_FIRST = -32002
    UNKNOWN_POOL = -32003
    CONFLICT = -32004
    FRAME_TOO_LARGE = -32005
    NOT_FOUND = -32006


class Method(StrEnum):
    """The calls of pool-managerd."""

    HELLO = "hello"
    POOL_LIST = "pool.list"
    POOL_HEALTH = "pool.health"
    POOL_DRAIN = "pool.drain"
    POOL_RELOAD = "pool.reload"
    POOL_RESTART = "pool.restart"
    POOL_IDLE = "pool.idle"
    """A notification: no task runs on those engines of the pool that are to end once their tasks have."""
    POOL_JOBS = "pool.jobs"
    """A notification: whose work a pool's engine does from now on, by correlation ids."""
    POOL_LOG = "pool.log"
    """The latest lines of the engines, and from now on each new one as a notification of the same name."""
    ENGINE_PLAN = "engine.plan"
    ENGINE_PREFLIGHT = "engine.preflight"
    CATALOG_PUT = "catalog.put"
    CATALOG_VERIFY = "catalog.verify"
    CATALOG_SET_STATE = "catalog.set_state"
    CATALOG_DELETE = "catalog.delete"
    GPU_LIST = "gpu.list"
    SUBSCRIBE = "subscribe"


class Push(StrEnum):
    """The notifications of pool-managerd to those who subscribed."""

    POOL_CHANGED = "pool.changed"
    GPU_SAMPLE = "gpu.sample"
    POOL_LOG = "pool.log"
    CATALOG_JOB = "catalog.job"
    """A job on a model began, went on or ended: the whole of it."""


class RpcErrorBody(Message, frozen=True, kw_only=True):
    """The ``error`` member of an answer."""

    code: int
    message: str
    data: dict[str, str] | None = None


class Request(Message, frozen=True, kw_only=True):
    """A call (``id`` set) or a notification (``id`` absent), as it is read.

    ``params`` stays raw until the method is known. ``correlation_id``: of the HTTP request that caused the call; a
    member beside those of JSON-RPC, which a peer that does not know it passes over.
    """

    method: str
    jsonrpc: Literal["2.0"] = "2.0"
    id: int | str | None = None
    params: msgspec.Raw = msgspec.Raw(b"{}")
    correlation_id: str | msgspec.UnsetType = msgspec.UNSET


class Notification(Message, frozen=True, kw_only=True):
    """A message that asks for no answer, as it is sent: without the member ``id``. It is read as a ``Request``."""

    method: str
    params: msgspec.Raw
    jsonrpc: Literal["2.0"] = "2.0"


class Response(Message, frozen=True, kw_only=True):
    """The answer to a call: exactly one of ``result`` and ``error``."""

    id: int | str | None
    jsonrpc: Literal["2.0"] = "2.0"
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: RpcErrorBody | msgspec.UnsetType = msgspec.UNSET


class Hello(Message, frozen=True, kw_only=True):
    """First call of every connection, and its answer."""

    protocol: str
    name: str
    version: str


class PoolRef(Message, frozen=True, kw_only=True):
    """The parameter of calls about one pool."""

    pool_id: str


class DrainParams(Message, frozen=True, kw_only=True):
    """``pool.drain``."""

    pool_id: str
    deadline_ms: int = 30_000


class ReloadParams(Message, frozen=True, kw_only=True):
    """``pool.reload``."""

    pool_id: str
    new_model_ref: str
    deadline_ms: int = 30_000
    """How long running work may go on with the old model."""


class PoolSet(Message, frozen=True, kw_only=True):
    """Every pool at one revision: the answer to ``pool.list`` and to ``subscribe``."""

    revision: int
    pools: tuple[PoolSnapshot, ...]
    jobs: tuple[CatalogJob, ...] = ()
    """The latest job on each model."""
    notices: tuple[str, ...] = ()
    """What an operator should know although everything runs: an index that had to be rebuilt."""


class GpuSet(Message, frozen=True, kw_only=True):
    """``gpu.list`` and ``gpu.sample``."""

    gpus: tuple[Gpu, ...]


class Findings(Message, frozen=True, kw_only=True):
    """The answer to ``engine.preflight``: every problem that was found; none means that the engine can be had."""

    pool_id: str
    findings: tuple[Finding, ...] = ()


class JobsParams(Message, frozen=True, kw_only=True):
    """``pool.jobs``: the whole list, each time. Of a long one the newest ``MAX_JOBS`` ids, and how many more."""

    pool_id: str
    correlation_ids: tuple[str, ...] = ()
    more: int = 0


class LogParams(Message, frozen=True, kw_only=True):
    """``pool.log``: which pool's engines, or every pool's, and how many lines from before."""

    pool_id: str | None = None
    lines: int = 50


class LogLine(Message, frozen=True, kw_only=True):
    """One line of an engine's output, redacted; as a notification ``pool.log``, as an item of a ``LogTail``."""

    pool_id: str
    line: str
    correlation_ids: tuple[str, ...] = ()
    """The jobs that the engine worked on when it said so; ``line`` does not tell which of them it is about."""
    left_out: int = 0
    """So many lines before this one were not sent, since they came too fast."""


class LogTail(Message, frozen=True, kw_only=True):
    """The answer to ``pool.log``: the latest lines, oldest first, as the pools' files have them."""

    lines: tuple[LogLine, ...] = ()


class Empty(Message, frozen=True, kw_only=True):
    """No parameters, or nothing to say but "done"."""


class ProtocolError(Exception):
    """A frame that is no JSON-RPC 2.0 message. ``code`` is the JSON-RPC error code to answer with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


_encoder = msgspec.json.Encoder()
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def frame(message: Request | Notification | Response) -> bytes:
    """One message as a line.

    Raises ProtocolError where the line would pass the frame limit.
    """
    line = _encoded(message) + b"\n"
    if len(line) > MAX_FRAME_BYTES:
        raise ProtocolError(
            RpcCode.FRAME_TOO_LARGE, f"a frame of {len(line)} bytes passes the limit of {MAX_FRAME_BYTES}"
        )
    return line


def call(number: int, method: Method, params: Message, correlation_id: str | None = None) -> bytes:
    """The frame of a call."""
    caused_by = msgspec.UNSET if correlation_id is None else correlation_id
    return frame(Request(id=number, method=method, params=raw(params), correlation_id=caused_by))


def notification(method: Push | Method, params: Message) -> bytes:
    """The frame of a notification."""
    return frame(Notification(method=method, params=raw(params)))


def answer(number: int | str | None, result: Message) -> bytes:
    """The frame of a good answer."""
    return frame(Response(id=number, result=raw(result)))


def refusal(number: int | str | None, code: int, message: str, data: dict[str, str] | None = None) -> bytes:
    """The frame of a bad answer."""
    return frame(Response(id=number, error=RpcErrorBody(code=code, message=message, data=data)))


def raw(message: Message) -> msgspec.Raw:
    """A message as the raw JSON that an envelope carries."""
    return msgspec.Raw(_encoded(message))


def _encoded(message: msgspec.Struct) -> bytes:
    """As JSON. What is no text goes as an escape: an error may quote the name of a file, which can be any bytes."""
    try:
        return _encoder.encode(message)
    except UnicodeEncodeError:
        return _encoder.encode(_readable(msgspec.to_builtins(message, builtin_types=(msgspec.Raw,))))


def _readable(value: object) -> object:
    match value:
        case str():
            return writable(value)
        case dict():
            return {_readable(key): _readable(member) for key, member in value.items()}
        case list() | tuple():
            return [_readable(member) for member in value]
        case _:
            return value


def parse(line: bytes) -> Request | Response:
    """One line as a message.

    Raises ProtocolError on malformed JSON and on what is no JSON-RPC 2.0 message.
    """
    try:
        members = _raw_object.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(RpcCode.PARSE, f"malformed JSON: {error}") from error
    try:
        if "method" in members:
            return msgspec.json.decode(line, type=Request)
        return msgspec.json.decode(line, type=Response)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(RpcCode.INVALID_REQUEST, f"no JSON-RPC 2.0 message: {error}") from error


def same_major(ours: str, theirs: str) -> bool:
    """Whether two protocol versions can talk: the part before the dot decides."""
    return ours.split(".", 1)[0] == theirs.split(".", 1)[0]
