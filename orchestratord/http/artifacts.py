"""The routes of artifacts: keep one, read one.

Decides how what cannot be kept is refused.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from contracts.artifacts import ArtifactRequest
from contracts.errors import ErrorCode
from orchestratord.archive import Archive
from orchestratord.artifacts import ArtifactError
from orchestratord.errors import api_error
from orchestratord.http.edge import json_response
from orchestratord.http.errors import decode
from orchestratord.ledger import Ledger
from orchestratord.shelf import artifact_of


class ArtifactRoutes:
    """Handlers over what clients keep, and the receipts of tasks."""

    def __init__(self, archive: Archive, ledger: Ledger) -> None:
        self._archive = archive
        self._ledger = ledger

    def table(self) -> list[web.RouteDef]:
        """Where each handler is found."""
        return [
            web.post("/v1/artifacts", self.put),
            web.get("/v1/artifacts/{artifact_id}", self.get),
        ]

    async def put(self, request: web.Request) -> web.Response:
        """``POST /v1/artifacts``: 201, also where the same content is here already: then with its first word."""
        given = decode(await request.read(), ArtifactRequest)
        try:
            info = await self._archive.put(given)
        except ArtifactError as error:
            raise api_error(ErrorCode.INTERNAL, error.message, error.hint) from error
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            text = "content: it is nested too deeply, or holds a number that cannot be kept"
            raise api_error(ErrorCode.INVALID_PARAMS, text, field="content") from error
        if info is None:
            hint = "artifacts.max_bytes of the configuration sets the bound"
            raise api_error(ErrorCode.PAYLOAD_TOO_LARGE, "it is more than all artifacts together may take", hint)
        return json_response(info, 201, {"Location": f"/v1/artifacts/{info.id}"})

    async def get(self, request: web.Request) -> web.Response:
        """``GET /v1/artifacts/{id}``."""
        artifact_id = request.match_info["artifact_id"]
        receipt = self._ledger.get(artifact_id)
        if receipt is not None:
            await self._ledger.settled()
            return json_response(artifact_of(receipt))
        try:
            found = await self._archive.get(artifact_id)
        except ArtifactError as error:
            raise api_error(ErrorCode.INTERNAL, error.message, error.hint) from error
        if found is None:
            hint = "artifacts.max_age_ms and store.max_age_ms say how long they are kept; newer ones may need the room"
            raise api_error(ErrorCode.NOT_FOUND, f"there is no artifact {artifact_id[:80]!r}", hint)
        return json_response(found)
