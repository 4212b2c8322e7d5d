"""Examples of receipts.

Decides which answers show what a receipt holds and how a chain is paged through.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw, convert, structs

from contracts.artifacts import Artifact, ArtifactKind, canonical
from contracts.config import Engine, Mode, Profile
from contracts.errors import ErrorCode
from contracts.examples.base import CORRELATION_ID, DIGEST, ENGINE_VERSION, TASK, Example, Given, refusal
from contracts.examples.poem import END, POEM, STARTED
from contracts.receipts import EngineIdentity, Link, Receipt, ReceiptPage, SlotUse
from contracts.sampler_profiles import V1
from contracts.tasks import Determinism, TaskRequest, TaskState

LIST: dict[str, Any] = {"method": "get", "path": "/v1/receipts"}

DRAWN = {
    "temperature": V1.temperature,
    "top_p": V1.top_p,
    "top_k": V1.top_k,
    "min_p": V1.min_p,
    "repeat_penalty": V1.repeat_penalty,
    **V1.further["llamacpp"],
}
"""What the sampler profile adds."""
RECEIPT = Receipt(
    number=1,
    previous=None,
    task_id=TASK,
    job_id=STARTED.job_id,
    correlation_id=CORRELATION_ID,
    identity="token:553d00",
    profile=Profile.TRIAL,
    state=TaskState.DONE,
    determinism=Determinism.BEST_EFFORT,
    request=Raw(canonical(convert(POEM, TaskRequest))),
    seed=7,
    sent={"cache_prompt": True, "id_slot": 0, "n_predict": 3, "seed": 7, "stream": True, **DRAWN},
    engine=EngineIdentity(
        engine=Engine.LLAMACPP,
        engine_version=ENGINE_VERSION,
        engine_digest="sha256:78dcbbfcc861ee3377554325dc12864829a76ec3de6f1882886d4a82a2def7f5",
        provisioning_mode=Mode.PACKAGE,
        pool_id="trial",
        replica_id="trial-0",
        devices=(),
        model_ref="/srv/models/haiku.gguf",
        model_id="haiku",
        model_digest=DIGEST,
        sampler_profile_version="v1",
        argv=(
            *("CUDA_VISIBLE_DEVICES=", "/usr/bin/python3", "-P", "/opt/llama-orch/engine_provisioner/wheel_server.py"),
            *("--model", "/srv/models/haiku.gguf", "--host", "127.0.0.1", "--port", "{port}", "--ctx-size", "512"),
        ),
        slots=1,
        ctx_max=512,
    ),
    slot=SlotUse(slot=0, cache_prompt=True, cached_tokens=1),
    attempts=1,
    queue_position=0,
    predicted_start_ms=0,
    created_ms=1_796_000_000_000,
    ended_ms=1_796_000_000_003,
    first_token_ms=3,
    queue_time_ms=0,
    end=structs.replace(END, artifact_id=UNSET),
    error=None,
    pieces=3,
    stream_sha256=END.stream_sha256,
    transcript="My mind is",
)
CONTENT = canonical(RECEIPT)

EXAMPLES = (
    Example(
        **LIST,
        name="one",
        summary="The first receipt that ever was",
        given=Given.TASK_ENDED,
        status=200,
        parameters={"after": "0", "limit": "1"},
        answer=ReceiptPage(
            receipts=(
                Artifact(
                    id=str(END.artifact_id),
                    kind=ArtifactKind.TRACE,
                    created_ms=RECEIPT.ended_ms,
                    size_bytes=len(CONTENT),
                    tags=("task",),
                    content=Raw(CONTENT),
                ),
            ),
            first=Link(number=1, previous=None),
            last=1,
        ),
    ),
    Example(
        **LIST,
        name="none",
        summary="Where no task has ended yet",
        status=200,
        answer=ReceiptPage(receipts=(), first=None, last=0),
    ),
    Example(
        **LIST,
        name="no-number",
        summary="A place that is none",
        status=400,
        parameters={"after": "last"},
        answer=refusal(
            ErrorCode.INVALID_PARAMS, "after 'last' is no number from 0 to 9223372036854775807", field="after"
        ),
    ),
    Example(
        **LIST,
        name="too-many",
        summary="A page that is too long",
        status=400,
        parameters={"limit": "5000"},
        answer=refusal(ErrorCode.INVALID_PARAMS, "limit '5000' is no number from 1 to 1000", field="limit"),
    ),
)
