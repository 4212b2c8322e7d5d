"""The routes of the catalog: which models there are, and what an operator can do about them.

Decides how the answers read. What changes the catalog is pool-managerd's: it is asked over the socket. What there is to
see is read from the index itself, so it can be seen while pool-managerd is down.
"""

from __future__ import annotations

from aiohttp import web

from catalog_core.errors import CatalogError
from contracts import rpc
from contracts.base import nearest
from contracts.catalog import (
    CatalogJob,
    CatalogModel,
    CatalogModels,
    DeleteParams,
    JobState,
    ModelRef,
    PutParams,
    RegisterModel,
    SetStateParams,
    StateRequest,
)
from contracts.engines import ModelState
from contracts.errors import ErrorCode
from contracts.pools import Cause
from orchestratord.catalog import CatalogView
from orchestratord.errors import ApiError, api_error
from orchestratord.http.edge import json_response
from orchestratord.http.errors import decode
from orchestratord.http.manager import ask
from orchestratord.pool_link import PoolLink

PATIENCE_S = 2.0
"""How long a registration waits for its model: one that is here is read by then, and the answer is complete."""

_CODES = {
    Cause.MODEL_MISSING: ErrorCode.INVALID_PARAMS,
    Cause.MODEL_INVALID: ErrorCode.INVALID_PARAMS,
    Cause.MODEL_DIGEST: ErrorCode.CONFLICT,
    Cause.MODEL_FETCH: ErrorCode.MODEL_UNAVAILABLE,
    Cause.POLICY_DENIED: ErrorCode.POLICY_DENIED,
}


class CatalogRoutes:
    """Handlers over the catalog."""

    def __init__(self, catalog: CatalogView, link: PoolLink, *, patience_s: float = PATIENCE_S) -> None:
        self._catalog = catalog
        self._link = link
        self._patience_s = patience_s

    def table(self) -> list[web.RouteDef]:
        """Where each handler is found."""
        one = "/v1/catalog/models/{model_id}"
        return [
            web.get("/v1/catalog/models", self.list),
            web.post("/v1/catalog/models", self.register),
            web.get(one, self.show),
            web.delete(one, self.delete),
            web.post(f"{one}/verify", self.verify),
            web.post(f"{one}/state", self.state),
        ]

    async def list(self, request: web.Request) -> web.Response:
        """``GET /v1/catalog/models``."""
        wanted = request.query.get("state")
        if wanted is not None and wanted not in set(ModelState):
            text = f"state: {wanted!r} is not one of: {', '.join(ModelState)}"
            raise api_error(ErrorCode.INVALID_PARAMS, text, field="state")
        await self._refresh()
        models = self._catalog.models(None if wanted is None else ModelState(wanted))
        return json_response(CatalogModels(models=tuple(models)))

    async def show(self, request: web.Request) -> web.Response:
        """``GET /v1/catalog/models/{id}``."""
        return json_response(await self._model(request.match_info["model_id"]))

    async def register(self, request: web.Request) -> web.Response:
        """``POST /v1/catalog/models``: 201 at once; a model that has to be fetched comes later, as its job says."""
        body = decode(await request.read(), RegisterModel)
        params = PutParams(model_ref=body.model_ref, digest=body.digest, pinned=body.pinned, id=body.id)
        job = await ask(self._link, rpc.Method.CATALOG_PUT, params, CatalogJob, cause=request)
        job = await self._catalog.ended(job, self._patience_s)
        if job.state is JobState.FAILED:
            raise _failure(job)
        await self._refresh()
        model = self._catalog.get(job.model_id) or CatalogModel(id=job.asked_id, ref=job.model_ref, job=job)
        return json_response(model, 201, {"Location": f"/v1/catalog/models/{model.id}"})

    async def verify(self, request: web.Request) -> web.Response:
        """``POST /v1/catalog/models/{id}/verify``: 202, and the model's job says what came of it."""
        identifier = request.match_info["model_id"]
        job = await ask(self._link, rpc.Method.CATALOG_VERIFY, ModelRef(model_id=identifier), CatalogJob, cause=request)
        self._catalog.take(job)
        return json_response(await self._model(identifier), 202)

    async def state(self, request: web.Request) -> web.Response:
        """``POST /v1/catalog/models/{id}/state``."""
        identifier = request.match_info["model_id"]
        body = decode(await request.read(), StateRequest)
        params = SetStateParams(model_id=identifier, state=body.state, reason=body.reason)
        await ask(self._link, rpc.Method.CATALOG_SET_STATE, params, rpc.Empty, cause=request)
        return json_response(await self._model(identifier), 202)

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /v1/catalog/models/{id}``, with ``?files=true`` also what was fetched."""
        files = request.query.get("files", "false")
        if files not in {"true", "false"}:
            text = f"files: {files!r} is not one of: true, false"
            raise api_error(ErrorCode.INVALID_PARAMS, text, field="files")
        params = DeleteParams(model_id=request.match_info["model_id"], files=files == "true")
        await ask(self._link, rpc.Method.CATALOG_DELETE, params, rpc.Empty, cause=request)
        return web.Response(status=204)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _model(self, identifier: str) -> CatalogModel:
        await self._refresh()
        found = self._catalog.get(identifier)
        if found is None:
            hint = nearest(identifier, self._catalog.ids)
            raise api_error(ErrorCode.NOT_FOUND, f"there is no model {identifier!r} in the catalog", hint)
        return found

    async def _refresh(self) -> None:
        try:
            await self._catalog.refresh()
        except CatalogError as error:
            raise api_error(ErrorCode.INTERNAL, error.message, error.hint) from error


def _failure(job: CatalogJob) -> ApiError:
    """A registration that failed while its client waited."""
    code = _CODES.get(Cause(job.cause), ErrorCode.INTERNAL) if job.cause in set(Cause) else ErrorCode.INTERNAL
    field = "model_ref" if code is ErrorCode.INVALID_PARAMS else None
    return api_error(code, job.message, job.hint, field=field)
