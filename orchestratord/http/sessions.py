"""The routes of sessions.

Decides nothing.
"""

from __future__ import annotations

from aiohttp import web

from orchestratord.http.edge import json_response
from orchestratord.turns import Turns


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

    async def show(self, request: web.Request) -> web.Response:
        """``GET /v1/sessions/{id}``."""
        return json_response(self._turns.info(request.match_info["session_id"]))

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /v1/sessions/{id}``: 204 once its slot is free, or at once while a turn of it is not over."""
        await self._turns.delete(request.match_info["session_id"])
        return web.Response(status=204)
