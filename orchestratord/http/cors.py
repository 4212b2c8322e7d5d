"""Cross-origin requests: what a browser asks before, and what it wants to see on an answer.

Decides nothing: the configuration names the origins. Without any, no answer says a word of it.
"""

from __future__ import annotations

from collections.abc import Collection

from aiohttp import web
from aiohttp.hdrs import METH_OPTIONS

METHODS = "GET, HEAD, POST, DELETE"
SENT = "Authorization, Content-Type, Accept, Last-Event-ID, X-Correlation-Id"
SHOWN = "Location, Retry-After, X-Backoff-Ms, X-Correlation-Id, X-Budget-Tokens-Remaining, X-Budget-Time-Remaining-Ms"
DAY_S = 86_400


class Cors:
    """The pages that may read answers."""

    def __init__(self, origins: Collection[str]) -> None:
        self.origins = frozenset(origins)

    def preflight(self, request: web.Request) -> web.Response | None:
        """The answer to a browser that asks what its page may send; None where that was not the question."""
        if not self.origins or request.method != METH_OPTIONS or "Access-Control-Request-Method" not in request.headers:
            return None
        response = web.Response(status=204)
        if request.headers.get("Origin") in self.origins:
            response.headers["Access-Control-Allow-Methods"] = METHODS
            response.headers["Access-Control-Allow-Headers"] = SENT
            response.headers["Access-Control-Max-Age"] = str(DAY_S)
        return response

    async def stamp(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Say on an answer, streams included, which page may read it."""
        response.headers["Vary"] = "Origin"
        origin = request.headers.get("Origin")
        if origin in self.origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = SHOWN
