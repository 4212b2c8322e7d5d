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
    ref: str = "master"
    cmake_flags: tuple[str, ...] = ()


class ContainerImage(Strict, frozen=True, kw_only=True):
    """Run from an image; a digest pins it."""

    image: str
    tag: str | None = None
    digest: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}" + END)] | None = None


class Package(Strict, frozen=True, kw_only=True):
    """Use what a package manager installed: a system package's ``llama-server``, or the wheel ``xllamacpp`` (trial)."""

    name: str
    version: str | None = None


class Binary(Strict, frozen=True, kw_only=True):
    """Use one executable: a local ``path`` (default: ``llama-server`` on PATH), or fetch ``url`` by ``sha256``."""

    path: str | None = None
    url: str | None = None
    sha256: Annotated[str, Meta(pattern=SHA256)] | None = None


class External(Strict, frozen=True, kw_only=True):
    """Use an endpoint that somebody else runs; its key is read from the named environment variable."""

    url: str
    api_key_env: str | None = None


class Provisioning(Strict, frozen=True, kw_only=True):
    """Where a pool's engine comes from; ``mode`` defaults to the engine's home-profile default."""

    mode: Mode | None = None
    source: SourceBuild | None = None
    container: ContainerImage | None = None
    package: Package | None = None
    binary: Binary | None = None
    external: External | None = None


class Queue(Strict, frozen=True, kw_only=True):
    """The bound of a pool's queue and what happens at it."""

    capacity: Annotated[int, Meta(ge=1, le=1_000_000)] = 64
    full_policy: FullPolicy = FullPolicy.REJECT
    batch_share: Annotated[float, Meta(ge=0, le=0.9)] = 0.0
    """While both priorities wait, at least this share of the starts goes to batch; 0: interactive always goes first."""


class Timeouts(Strict, frozen=True, kw_only=True):
    """``wall_ms`` bounds a whole generation, ``idle_ms`` the gap between two tokens, ``start_ms`` an engine's start.

    The wait for the first token, while the prompt is processed, is bounded by ``wall_ms`` alone.
    """

    wall_ms: Millis = 600_000
    idle_ms: Millis = 30_000
    start_ms: Millis = 600_000
    stop_ms: Millis = 5_000


class Restart(Strict, frozen=True, kw_only=True):
    """How a crashed engine comes back: exponential backoff with jitter, and a breaker against restart storms."""

    initial_ms: Millis = 500
    max_ms: Millis = 60_000
    healthy_ms: Millis = 60_000
    """After this long in ready the count of failures starts anew."""
    max_failures: Annotated[int, Meta(ge=1)] = 8
    """This many failures in a row open the breaker; ``llama-orch reload`` or a restart of the pool closes it."""


class Pool(Strict, frozen=True, kw_only=True):
    """One engine on one set of GPUs, serving one model."""

    id: Id
    engine: Engine
    model: Annotated[str, Meta(min_length=1)]
    model_sha256: Annotated[str, Meta(pattern=SHA256)] | None = None
    devices: tuple[int | str, ...] = ()
    """Left out: every GPU of the machine, where this is its only pool."""
    share: bool = False
    """This pool may share its devices with another pool that says so too."""
    tensor_split: tuple[float, ...] | None = None
    ctx: Annotated[int, Meta(ge=16, le=1 << 27)] = 8192
    slots: Annotated[int, Meta(ge=1, le=1024)] = 1
    provisioning: Provisioning = Provisioning()
    flags: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    queue: Queue = Queue()
    timeouts: Timeouts = Timeouts()
    restart: Restart = Restart()
    sampler_profile_version: str = "v1"

    @property
    def mode(self) -> Mode:
        """The provisioning mode that holds for this pool: the one asked for, else its engine's default."""
        return self.provisioning.mode or MODES[self.engine][0]
