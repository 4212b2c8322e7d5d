"""The section of one pool: its engine, its model, its devices, and where the engine comes from.

Decides its shape and its defaults.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from contracts.base import Strict
from contracts.config.values import END, MODES, SHA256, Engine, FullPolicy, Id, Millis, Mode


class SourceBuild(Strict, frozen=True, kw_only=True):
    """Build from a git repository."""

    repo: str = "https://github.com/ggml-org/llama.cpp"
    """The repository: ``https:``, ``ssh:``, ``git:`` or ``file:``."""
    ref: str = "master"
    """A branch, a tag or a commit; a commit pins it."""
    cmake_flags: tuple[str, ...] = ()
    """More arguments of the configure step, such as ``-DGGML_CUDA_F16=ON``."""


class ContainerImage(Strict, frozen=True, kw_only=True):
    """Run from an image; a digest pins it."""

    image: str
    """The name with its registry, without tag and digest."""
    tag: str | None = None
    """Which of the images; it can mean another one tomorrow."""
    digest: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}" + END)] | None = None
    """Exactly this image, and no other."""


class Package(Strict, frozen=True, kw_only=True):
    """Use what a package manager installed: a system package's ``llama-server``, or the wheel ``xllamacpp`` (trial)."""

    name: str
    """The package."""
    version: str | None = None
    """The release or build that it must be. Left out: whichever is installed."""


class Binary(Strict, frozen=True, kw_only=True):
    """Use one executable: a local ``path`` (default: ``llama-server`` on PATH), or fetch ``url`` by ``sha256``."""

    path: str | None = None
    """A program of this machine. Left out: ``llama-server`` on PATH."""
    url: str | None = None
    """Fetch it from here; needs ``sha256`` and ``policy.allow_binary_downloads``."""
    sha256: Annotated[str, Meta(pattern=SHA256)] | None = None
    """What the download must be."""


class External(Strict, frozen=True, kw_only=True):
    """Use an endpoint that somebody else runs; its key is read from the named environment variable."""

    url: str
    """Where the endpoint answers, without ``/v1``."""
    api_key_env: str | None = None
    """The variable in pool-managerd's environment that holds the endpoint's key."""


class Provisioning(Strict, frozen=True, kw_only=True):
    """Where a pool's engine comes from; ``mode`` defaults to the engine's home-profile default."""

    mode: Mode | None = None
    """Where the engine comes from. Left out: the first of its engine's modes."""
    source: SourceBuild | None = None
    """For mode ``source``."""
    container: ContainerImage | None = None
    """For mode ``container``."""
    package: Package | None = None
    """For mode ``package``."""
    binary: Binary | None = None
    """For mode ``binary``."""
    external: External | None = None
    """For mode ``external``."""


class Queue(Strict, frozen=True, kw_only=True):
    """The bound of a pool's queue and what happens at it."""

    capacity: Annotated[int, Meta(ge=1, le=1_000_000)] = 64
    """Tasks that may wait."""
    full_policy: FullPolicy = FullPolicy.REJECT
    """What happens to one more."""
    batch_share: Annotated[float, Meta(ge=0, le=0.9)] = 0.0
    """While both priorities wait, at least this share of the starts goes to batch; 0: interactive always goes first."""


class Timeouts(Strict, frozen=True, kw_only=True):
    """``wall_ms`` bounds a whole generation, ``idle_ms`` the gap between two tokens, ``start_ms`` an engine's start.

    The wait for the first token, while the prompt is processed, is bounded by ``wall_ms`` alone.
    """

    wall_ms: Millis = 600_000
    """A whole generation, from its start to its last token."""
    idle_ms: Millis = 30_000
    """The gap between two tokens."""
    start_ms: Millis = 600_000
    """An engine's start, from its process to its first health; also the longest that a task waits for pools that do not
    come."""
    stop_ms: Millis = 5_000
    """From TERM to KILL of an engine."""


class Restart(Strict, frozen=True, kw_only=True):
    """How a crashed engine comes back: exponential backoff with jitter, and a breaker against restart storms."""

    initial_ms: Millis = 500
    """The wait after the first failure; it doubles with each further one."""
    max_ms: Millis = 60_000
    """The longest wait."""
    healthy_ms: Millis = 60_000
    """After this long in ready the count of failures starts anew."""
    max_failures: Annotated[int, Meta(ge=1)] = 8
    """This many failures in a row open the breaker; ``llama-orch reload`` or a restart of the pool closes it."""


class Pool(Strict, frozen=True, kw_only=True):
    """One engine on one set of GPUs, serving one model."""

    id: Id
    """How it is named everywhere: in answers, metrics, logs and file names."""
    engine: Engine
    """Which engine serves it."""
    model: Annotated[str, Meta(min_length=1)]
    """Which model it serves: a path, ``hf:``, ``https:``, ``s3:`` or ``oci:``; for an external endpoint the name that
    this one knows."""
    model_sha256: Annotated[str, Meta(pattern=SHA256)] | None = None
    """What the model's file must be; anything else is set aside."""
    devices: tuple[int | str, ...] = ()
    """Its GPUs, by index or UUID as ``nvidia-smi -L`` prints them. Left out: all, where it is the only pool."""
    share: bool = False
    """This pool may share its devices with another pool that says so too."""
    tensor_split: tuple[float, ...] | None = None
    """How the model is divided among the devices: a share for each. Left out: by their free memory."""
    ctx: Annotated[int, Meta(ge=16, le=1 << 27)] = 8192
    """Tokens of context for each slot."""
    slots: Annotated[int, Meta(ge=1, le=1024)] = 1
    """Generations at a time."""
    provisioning: Provisioning = Provisioning()
    """Where the engine comes from."""
    flags: tuple[str, ...] = ()
    """More arguments of the engine. Model, host, port, key and devices are llama-orch's own."""
    env: dict[str, str] = field(default_factory=dict)
    """More variables of the engine's environment."""
    queue: Queue = Queue()
    """The bound of its queue."""
    timeouts: Timeouts = Timeouts()
    """When a generation, a start or a stop has taken too long."""
    restart: Restart = Restart()
    """How a crashed engine comes back."""
    sampler_profile_version: str = "v1"
    """The defaults of sampling: ``v1`` or ``greedy``."""

    @property
    def mode(self) -> Mode:
        """The provisioning mode that holds for this pool: the one asked for, else its engine's default."""
        return self.provisioning.mode or MODES[self.engine][0]
