"""Reads the parameters of a call.

Decides how one is refused whose parameters do not fit.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from contracts.base import Message, explain
from contracts.rpc import Request, RpcCode
from pool_managerd.rpc_server import RpcError

Params = TypeVar("Params", bound=Message)


def params_of(request: Request, kind: type[Params]) -> Params:
    """The parameters as a ``kind``. Raises RpcError, which names the field."""
    try:
        return msgspec.json.decode(request.params, type=kind)
    except msgspec.ValidationError as error:
        problem = explain(error, kind)
        text = f"{request.method}: {problem.where}: {problem.message}"
        raise RpcError(RpcCode.INVALID_PARAMS, text, {"hint": problem.hint} if problem.hint else None) from error
