"""Engines and models as the provisioners hand them on and as the catalogs keep them.

Decides the fields of plans, prepared engines, resolved models and catalog entries. Never prepares anything.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import field

from contracts.base import Message
from contracts.config import Engine, Mode


class PlanStep(Message, frozen=True, kw_only=True):
    """One step of a plan: what kind of work, on what, in words an operator can act on."""

    kind: str
    detail: str


class Plan(Message, frozen=True, kw_only=True):
    """What ``ensure`` would do for a pool, in order; printing it has no side effect."""

    pool_id: str
    steps: tuple[PlanStep, ...]


class Finding(Message, frozen=True, kw_only=True):
    """One problem that a preflight found: what is wrong, why it matters and the command that mends it."""

    check: str
    message: str
    why: str
    hint: str


class HttpProbe(Message, frozen=True, kw_only=True):
    """A request that proves something about an engine: 200 means yes. ``body`` is JSON text for a POST."""

    path: str
    body: str | None = None
    instead: HttpProbe | None = None
    """Sent where the engine does not serve this route (404, 405 or 501): one that embeds completes nothing."""


class BindMount(Message, frozen=True, kw_only=True):
    """A path of this machine inside a container, read-only unless it says otherwise."""

    source: str
    target: str
    writable: bool = False


class ContainerRun(Message, frozen=True, kw_only=True):
    """What an engine's container needs beside its arguments and its environment. Holds no secret.

    ``image``, ``tag`` and ``digest`` are the engine's identity; what runs is always ``image@digest``. The model is
    mounted read-only at ``model_target``, followed by the model's own file or directory name where it ends in ``/``.
    """

    runtime: str
    """``podman`` or ``docker``: the one that has the image."""
    runtime_reason: str
    """Why that one was chosen."""
    image: str
    digest: str
    port: int
    """On which the engine listens, inside."""
    tag: str | None = None
    model_target: str = "/models/"
    mounts: tuple[BindMount, ...] = ()
    tmpfs: tuple[str, ...] = ("/tmp",)  # noqa: S108 - a path inside the container
    shm_bytes: int | None = None
    memory_bytes: int | None = None
    pids: int | None = None
    entrypoint: str | None = None
    """In place of the image's own."""
    read_only_root: bool = True
    """Off only for an engine that is known to write beside its program."""


class PreparedEngine(Message, frozen=True, kw_only=True):
    """An engine that can be started, or an endpoint that somebody else runs. Holds no secret.

    ``bin_or_entry`` and ``args`` are the argument vector of a native engine; the strings ``{model}``, ``{host}`` and
    ``{port}`` in ``args`` are filled in at each start. ``key_env`` names the environment variable that carries the
    per-spawn API key. ``image_ref`` (``image@digest``) and ``container`` stand instead of ``bin_or_entry`` for a
    container, where ``{model}`` is the path inside it and ``{host}`` and ``{port}`` are the address inside it; ``url``
    stands for an external engine.
    """

    engine: Engine
    engine_version: str
    provisioning_mode: Mode
    build_ref: str | None = None
    engine_digest: str | None = None
    bin_or_entry: str | None = None
    image_ref: str | None = None
    container: ContainerRun | None = None
    url: str | None = None
    args: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    key_env: str | None = None
    ports: tuple[int, ...] = ()
    workdir: str | None = None
    engine_catalog_id: str | None = None
    health: HttpProbe = HttpProbe(path="/health")
    generation: HttpProbe | None = None
    """A one-token generation: what turns "it answers" into "it works"."""


class EngineEntry(Message, frozen=True, kw_only=True):
    """One engine in ``engines.json``: enough to say later what produced an answer."""

    id: str
    engine: Engine
    version: str
    build_ref: str | None = None
    digest: str | None = None
    build_flags: tuple[str, ...] = ()
    artifacts: tuple[str, ...] = ()
    created_ms: int = 0


