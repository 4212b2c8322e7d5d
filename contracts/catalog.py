"""The catalog of models as clients see it and as the daemons talk about it.

Decides the fields of requests, answers and jobs. What an entry is like on the disk is ``contracts.engines``'s.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from contracts.base import Message, Strict
from contracts.config import END
from contracts.engines import ModelFormat, ModelState

MODEL_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}" + END
ModelId = Annotated[str, Meta(pattern=MODEL_ID, description="letters, digits, '.', '-' and '_', at most 200")]
Ref = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"\S")]


class JobKind(StrEnum):
    """What can take a while."""

    PULL = "pull"
    """A model is fetched or, where it is here, read for the first time, and then catalogued."""
    VERIFY = "verify"


class JobState(StrEnum):
    """Where a job stands. The last three are its end."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELED = "canceled"


class VerifyResult(StrEnum):
    """What a verification came to."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class VerifyReason(StrEnum):
    """Why; a label of a metric, so the list is closed."""

    MATCHED = "matched"
    """What is on the disk has the digest of the catalog."""
    NO_DIGEST = "no_digest"
    """The catalog knew no digest to compare with: it has one now, which proves nothing about what is here."""
    DIGEST_MISMATCH = "digest_mismatch"
    SIZE_CHANGED = "size_changed"
    MISSING = "missing"
    UNREADABLE = "unreadable"
    """It cannot be read, or what it says of itself makes no sense."""
    CHANGED = "changed"
    """It was written to while it was read."""


class CatalogJob(Message, frozen=True, kw_only=True):
    """Work on one model that goes on in the background, or what became of it. Times are Unix milliseconds.

    ``message`` is the last line of its progress, or how it ended; ``hint`` the mend where it ended badly.
    """

    number: int
    """Counts up for as long as pool-managerd runs."""
    kind: JobKind
    model_id: str
    asked_id: str
    """The id before it was known what the model is called: that of another one may have to be told apart."""
    model_ref: str
    state: JobState
    started_ms: int
    ended_ms: int | None = None
    message: str = ""
    hint: str | None = None
    cause: str | None = None
    """Why it failed: a cause as in a pool's ``last_error``."""
    result: VerifyResult | None = None
    reason: VerifyReason | None = None
    engine: str = "none"
    """That of the pool which is configured with the model."""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state not in {JobState.WAITING, JobState.RUNNING}


class CatalogModel(Message, frozen=True, kw_only=True):
    """``GET /v1/catalog/models/{id}``: a catalogued model, or one that is being pulled.

    ``state`` is null until the model is here and catalogued: until then ``job`` says how far the pull is, or why it
    failed. What the model says of itself is null where it does not say it.
    """

    id: str
    ref: str
    """Without the query of an address, which may be a signature."""
    state: ModelState | None = None
    state_reason: str | None = None
    """Why it is Retired."""
    pools: tuple[str, ...] = ()
    """Those that serve it, prepare it or are configured with it."""
    job: CatalogJob | None = None
    local_path: str | None = None
    size_bytes: int | None = None
    digest: str | None = None
    """Null where nobody knows it yet: verifying the model reads it."""
    format: ModelFormat | None = None
    ctx_max: int | None = None
    arch: str | None = None
    quant: str | None = None
    layers: int | None = None
    heads: int | None = None
    tokenizer: str | None = None
    chat_template_sha256: str | None = None
    fetched: bool = False
    source: str | None = None
    pinned: bool = False
    created_ms: int | None = None
    verified_ms: int | None = None
    """When its content last had the digest that was expected; null if never."""


class CatalogModels(Message, frozen=True, kw_only=True):
    """``GET /v1/catalog/models``."""

    models: tuple[CatalogModel, ...]


class RegisterModel(Strict, frozen=True, kw_only=True):
    """``POST /v1/catalog/models``: have a model here, ready for a pool. Registering it again makes it Active again."""

    model_ref: Ref
    digest: Annotated[str, Meta(pattern=r"^(sha256:)?[0-9a-fA-F]{64}" + END)] | None = None
    """What the model must have; it is quarantined otherwise."""
    pinned: bool = False
    """Never remove it to make room."""
    id: ModelId | None = None
    """Left out, the name of its file."""


class StateRequest(Strict, frozen=True, kw_only=True):
    """``POST /v1/catalog/models/{id}/state``."""

    state: ModelState
    reason: Annotated[str, Meta(max_length=500)] | None = None
    """Why, for whoever finds it Retired."""


# --- between the daemons ----------------------------------------------------------------------------------------------


class PutParams(Message, frozen=True, kw_only=True):
    """``catalog.put``: begin a pull. The answer is its job."""

    model_ref: str
    digest: str | None = None
    pinned: bool = False
    id: str | None = None


class ModelRef(Message, frozen=True, kw_only=True):
    """``catalog.verify``: begin a verification. The answer is its job."""

    model_id: str


class SetStateParams(Message, frozen=True, kw_only=True):
    """``catalog.set_state``. The index is written when the answer comes."""

    model_id: str
    state: ModelState
    reason: str | None = None


class DeleteParams(Message, frozen=True, kw_only=True):
    """``catalog.delete``. ``files``: also what was fetched; a file of the user's own stays in any case."""

    model_id: str
    files: bool = False
