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


class _Named(Message, frozen=True, kw_only=True):
    pool_id: str | None = None


def pool_named(request: Request) -> str | None:
    """The pool that a call is about, as far as that can be told without knowing the method."""
    try:
        return msgspec.json.decode(request.params, type=_Named).pool_id
    except msgspec.MsgspecError:
        return None


def params_of(request: Request, kind: type[Params]) -> Params:
    """The parameters as a ``kind``. Raises RpcError, which names the field."""
    try:
        return msgspec.json.decode(request.params, type=kind)
    except msgspec.ValidationError as error:
        problem = explain(error, kind)
        text = f"{request.method}: {problem.where}: {problem.message}"
        raise RpcError(RpcCode.INVALID_PARAMS, text, {"hint": problem.hint} if problem.hint else None) from error
