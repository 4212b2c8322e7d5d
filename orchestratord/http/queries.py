"""Which query parameters a route has, and how a number among them is read.

Decides that one which a route does not have is refused like an unknown field of a body: ``?dryrun=true`` is a mistake,
and would run the task that somebody only wanted foretold. So is one that is there twice: the first would count. Routes
that take nothing but what their path names look at no query. The OpenAPI documents say the same, and a test compares
them: they are not made for a start.
"""

from __future__ import annotations

from types import MappingProxyType

from aiohttp import web

from contracts.base import nearest
from contracts.errors import ErrorCode
from orchestratord.errors import api_error

KNOWN: MappingProxyType[tuple[str, str], frozenset[str]] = MappingProxyType(
    {
        ("POST", "/v1/tasks"): frozenset({"dry_run"}),
        ("GET", "/v1/tasks"): frozenset({"state", "limit"}),
        ("GET", "/v1/tasks/{task_id}/stream"): frozenset({"after"}),
        ("POST", "/v1/pools/{pool_id}/drain"): frozenset(),
        ("POST", "/v1/pools/{pool_id}/reload"): frozenset(),
        ("POST", "/v1/catalog/models"): frozenset(),
        ("GET", "/v1/catalog/models"): frozenset({"state"}),
        ("DELETE", "/v1/catalog/models/{model_id}"): frozenset({"files"}),
        ("POST", "/v1/catalog/models/{model_id}/state"): frozenset(),
        ("POST", "/v1/artifacts"): frozenset(),
        ("GET", "/v1/receipts"): frozenset({"after", "limit"}),
    }
)
"""By method and path: those with a 400 among their answers."""


def refuse_unknown(request: web.Request) -> None:
    """Raises ApiError for a parameter that the route does not have, or that is there more than once."""
    resource = request.match_info.route.resource
    if not request.query or resource is None:
        return
    method = "GET" if request.method == "HEAD" else request.method
    known = KNOWN.get((method, resource.canonical))
    if known is None:
        return
    for name in request.query:
        if name not in known:
            text = f"there is no query parameter {name!r} here"
            raise api_error(ErrorCode.INVALID_PARAMS, text, nearest(name, known), field=name)
        times = len(request.query.getall(name))
        if times > 1:
            text = f"the query parameter {name!r} is given {times} times"
            raise api_error(ErrorCode.INVALID_PARAMS, text, "once says what is meant", field=name)


def number(request: web.Request, name: str, usual: int, *, least: int, most: int) -> int:
    """A parameter that is a number within these bounds. Raises ApiError."""
    given = request.query.get(name, str(usual))
    if given.isascii() and given.isdigit() and len(given) <= len(str(most)) and least <= int(given) <= most:
        return int(given)
    text = f"{name} {given!r} is no number from {least} to {most}"
    raise api_error(ErrorCode.INVALID_PARAMS, text, field=name)
