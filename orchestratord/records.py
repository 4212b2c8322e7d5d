"""What a task leaves behind: its record, as an artifact.

Decides what stands in it, and that no secret does: one that a client wrote into its prompt is taken out of the request
and of the transcript. Texts that are too long are left out, and the record says so. Values in, values out: it is made
before the terminal event, whose ``artifact_id`` names it, and written after it by the ``archive``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from contracts.artifacts import ArtifactKind, canonical
from contracts.config import Profile
from contracts.events import End, StreamError
from contracts.receipts import EngineIdentity, Link, Receipt, SlotUse
from contracts.tasks import TaskRequest
from daemon_core.redaction import Redactor
from orchestratord.shelf import Head, Sealed, sealed
from orchestratord.stream_log import text_of
from orchestratord.task import Run, Task

MAX_TEXT_BYTES = 256 * 1024
"""Of a request, and of an answer: the results of embeddings come as text too. What is longer is left out."""
TAGS = ("task",)
_encode = msgspec.json.Encoder().encode


class _Sealing(Receipt, frozen=True, kw_only=True):
    """A receipt of which a part is encoded already."""

    sent: Any


def record_of(
    task: Task, event: End | StreamError, *, link: Link, profile: Profile, redactor: Redactor, ended_ms: int
) -> Sealed:
    """The receipt of a task that ends with this event, at this place of the chain."""
    entered, run = task.admission, task.run
    request, cut = _bounded(entered.request)
    schema = request.sampling.json_schema
    transcript = text_of(task.log.read(0)) if len(task.log) <= MAX_TEXT_BYTES else None
    ended = event if isinstance(event, End) else None
    record = _Sealing(
        number=link.number,
        previous=link.previous,
        task_id=entered.task_id,
        job_id=entered.job_id,
        correlation_id=entered.caller.correlation_id,
        identity=entered.caller.identity,
        profile=profile,
        state=task.state,
        determinism=request.determinism,
        request=msgspec.Raw(canonical(request)),
        seed=entered.seed,
        sent=None if task.sent is None else msgspec.Raw(task.sent if schema is None else _canonical_again(task.sent)),
        engine=None if run is None else identity_of(run),
        slot=None if run is None else _use(run, task.cached_tokens),
        attempts=task.attempts,
        queue_position=entered.queue_position,
        predicted_start_ms=entered.predicted_start_ms,
        created_ms=entered.created_ms,
        ended_ms=ended_ms,
        first_token_ms=task.since_admission(task.first_text_ms),
        queue_time_ms=None if run is None else task.since_admission(run.at_ms),
        end=ended,
        error=None if isinstance(event, End) else event,
        pieces=task.log.tokens,
        stream_sha256=ended.stream_sha256 if ended else task.log.text_sha256,
        transcript=transcript,
        json_schema=None if schema is None else _encode(redactor.value(schema)).decode(),
        cut=cut or transcript is None,
        interrupted=task.interrupted,
    )
    content, redacted = _without_secrets(record, request, redactor)
    return sealed(content, Head(kind=ArtifactKind.TRACE, created_ms=ended_ms, tags=TAGS, redacted=redacted))


def identity_of(run: Run) -> EngineIdentity | None:
    """Who served, as it was when the task got its slot."""
    served = run.served
    if served is None:
        return None
    return EngineIdentity(
        engine=served.engine,
        engine_version=run.engine_version,
        engine_digest=served.engine_digest,
        provisioning_mode=served.provisioning_mode,
        pool_id=run.pool_id,
        replica_id=run.replica_id,
        devices=served.devices,
        model_ref=served.model_ref,
        model_id=served.model_id,
        model_digest=served.model_digest,
        sampler_profile_version=served.sampler_profile_version,
        driver_version=served.driver_version,
        argv=served.argv,
        slots=served.slots,
        ctx_max=served.ctx_max,
    )


def _use(run: Run, cached_tokens: int | None) -> SlotUse | None:
    if run.use is None or cached_tokens is None:
        return run.use
    return SlotUse(slot=run.use.slot, cache_prompt=run.use.cache_prompt, cached_tokens=cached_tokens)


def _canonical_again(settings: bytes) -> bytes:
    """What was sent, with the members of its schema in order, which were sent as the client had them."""
    return canonical(msgspec.json.decode(settings))


def _without_secrets(record: _Sealing, request: TaskRequest, redactor: Redactor) -> tuple[bytes, bool]:
    """The record's canonical bytes, and whether a secret was taken out.

    Nearly none has one, so one look at all its texts decides that first.
    """
    if request.sampling.json_schema is None:  # whose keys may make their values secrets
        texts, command = "\n".join(_texts(record, request)), () if record.engine is None else record.engine.argv
        if redactor.text(texts) == texts and redactor.usual("\n".join(command)):
            return canonical(record), False
    plain = msgspec.json.decode(canonical(record), type=dict[str, object])
    clean = {name: redactor.member(name, value) for name, value in plain.items()}
    return (canonical(plain), False) if clean == plain else (canonical(clean | {"redacted": True}), True)


def _texts(record: _Sealing, request: TaskRequest) -> list[str]:
    """Every text that somebody else has written."""
    served, error, placement = record.engine, record.error, request.placement
    return [
        record.task_id,
        record.correlation_id,
        record.transcript or "",
        request.model_ref,
        request.session_id or "",
        request.prompt or "",
        request.output_mode or "",
        request.sampler_profile_version or "",
        request.sampling.grammar or "",
        placement.pool_id or "",
        "" if served is None else served.model_ref,
        "" if error is None else f"{error.message}\n{error.hint}",
        "" if record.sent is None else bytes(record.sent).decode(),
        *(request.inputs or ()),
        *(message.content for message in request.messages or ()),
        *request.sampling.stop,
        *placement.prefer,
        *placement.avoid,
    ]


def _bounded(request: TaskRequest) -> tuple[TaskRequest, bool]:
    """The request, without its texts where they are too long, and whether they were."""
    if _length(request) <= MAX_TEXT_BYTES:
        return request, False
    return msgspec.structs.replace(request, prompt=None, inputs=None, messages=None), True


def _length(request: TaskRequest) -> int:
    contents = [message.content for message in request.messages or ()]
    return len(request.prompt or "") + sum(map(len, (*(request.inputs or ()), *contents)))
