"""Examples of the catalog.

Decides which requests and answers show what an operator of models meets.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from contracts.catalog import CatalogJob, CatalogModel, CatalogModels, JobKind, JobState
from contracts.engines import ModelFormat, ModelState
from contracts.errors import ErrorCode
from contracts.examples.base import DIGEST, Example, Given, refusal
from contracts.examples.pools import AWAY, MISTAKE, MODEL

MODELS: dict[str, Any] = {"path": "/v1/catalog/models"}
REGISTER = MODELS | {"method": "post"}
ONE: dict[str, Any] = {"path": "/v1/catalog/models/{model_id}", "parameters": {"model_id": "epic"}}
SHOW, DELETE = ONE | {"method": "get"}, ONE | {"method": "delete"}
VERIFY = ONE | {"method": "post", "path": "/v1/catalog/models/{model_id}/verify"}
STATE = ONE | {"method": "post", "path": "/v1/catalog/models/{model_id}/state"}
SERVED = {"parameters": {"model_id": "haiku"}}
UNKNOWN = {"parameters": {"model_id": "haikku"}}

EPIC = "/srv/models/epic.gguf"
HUB_REF = "hf:org/repo/epic.gguf"
JOB = CatalogJob(
    number=1,
    kind=JobKind.PULL,
    model_id="epic",
    asked_id="epic",
    model_ref=EPIC,
    state=JobState.DONE,
    started_ms=1_796_000_000_000,
    ended_ms=1_796_000_000_010,
    message=f"epic is here, with the digest {DIGEST}",
)
HERE = CatalogModel(
    id="epic",
    ref=EPIC,
    state=ModelState.ACTIVE,
    job=JOB,
    local_path=EPIC,
    size_bytes=1_864_544,
    digest=DIGEST,
    format=ModelFormat.GGUF,
    ctx_max=512,
    arch="llama",
    quant="Q8_0",
    layers=4,
    heads=4,
    tokenizer="llama",
    chat_template_sha256="65eb492c1dfa7cfa01c1d265b72b0fa0201835f4f8c6396d8b87c8b2a1ed72d3",
    created_ms=1_796_000_000_005,
)
HAIKU = replace(HERE, id="haiku", ref=MODEL, local_path=MODEL, pools=("trial",), job=None)
COMING = CatalogModel(
    id="epic",
    ref=HUB_REF,
    job=replace(JOB, model_ref=HUB_REF, state=JobState.RUNNING, ended_ms=None, message="5.0 of 10.0 MiB"),
)
VERIFYING = replace(JOB, number=2, kind=JobKind.VERIFY, state=JobState.RUNNING, ended_ms=None, message="")
NO_MODEL = refusal(ErrorCode.NOT_FOUND, "there is no model 'haikku' in the catalog", "did you mean 'haiku'?")
NO_STATE = refusal(ErrorCode.INVALID_PARAMS, "state: 'Gone' is not one of: Active, Retired", field="state")
LOCKED = refusal(
    ErrorCode.CONFLICT,
    "/srv/catalog/models.lock has been locked by pid 4711 for more than 10 s",
    "wait for it, or end it if it hangs",
)
DAMAGED = refusal(
    ErrorCode.INTERNAL,
    "/srv/catalog/models.json cannot be read as an index: Input data was truncated",
    "the next change moves it aside and rebuilds it; so does a restart of pool-managerd",
)

EXAMPLES = (
    Example(
        **REGISTER,
        name="file",
        summary="A file of one's own: complete at once, and never moved",
        given=Given.FILE,
        status=201,
        body={"model_ref": EPIC},
        answer=HERE,
        headers={"Location": "/v1/catalog/models/epic"},
    ),
    Example(
        **REGISTER,
        name="pull",
        summary="One that has to be fetched: its job says how far it is",
        given=Given.PULLED,
        status=201,
        body={"model_ref": HUB_REF, "pinned": True},
        answer=COMING,
        headers={"Location": "/v1/catalog/models/epic"},
    ),
    Example(
        **REGISTER,
        name="no-file",
        summary="A file that is not there",
        given=Given.FILE,
        status=400,
        body={"model_ref": "/srv/models/epos.gguf"},
        answer=refusal(
            ErrorCode.INVALID_PARAMS,
            "there is no model file /srv/models/epos.gguf",
            "in /srv/models there is: epic.gguf, haiku.gguf",
            field="model_ref",
        ),
    ),
    Example(
        **REGISTER,
        name="denied",
        summary="Policy forbids to fetch it",
        given=Given.HUB_DENIED,
        status=403,
        body={"model_ref": HUB_REF},
        answer=refusal(
            ErrorCode.POLICY_DENIED,
            "huggingface.co may not be reached: policy.outbound.deny: hf:",
            "take 'hf:' out of policy.outbound.deny, or get it from somewhere that is allowed",
        ),
    ),
    Example(
        **REGISTER,
        name="id-taken",
        summary="An id that another model has",
        given=Given.FILE,
        status=409,
        body={"model_ref": EPIC, "id": "haiku"},
        answer=refusal(
            ErrorCode.CONFLICT,
            f"the id 'haiku' belongs to the model {MODEL}",
            "choose another id, or leave it out",
            field="id",
        ),
    ),
    Example(
        **REGISTER,
        name="mistake",
        summary="A mistake of pool-managerd's own",
        given=Given.MANAGER_FAILS,
        status=500,
        body={"model_ref": EPIC},
        answer=MISTAKE,
    ),
    Example(
        **REGISTER,
        name="no-manager",
        summary="Nobody there to do it",
        given=Given.NO_MANAGER,
        status=503,
        body={"model_ref": EPIC},
        answer=AWAY,
    ),
    Example(
        **MODELS,
        name="all",
        summary="Those in use",
        method="get",
        status=200,
        parameters={"state": "Active"},
        answer=CatalogModels(models=(HAIKU,)),
    ),
    Example(
        **MODELS,
        name="no-state",
        summary="A state that is none",
        method="get",
        status=400,
        parameters={"state": "Gone"},
        answer=NO_STATE,
    ),
    Example(
        **MODELS,
        name="damaged",
        summary="An index that cannot be read",
        given=Given.CATALOG_DAMAGED,
        method="get",
        status=500,
        answer=DAMAGED,
    ),
    Example(**SHOW | SERVED, name="served", summary="A model that a pool serves", status=200, answer=HAIKU),
    Example(**SHOW, name="pulled", summary="One that is being pulled", given=Given.PULLED, status=200, answer=COMING),
    Example(**SHOW | UNKNOWN, name="unknown", summary="A model that is none", status=404, answer=NO_MODEL),
    Example(
        **SHOW,
        name="damaged",
        summary="An index that cannot be read",
        given=Given.CATALOG_DAMAGED,
        status=500,
        answer=DAMAGED,
    ),
    Example(
        **DELETE | {"parameters": {"model_id": "epic", "files": "true"}},
        name="files-too",
        summary="Also what was fetched; a file of one's own stays",
        given=Given.CATALOGUED,
        status=204,
    ),
    Example(
        **DELETE | {"parameters": {"model_id": "epic", "files": "yes"}},
        name="neither",
        summary="Neither true nor false",
        given=Given.CATALOGUED,
        status=400,
        answer=refusal(ErrorCode.INVALID_PARAMS, "files: 'yes' is not one of: true, false", field="files"),
    ),
    Example(**DELETE | UNKNOWN, name="unknown", summary="A model that is none", status=404, answer=NO_MODEL),
    Example(
        **DELETE | SERVED,
        name="needed",
        summary="One that a pool needs",
        status=409,
        answer=refusal(
            ErrorCode.CONFLICT,
            "the model haiku is needed by pool trial",
            "give each of them another model in the configuration, or reload it with one; or only retire it",
        ),
    ),
    Example(
        **DELETE,
        name="mistake",
        summary="A mistake of pool-managerd's own",
        given=Given.MANAGER_FAILS,
        status=500,
        answer=MISTAKE,
    ),
    Example(
        **DELETE, name="no-manager", summary="Nobody there to do it", given=Given.NO_MANAGER, status=503, answer=AWAY
    ),
    Example(
        **VERIFY,
        name="begun",
        summary="Its job says what comes of it",
        given=Given.CATALOGUED,
        status=202,
        answer=replace(HERE, job=VERIFYING),
    ),
    Example(**VERIFY | UNKNOWN, name="unknown", summary="A model that is none", status=404, answer=NO_MODEL),
    Example(
        **VERIFY,
        name="locked",
        summary="The catalog is not free",
        given=Given.CATALOG_LOCKED,
        status=409,
        answer=LOCKED,
    ),
    Example(
        **VERIFY,
        name="mistake",
        summary="A mistake of pool-managerd's own",
        given=Given.MANAGER_FAILS,
        status=500,
        answer=MISTAKE,
    ),
    Example(
        **VERIFY, name="no-manager", summary="Nobody there to do it", given=Given.NO_MANAGER, status=503, answer=AWAY
    ),
    Example(
        **STATE,
        name="retired",
        summary="Out of use",
        given=Given.CATALOGUED,
        status=202,
        body={"state": "Retired", "reason": "too slow"},
        answer=replace(HERE, state=ModelState.RETIRED, state_reason="too slow"),
    ),
    Example(
        **STATE,
        name="no-state",
        summary="A state that is none",
        given=Given.CATALOGUED,
        status=400,
        body={"state": "Gone"},
        answer=NO_STATE,
    ),
    Example(
        **STATE | UNKNOWN,
        name="unknown",
        summary="A model that is none",
        status=404,
        body={"state": "Retired"},
        answer=NO_MODEL,
    ),
    Example(
        **STATE,
        name="locked",
        summary="The catalog is not free",
        given=Given.CATALOG_LOCKED,
        status=409,
        body={"state": "Retired"},
        answer=LOCKED,
    ),
    Example(
        **STATE,
        name="mistake",
        summary="A mistake of pool-managerd's own",
        given=Given.MANAGER_FAILS,
        status=500,
        body={"state": "Retired"},
        answer=MISTAKE,
    ),
    Example(
        **STATE,
        name="no-manager",
        summary="Nobody there to do it",
        given=Given.NO_MANAGER,
        status=503,
        body={"state": "Retired"},
        answer=AWAY,
    ),
)
