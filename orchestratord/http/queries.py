"""Which query parameters a route has.

Decides that one which no route has is refused like an unknown field of a body: ``?dryrun=true`` is a mistake, and would
run the task that somebody only wanted foretold. What there is, the operations of the OpenAPI documents say. Those that
take nothing but what their path names (no 400 is among their answers) look at no query.
"""

from __future__ import annotations

from aiohttp import web

from contracts.base import nearest
from contracts.errors import ErrorCode
from contracts.openapi import OPERATIONS
from orchestratord.errors import api_error

_KNOWN = {
    (operation.method.upper(), operation.path): frozenset(
        parameter.name for parameter in operation.parameters if parameter.place == "query"
    )
    for operation in OPERATIONS
    if 400 in operation.answers
}


def refuse_unknown(request: web.Request) -> None:
    """Raises ApiError for a parameter that the route does not have."""
    resource = request.match_info.route.resource
    if not request.query or resource is None:
        return
    method = "GET" if request.method == "HEAD" else request.method
    known = _KNOWN.get((method, resource.canonical))
    for name in request.query:
        if known is not None and name not in known:
            text = f"there is no query parameter {name!r} here"
            raise api_error(ErrorCode.INVALID_PARAMS, text, nearest(name, known), field=name)
