"""What is asked when an answer is asked again, and where.

Decides how the recorded request is completed by what only the receipt has (the seed that was drawn, the order of a
schema's members), what is left out of it because it belongs to the first run alone (its id, its session, its deadline,
its placement), and which pool is insisted on. Values in, values out.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from contracts.base import Message
from contracts.pools import Capability
from contracts.receipts import Receipt
from contracts.tasks import OnDisconnect, Placement, PlacementMode, TaskRequest, Workload
from daemon_core.redaction import MASK

_OF_RESULTS = frozenset({Workload.EMBEDDING, Workload.RERANK})


class CannotAskError(Exception):
    """The request cannot be asked again. ``hint`` is the mend."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Place(Message, frozen=True, kw_only=True):
    """Where a request is asked again. ``pool_id`` None leaves it to the daemon."""

    pool_id: str | None
    model_ref: str
    note: str | None = None


def recorded_request(receipt: Receipt) -> TaskRequest:
    """The request of a receipt. Raises CannotAskError where it is not there as a whole."""
    try:
        request = msgspec.json.decode(receipt.request, type=TaskRequest)
    except msgspec.MsgspecError as error:
        text = f"the request of this receipt cannot be read: {error}"
        raise CannotAskError(text, "it comes from another version: ask again with that one") from error
    if request.prompt is None and request.messages is None and request.inputs is None:
        text = "the receipt does not have the texts of its request: they were too long to be kept"
        raise CannotAskError(text, "send the request itself again, and compare the stream_sha256 of the two")
    return request


def asked_again(request: TaskRequest, receipt: Receipt, place: Place, task_id: str) -> TaskRequest:
    """The request as it is sent now. Raises CannotAskError."""
    sampling = request.sampling
    if receipt.json_schema is not None:
        sampling = replace(sampling, json_schema=_schema(receipt.json_schema))
    pinned = Placement() if place.pool_id is None else Placement(mode=PlacementMode.PIN, pool_id=place.pool_id)
    return replace(
        request,
        task_id=task_id,
        model_ref=place.model_ref,
        seed=receipt.seed,
        session_id=None,
        deadline_ms=None,
        sampling=sampling,
        placement=pinned,
        on_disconnect=OnDisconnect.CANCEL,
    )


def place_of(receipt: Receipt, request: TaskRequest, pools: tuple[Capability, ...], wanted: str | None) -> Place:
    """Where it is asked: the pool that is wanted, else the recorded one, else one with the recorded model.

    Raises CannotAskError where the wanted pool is not there.
    """
    known = {pool.pool_id: pool for pool in pools}
    if wanted is not None:
        if wanted not in known:
            raise CannotAskError(f"there is no pool {wanted!r}", f"pools: {', '.join(known)}")
        return Place(pool_id=wanted, model_ref=_name_in(known[wanted], request.model_ref))
    served = receipt.engine
    if served is None:
        return Place(pool_id=None, model_ref=request.model_ref)
    there = known.get(served.pool_id)
    if there is not None and (_serves(there, request.model_ref) or _same_model(there, served.model_digest)):
        return Place(pool_id=there.pool_id, model_ref=_name_in(there, request.model_ref))
    gone = f"pool {served.pool_id} is not there any more" if there is None else f"pool {served.pool_id} serves another"
    alike = next((pool for pool in pools if _same_model(pool, served.model_digest)), None)
    if alike is not None:
        note = f"{gone}: asked of pool {alike.pool_id}, which has the same model"
        return Place(pool_id=alike.pool_id, model_ref=_name_in(alike, request.model_ref), note=note)
    return Place(pool_id=None, model_ref=request.model_ref, note=f"{gone}: asked of whichever pool serves the model")


def notes_of(receipt: Receipt, request: TaskRequest) -> list[str]:
    """What one should know of a request before relying on the comparison."""
    found = []
    if receipt.redacted and MASK in bytes(receipt.request).decode():
        found.append(f"a secret was taken out of the request: {MASK} was asked in its place")
    if request.session_id is not None:
        found.append(f"it was a turn of the session {request.session_id}: asked without what the session had cached")
    if receipt.attempts > 1:
        found.append(f"it was given to {receipt.attempts} replicas: compared with the last one")
    return found


def gives_results(request: TaskRequest) -> bool:
    """Whether its answer is one JSON object for each input."""
    return request.workload in _OF_RESULTS


def _serves(pool: Capability, model_ref: str) -> bool:
    return model_ref in {pool.model_ref, pool.model_id, pool.model_digest}


def _same_model(pool: Capability, digest: str | None) -> bool:
    return digest is not None and pool.model_digest == digest


def _name_in(pool: Capability, model_ref: str) -> str:
    """What the pool calls its model, where it knows it by another name."""
    return model_ref if _serves(pool, model_ref) else pool.model_ref


def _schema(text: str) -> dict[str, object]:
    """A schema with its members in the order in which the client had them. Raises CannotAskError."""
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise CannotAskError(f"the schema of this receipt cannot be read: {error}", "it was changed") from error
