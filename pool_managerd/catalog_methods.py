"""Answers the calls that change the catalog.

Decides what is refused: what means no model, what contradicts the catalog, and the end of a model that a pool needs.
What takes a while becomes a job of ``catalog_jobs``. Files are touched by ``model_provisioner``, never in the loop.

There is no call that lists models: orchestratord reads the index itself, by the read-only helpers of ``catalog_core``.
The index is replaced whole, so a reader needs no lock and nobody's help, and what is catalogued can be seen while this
daemon is down.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import TypeVar

from msgspec.structs import replace

from catalog_core.errors import CatalogError, EntryNotFoundError
from contracts.base import Message, nearest
from contracts.catalog import (
    CatalogJob,
    DeleteParams,
    JobKind,
    ModelRef,
    PutParams,
    SetStateParams,
    VerifyResult,
)
from contracts.engines import ModelEntry, ModelState
from contracts.pools import Cause
from contracts.rpc import Empty, Method, Request, RpcCode
from model_provisioner import events, holds, reference
from model_provisioner.errors import ModelError, ReferenceInvalidError
from pool_managerd.catalog_jobs import CatalogJobs, Done, Progress
from pool_managerd.errors import StepError
from pool_managerd.rpc_params import params_of
from pool_managerd.rpc_server import RpcError
from pool_managerd.stock import Stock

Result = TypeVar("Result")


class CatalogMethods:
    """The methods ``catalog.*``. ``changed`` is called when the index was changed here."""

    def __init__(self, stock: Stock, jobs: CatalogJobs, changed: Callable[[], None]) -> None:
        self._stock = stock
        self._jobs = jobs
        self._changed = changed
        self._wanted: dict[str, PutParams] = {}
        """What was asked for with each pull that is not over."""

    async def call(self, request: Request) -> Message:
        """The result of a call. Raises RpcError."""
        await self._do(self._mend)
        match request.method:
            case Method.CATALOG_PUT:
                return await self._put(params_of(request, PutParams))
            case Method.CATALOG_VERIFY:
                return await self._verify(params_of(request, ModelRef).model_id)
            case Method.CATALOG_SET_STATE:
                return await self._set_state(params_of(request, SetStateParams))
            case _:
                return await self._delete(params_of(request, DeleteParams))

    # --- the calls ----------------------------------------------------------------------------------------------------

    async def _put(self, wanted: PutParams) -> CatalogJob:
        try:
            place = reference.parse(wanted.model_ref, self._stock.base_dir)
        except ReferenceInvalidError as error:
            data = {"hint": error.hint, "field": "model_ref"}
            raise RpcError(RpcCode.INVALID_PARAMS, error.message, data) from error
        entries = {entry.id: entry for entry in await self._do(self._stock.catalog.list)}
        mine = [entry for entry in entries.values() if self._means(wanted.model_ref, entry)]
        identifier = wanted.id or (mine[0].id if mine else reference.name_of(place))
        taken = entries.get(identifier)
        if wanted.id is not None and taken is not None and not self._means(wanted.model_ref, taken):
            text = f"the id {identifier!r} belongs to the model {self._shown(taken)}"
            raise RpcError(RpcCode.CONFLICT, text, {"hint": "choose another id, or leave it out", "field": "id"})
        shown, engine = reference.shown(place), await self._engine(entries.get(identifier), wanted.model_ref)
        identifier = self._name_while_pulled(identifier, shown, wanted)
        self._wanted[identifier] = wanted
        return self._jobs.begin(
            JobKind.PULL, identifier, shown, engine, lambda progress: self._pulled(wanted, progress)
        )

    def _name_while_pulled(self, identifier: str, shown: str, wanted: PutParams) -> str:
        """What the model is called until it is here. Raises RpcError where another pull is in the way."""
        self._wanted = {each: put for each, put in self._wanted.items() if self._jobs.open_on(JobKind.PULL, each)}
        running = self._jobs.open_on(JobKind.PULL, identifier)
        if running is None:
            return identifier
        if running.model_ref == shown:
            asked = self._wanted[identifier]
            if (asked.digest, asked.pinned) == (wanted.digest, wanted.pinned):
                return identifier
            text = f"{identifier} is being pulled already, with another digest or another pin"
            raise RpcError(RpcCode.CONFLICT, text, {"hint": "ask again when it is here, or delete it to end that pull"})
        if wanted.id is not None:
            text = f"the id {identifier!r} is being given to the model {running.model_ref}"
            raise RpcError(RpcCode.CONFLICT, text, {"hint": "choose another id, or leave it out", "field": "id"})
        mark = hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return self._name_while_pulled(f"{identifier}-{mark}", shown, wanted)

    async def _pulled(self, wanted: PutParams, progress: Progress) -> Done:
        model = await self._stock.models.pull(wanted.model_ref, wanted.digest, progress)
        identifier = model.id

        def finish() -> str:
            catalog, final = self._stock.catalog, wanted.id or identifier
            if final != identifier:
                catalog.rename(identifier, final)
            if wanted.pinned:
                catalog.alter(final, lambda entry: replace(entry, pinned=True))
            self._stock.cache.used(final)
            return final

        try:
            final = await asyncio.to_thread(finish)
        except CatalogError as error:
            raise _step_error(error) from error
        await self._note(events.EventKind.ACTIVATED, final, "it was pulled")
        self._changed()
        return Done(model_id=final, message=f"{final} is here, with the digest {model.digest}")

    async def _verify(self, identifier: str) -> CatalogJob:
        entry = await self._entry(identifier)
        engine = await self._engine(entry, entry.ref)
        work = self._verified
        return self._jobs.begin(
            JobKind.VERIFY, entry.id, self._shown(entry), engine, lambda progress: work(entry.id, progress)
        )

    async def _verified(self, identifier: str, progress: Progress) -> Done:
        try:
            verdict = await self._stock.verifier.verify(identifier, progress)
        except ModelError as error:
            raise StepError(error.cause, error.message, error.hint) from error
        self._changed()
        message = verdict.message
        pools = await self._users(await self._entry(identifier)) if verdict.result is VerifyResult.FAILED else ()
        if verdict.retires and pools:
            message = f"{message}; {', '.join(pools)} needs it: an engine that has it loaded goes on with what it read"
        return Done(
            model_id=identifier, message=message, hint=verdict.hint, result=verdict.result, reason=verdict.reason
        )

    async def _set_state(self, wanted: SetStateParams) -> Empty:
        entry = await self._entry(wanted.model_id)
        await self._do(lambda: self._stock.catalog.set_state(entry.id, wanted.state, wanted.reason))
        if wanted.state is ModelState.RETIRED:
            await self._note(events.EventKind.RETIRED, entry.id, wanted.reason or "an operator asked for it")
        else:
            await self._note(events.EventKind.ACTIVATED, entry.id, "an operator asked for it")
        self._changed()
        return Empty()

    async def _delete(self, wanted: DeleteParams) -> Empty:
        if not await self._do(lambda: self._stock.catalog.exists(wanted.model_id)) and await self._jobs.cancel(
            wanted.model_id
        ):
            return Empty()  # there was nothing but a pull, which leaves what it has fetched for the next one
        entry = await self._entry(wanted.model_id)
        if users := await self._users(entry):
            text = f"the model {entry.id} is needed by {' and '.join(users)}"
            hint = "give each of them another model in the configuration, or reload it with one; or only retire it"
            raise RpcError(RpcCode.CONFLICT, text, {"hint": hint})
        await self._jobs.cancel(entry.id)
        await self._do(lambda: self._stock.catalog.delete(entry.id))
        await self._note(events.EventKind.DELETED, entry.id, f"forgotten: {entry.local_path}")
        self._changed()
        if wanted.files:
            await self._do(lambda: self._stock.cache.remove_files(entry))
        return Empty()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _entry(self, identifier: str) -> ModelEntry:
        """An entry. Raises RpcError, which names the nearest ids."""
        try:
            return await asyncio.to_thread(self._stock.catalog.get, identifier)
        except EntryNotFoundError as error:
            ids = [entry.id for entry in await self._do(self._stock.catalog.list)]
            raise RpcError(RpcCode.NOT_FOUND, error.message, {"hint": nearest(identifier, ids)}) from error
        except CatalogError as error:
            raise _rpc_error(error) from error

    async def _do(self, work: Callable[[], Result]) -> Result:
        """Something that blocks on files. Raises RpcError."""
        try:
            return await asyncio.to_thread(work)
        except (CatalogError, ModelError) as error:
            raise _rpc_error(error) from error

    def _mend(self) -> None:
        """A damaged index is put aside before a change. Blocks. Raises CatalogError."""
        if (recovery := self._stock.catalog.recover()) is not None:
            events.note_recovery(self._stock.journal, recovery, at_ms=self._stock.now_ms())

    async def _note(self, kind: events.EventKind, identifier: str, message: str) -> None:
        event = events.Event(at_ms=self._stock.now_ms(), kind=kind, id=identifier, message=message)
        await asyncio.to_thread(events.note, self._stock.journal, event)

    def _means(self, ref: str, entry: ModelEntry) -> bool:
        return bool(holds.holders(entry, (holds.Hold(by="this", ref=ref),), self._stock.base_dir))

    def _shown(self, entry: ModelEntry) -> str:
        """Its reference for people: the query of an address may be a signature."""
        return holds.normal(entry.ref, self._stock.base_dir)

    async def _users(self, entry: ModelEntry) -> tuple[str, ...]:
        held = await asyncio.to_thread(self._stock.cache.with_paths, self._stock.in_use.by_pools())
        return holds.holders(entry, held, self._stock.base_dir)

    async def _engine(self, entry: ModelEntry | None, ref: str) -> str:
        held = (
            await self._users(entry)
            if entry is not None
            else tuple(
                hold.by
                for hold in self._stock.in_use.by_pools()
                if hold.ref is not None and holds.same(hold.ref, ref, self._stock.base_dir)
            )
        )
        return self._stock.in_use.engine_of(held)


ANSWERED = frozenset({Method.CATALOG_PUT, Method.CATALOG_VERIFY, Method.CATALOG_SET_STATE, Method.CATALOG_DELETE})
"""The methods that are answered here."""


def _rpc_error(error: CatalogError | ModelError) -> RpcError:
    return RpcError(RpcCode.CONFLICT, error.message, {"hint": error.hint})


def _step_error(error: CatalogError) -> StepError:
    return StepError(Cause.INTERNAL, error.message, error.hint)