class ModelFormat(StrEnum):
    """How a model lies on the disk."""

    GGUF = "gguf"
    """One file, which llama.cpp loads."""
    HF_DIRECTORY = "hf-directory"
    """A directory with config.json and safetensors, which vLLM, TGI and Triton load."""


class KvLayout(Message, frozen=True, kw_only=True):
    """What a token of context costs in the KV cache: numbers of elements, summed over the layers.

    Windowed layers remember the last ``window`` tokens only; the others remember all of the context.
    """

    key: int = 0
    value: int = 0
    windowed_key: int = 0
    windowed_value: int = 0
    window: int = 0
    """In tokens; 0 where no layer is windowed."""
    state: int = 0
    """Elements of recurrent state, of 4 bytes, that each sequence has however long it is."""


class WeightSizes(Message, frozen=True, kw_only=True):
    """How large the parts of a model are, in bytes, as far as it matters where an engine puts them."""

    layers: int
    """All repeating layers, their experts included."""
    experts: int = 0
    """The part of ``layers`` that is experts of a mixture."""
    output: int = 0
    """What turns the last layer into logits; a copy of the token embeddings where the two are one tensor."""
    input: int = 0
    """The token embeddings, which llama.cpp keeps in host memory."""


class ResolvedModel(Message, frozen=True, kw_only=True):
    """A model that is on this disk and can be loaded. ``digest`` is ``sha256:<hex>``.

    For a directory or a split model ``size_bytes`` is that of its weights, and the digest is that of the list of its
    files: one line ``<sha256 in hex>  <name>`` for each, in the order of the names.
    """

    id: str
    ref: str
    local_path: str
    size_bytes: int
    digest: str
    ctx_max: int | None = None
    arch: str | None = None
    quant: str | None = None
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    embedding: int | None = None
    format: ModelFormat = ModelFormat.GGUF
    key_length: int | None = None
    """Elements of a key, for each head."""
    value_length: int | None = None
    vocabulary: int | None = None
    experts: int | None = None
    """Of which each token uses a few; None where the model is dense."""
    dense_layers: int = 0
    """So many layers at the front have no experts."""
    kv: KvLayout | None = None
    """None where the model does not say enough."""
    weights: WeightSizes | None = None
    parts: tuple[str, ...] = ()
    """Of a model that was split: the paths of all files but ``local_path``, which an engine finds beside it."""
    tokenizer: str | None = None
    """The kind of tokenizer, in the model's own words."""
    chat_template_sha256: str | None = None
    """Bare hex, over the template's UTF-8; None where the model has no chat template."""


class ModelState(StrEnum):
    """The only two states of a catalogued model."""

    ACTIVE = "Active"
    RETIRED = "Retired"


class ModelEntry(Message, frozen=True, kw_only=True):
    """One model in ``models.json``."""

    id: str
    ref: str
    local_path: str
    size_bytes: int
    digest: str
    state: ModelState = ModelState.ACTIVE
    state_reason: str | None = None
    """Why it is Retired."""
    format: ModelFormat = ModelFormat.GGUF
    ctx_max: int | None = None
    arch: str | None = None
    quant: str | None = None
    layers: int | None = None
    heads: int | None = None
    tokenizer: str | None = None
    chat_template_sha256: str | None = None
    fetched: bool = False
    """It was downloaded into our cache, so it may be removed to make room; a user's own file never is."""
    source: str | None = None
    """What ``ref`` came to when it was fetched (a commit, a version, a digest), without secrets."""
    pinned: bool = False
    """Never removed to make room."""
    created_ms: int = 0
    verified_ms: int | None = None


class Handoff(Message, frozen=True, kw_only=True):
    """The run-time hand-off file of a pool: where its engine is. Never holds the key."""

    engine: Engine
    engine_version: str
    provisioning_mode: Mode
    url: str
    pool_id: str
    replica_id: str
    model: str
    flags: tuple[str, ...] = ()
