"""Asks pool-managerd on behalf of a client, and words its refusals over HTTP.

Decides which code a refusal gets.
"""

from __future__ import annotations

from typing import TypeVar

from aiohttp import web

from contracts import rpc
from contracts.base import Message
from contracts.errors import ErrorCode
from orchestratord.errors import api_error
from orchestratord.http.edge import CORRELATION_ID
from orchestratord.pool_link import ManagerRefusedError, ManagerUnavailableError, PoolLink

Result = TypeVar("Result", bound=Message)

_CODE_OF = {
    rpc.RpcCode.UNKNOWN_POOL: ErrorCode.NOT_FOUND,
    rpc.RpcCode.NOT_FOUND: ErrorCode.NOT_FOUND,
    rpc.RpcCode.CONFLICT: ErrorCode.CONFLICT,
    rpc.RpcCode.INVALID_PARAMS: ErrorCode.INVALID_PARAMS,
}


async def ask(
    link: PoolLink, method: rpc.Method, params: Message, result: type[Result], *, cause: web.Request
) -> Result:
    """The result of a call that a request caused. Raises ApiError."""
    try:
        return await link.call(method, params, result, cause[CORRELATION_ID])
    except ManagerUnavailableError as error:
        hint = "systemctl --user status pool-managerd"
        raise api_error(ErrorCode.POOL_UNAVAILABLE, str(error), hint) from error
    except rpc.ProtocolError as error:
        raise api_error(ErrorCode.INVALID_PARAMS, str(error)) from error
    except ManagerRefusedError as error:
        code = _CODE_OF.get(error.error.code, ErrorCode.INTERNAL)
        data = error.error.data or {}
        raise api_error(code, error.error.message, data.get("hint"), field=data.get("field")) from error
