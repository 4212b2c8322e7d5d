"""The routes of sessions, and what every answer to a task says of its session.

Decides nothing.
"""

from __future__ import annotations

from aiohttp import web

from orchestratord.http.edge import json_response
from orchestratord.turns import Turns

SESSION = web.RequestKey("session", str)
"""Set by whoever has read which session a request is about."""


class SessionRoutes:
    """Handlers over the sessions of this daemon."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def table(self) -> list[web.RouteDef]:
        """Where each handler is found."""
        return [
            web.get("/v1/sessions/{session_id}", self.show),
            web.delete("/v1/sessions/{session_id}", self.delete),
        ]

    async def tell_budgets(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Put what is left on every answer about a session: a 202, a stream, a forecast and a refusal alike."""
        session_id = request.get(SESSION)
        if session_id is not None:
            response.headers.update(self._turns.headers(session_id))

    async def show(self, request: web.Request) -> web.Response:
        """``GET /v1/sessions/{id}``."""
        return json_response(self._turns.info(request.match_info["session_id"]))

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /v1/sessions/{id}``: 204 once its slot is free, or at once while a turn of it is not over."""
        await self._turns.delete(request.match_info["session_id"])
        return web.Response(status=204)
