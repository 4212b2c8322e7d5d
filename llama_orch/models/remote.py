"""The models of another machine, over its daemon's HTTP routes.

Decides nothing: the daemon there refuses what may not be, and knows who uses what. What takes a while there goes on
there; here it is only watched.
"""

from __future__ import annotations

import asyncio
from pathlib import PurePosixPath

from contracts.catalog import (
    CatalogJob,
    CatalogModel,
    JobKind,
    JobState,
    RegisterModel,
    StateRequest,
    VerifyResult,
)
from contracts.engines import ModelState
from contracts.errors import ErrorCode
from daemon_core.errors import EXIT_USAGE, StartupError
from llama_orch.client import ApiClient
from llama_orch.errors import ApiError
from llama_orch.models.usage import in_use
from llama_orch.models.values import Details, Known, Pulled, Removed, Stock, Verdict, Wish
from llama_orch.progress import Shown
from llama_orch.session import Session
from model_provisioner import holds

LOOK_S = 0.5
_ROOT = PurePosixPath("/")


class RemoteShelf:
    """See Shelf."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.place = session.url

    async def stock(self) -> Stock:
        """See Shelf."""
        async with self._session.client() as client:
            models = (await client.models()).models
        return Stock(models=tuple(Known(model=model) for model in models))

    async def details(self, name: str) -> Details:
        """See Shelf."""
        async with self._session.client() as client:
            return Details(known=Known(model=await _named(client, name)))

    async def pull(self, wish: Wish, shown: Shown) -> Pulled:
        """See Shelf."""
        if wish.refresh or wish.engine is not None:
            option = "--refresh" if wish.refresh else "--engine"
            raise StartupError(f"{option} is for this machine's own models", "say it on that machine", EXIT_USAGE)
        request = RegisterModel(model_ref=wish.ref, digest=wish.digest, pinned=wish.pinned)
        async with self._session.client() as client:
            model = await _watched(client, await client.register_model(request), JobKind.PULL, shown)
        if model.state is None:
            raise _failure(model)
        return Pulled(known=Known(model=model))

    async def verify(self, name: str, shown: Shown) -> Verdict:
        """See Shelf."""
        async with self._session.client() as client:
            asked = await client.verify_model((await _named(client, name)).id)
            model = await _watched(client, asked, JobKind.VERIFY, shown)
        job = model.job
        if job is None or job.kind is not JobKind.VERIFY or job.state is JobState.CANCELED:
            raise ApiError(ErrorCode.CONFLICT, f"the verification of {model.id} was canceled", hint="verify it again")
        result = job.result or VerifyResult.FAILED
        return Verdict(id=model.id, result=result, reason=job.reason, message=job.message, hint=job.hint)

    async def set_state(
        self, name: str, state: ModelState, reason: str | None = None, *, force: bool = False
    ) -> CatalogModel:
        """See Shelf."""
        async with self._session.client() as client:
            model = await _named(client, name)
            if state is ModelState.RETIRED and model.pools and not force:
                raise in_use(model.id, model.pools, "retired")
            return await client.set_model_state(model.id, StateRequest(state=state, reason=reason))

    async def remove(self, name: str, *, keep_files: bool) -> Removed:
        """See Shelf."""
        async with self._session.client() as client:
            model = await _named(client, name)
            await client.delete_model(model.id, files=not keep_files)
        stays = keep_files or not model.fetched
        own = not model.fetched and model.local_path is not None
        return Removed(id=model.id, path=model.local_path, freed_bytes=0 if stays else None, own=own)


async def _named(client: ApiClient, name: str) -> CatalogModel:
    """A model by its id, else by its reference. Raises ApiError."""
    try:
        return await client.model(name)
    except ApiError as error:
        if error.code != ErrorCode.NOT_FOUND:
            raise
        for model in (await client.models()).models:
            if holds.same(model.ref, name, _ROOT) or name == model.local_path:
                return model
        raise


async def _watched(client: ApiClient, model: CatalogModel, kind: JobKind, shown: Shown) -> CatalogModel:
    """The model when the job on it has ended."""
    told = ""
    while (job := _job(model, kind)) is not None and not job.over:
        if job.message not in {told, ""}:
            told = job.message
            shown.say(f"{model.id}: {told}")
        await asyncio.sleep(LOOK_S)
        model = await client.model(model.id)
    return model


def _job(model: CatalogModel, kind: JobKind) -> CatalogJob | None:
    return model.job if model.job is not None and model.job.kind is kind else None


def _failure(model: CatalogModel) -> ApiError:
    """Why a model that was to be pulled is not there."""
    job = model.job
    if job is None or job.state is JobState.CANCELED:
        return ApiError(ErrorCode.CONFLICT, f"the pull of {model.id} was canceled", hint="pull it again")
    return ApiError((job.cause or ErrorCode.INTERNAL).upper(), job.message, hint=job.hint)
