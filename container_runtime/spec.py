"""What a container of an engine is: its image, devices, ports, mounts, limits and labels.

Decides which specifications are safe enough to run: ports on loopback only, models read-only, devices by CDI name, no
secret on a command line. Values that break a rule cannot be made (SpecError). Never runs anything.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from pathlib import PurePosixPath

import msgspec

from container_runtime.errors import SpecError

LABEL_POOL = "llama-orch.pool"
LABEL_REPLICA = "llama-orch.replica"
LABEL_ENGINE = "llama-orch.engine"
LABELS = (LABEL_POOL, LABEL_REPLICA, LABEL_ENGINE)
"""By these a container is found again after its manager died, so each one has them all."""
LABEL_START = "llama-orch.start"
"""Another value at each start: by this a start that failed half-way is cleared away. Given by the runtime alone."""

STEERS_CLIENT = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|XDG_[A-Z_]+|DBUS_SESSION_BUS_ADDRESS|STORAGE_(DRIVER|OPTS)|REGISTRY_AUTH_FILE"
    r"|CONTAINER_(HOST|CONNECTION|SSHKEY|PASSPHRASE)|CONTAINERS_[A-Z_]*CONF(_OVERRIDE)?|_[A-Z_]+|LD_[A-Z_]+|GO[A-Z]+"
    r"|DOCKER_(HOST|CONTEXT|CONFIG|TLS|TLS_VERIFY|CERT_PATH|API_VERSION|CONTENT_TRUST[A-Z_]*)"
)
"""The variables that change what a runtime's own client does, so their values cannot travel in its environment."""
_CDI = re.compile(r"[a-z0-9.-]+/[a-z0-9_.-]+=[A-Za-z0-9_.:-]+")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(r"[a-z0-9]+([._/:-]+[a-zA-Z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """A value of a specification."""


class ImageReference(_Value, frozen=True, kw_only=True):
    """An image by its name in a registry, and the tag or digest that is wanted of it; a digest outranks the tag.

    ``image`` has neither tag nor digest. A name without a registry is one of docker.io.
    """

    image: str
    tag: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        _check_image(self.image, self.tag, self.digest)

    @property
    def text(self) -> str:
        """As people write it, and as a runtime takes it."""
        if self.digest is not None:
            return f"{self.image}@{self.digest}"
        return f"{self.image}:{self.tag}" if self.tag else self.image

    @property
    def repository(self) -> str:
        """The image's whole name, with its registry: what no runtime reads in another way than the next."""
        first, slash, _ = self.image.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            return self.image
        return f"docker.io/{self.image}" if slash else f"docker.io/library/{self.image}"

    @property
    def registry(self) -> str:
        """The host, with its port, that has the image."""
        return self.repository.partition("/")[0]

    @property
    def qualified(self) -> str:
        """The text with the image's whole name; without tag and digest it is the tag ``latest``."""
        if self.digest is not None:
            return f"{self.repository}@{self.digest}"
        return f"{self.repository}:{self.tag or 'latest'}"


class DeviceRequest(_Value, frozen=True, kw_only=True):
    """A device by its CDI name: ``nvidia.com/gpu=0`` or ``nvidia.com/gpu=GPU-<uuid>``. Never "all"."""

    cdi: str

    def __post_init__(self) -> None:
        if not _CDI.fullmatch(self.cdi):
            raise SpecError("devices", f"{self.cdi!r} is no CDI device name such as nvidia.com/gpu=0")
        if self.cdi.endswith("=all"):
            raise SpecError("devices", "a pool has the GPUs of its mask, never all")

    @classmethod
    def gpu(cls, device: int | str) -> DeviceRequest:
        """The GPU with this index or UUID."""
        return cls(cdi=f"nvidia.com/gpu={device}")


class PortMapping(_Value, frozen=True, kw_only=True):
    """A port of the container that this machine, and nobody else, can reach. ``host`` 0 lets the runtime choose."""

    container: int
    host: int = 0
    address: str = "127.0.0.1"

    def __post_init__(self) -> None:
        if not 1 <= self.container <= 65_535 or not 0 <= self.host <= 65_535:
            raise SpecError("ports", f"{self.host}:{self.container} are no ports")
        if not _is_loopback(self.address):
            raise SpecError("ports", f"{self.address!r} is not a loopback address: engines are reached from here only")


class Mount(_Value, frozen=True, kw_only=True):
    """A directory or file of this machine inside the container. Read-only unless it says otherwise."""

    source: str
    target: str
    writable: bool = False

    def __post_init__(self) -> None:
        _check_path("mounts.source", self.source)
        _check_path("mounts.target", self.target)


class Limits(_Value, frozen=True, kw_only=True):
    """What the container may use; None leaves it to the system. Sizes in bytes."""

    memory_bytes: int | None = None
    shm_bytes: int | None = None
    cpus: float | None = None
    pids: int | None = None

    def __post_init__(self) -> None:
        for field in ("memory_bytes", "shm_bytes", "cpus", "pids"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise SpecError(f"limits.{field}", f"{value} is no limit")


class ContainerSpec(_Value, frozen=True, kw_only=True):
    """A container to run. It always drops every capability, gains no privilege and is removed when it ends.

    ``image`` has neither tag nor digest: these have fields of their own, and a digest outranks the tag. ``key_env`` is
    the name of the variable that carries the engine's key: its value is handed over in the runtime's own environment.
    """

    name: str
    image: str
    labels: dict[str, str]
    tag: str | None = None
    digest: str | None = None
    """Nothing runs without it: a tag is resolved by ``pull`` first."""
    entrypoint: str | None = None
    """A program in place of the image's own."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    key_env: str | None = None
    devices: tuple[DeviceRequest, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    model_mount: Mount | None = None
    mounts: tuple[Mount, ...] = ()
    tmpfs: tuple[str, ...] = ()
    """Directories inside that are empty at the start, can be written, and live in memory."""
    limits: Limits = Limits()
    read_only_root: bool = True
    """Off only for an engine that is known to write beside its program."""
    stop_timeout_ms: int = 5_000

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SpecError("name", f"{self.name!r} is no name of a container")
        _check_image(self.image, self.tag, self.digest)
        missing = [label for label in LABELS if not self.labels.get(label)]
        if missing:
            raise SpecError(
                "labels", f"{', '.join(missing)} missing: without it the container could not be found again"
            )
        if self.model_mount is not None and self.model_mount.writable:
            raise SpecError("model_mount", "models are mounted read-only: several pools share them")
        _check_env(self)
        if self.entrypoint is not None and (not self.entrypoint or self.entrypoint.startswith("-")):
            raise SpecError("entrypoint", f"{self.entrypoint!r} is no program")
        for path in self.tmpfs:
            _check_path("tmpfs", path)
        targets = [*(mount.target for mount in self.all_mounts), *self.tmpfs]
        if len(set(targets)) != len(targets):
            raise SpecError("mounts", "two mounts have the same target")
        if self.stop_timeout_ms <= 0:
            raise SpecError("stop_timeout_ms", f"{self.stop_timeout_ms} is no time")

    @property
    def reference(self) -> ImageReference:
        """The image."""
        return ImageReference(image=self.image, tag=self.tag, digest=self.digest)

    @property
    def all_mounts(self) -> tuple[Mount, ...]:
        """The model's mount first."""
        return (*((self.model_mount,) if self.model_mount else ()), *self.mounts)


class ContainerState(msgspec.Struct, frozen=True, kw_only=True):
    """What a runtime says of a container. ``exit_code`` is None while it runs, and where it never ran."""

    running: bool
    exit_code: int | None = None
    oom_killed: bool = False
    started_at: str | None = None
    """RFC 3339, as the runtime writes it; another one after another start."""
    pids: tuple[int, ...] = ()
    """The processes in it, as this machine numbers them: NVML names these."""


class ContainerHandle(msgspec.Struct, frozen=True, kw_only=True):
    """A container that was started; enough to find it again after a restart. Holds no secret."""

    runtime: str
    container_id: str
    name: str
    image_digest: str
    ports: tuple[PortMapping, ...] = ()
    """As the runtime gave them: ``host`` is never 0."""
    labels: dict[str, str] = {}


class ImageIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """An image that is here: what was asked for, and what it is."""

    image: str
    tag: str | None
    digest: str


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _check_path(field: str, path: str) -> None:
    if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise SpecError(field, f"{path!r} is not an absolute path without '..'")
    if any(character in path for character in ",:\0\n"):
        raise SpecError(field, f"{path!r} holds a character that separates mount options")


def _check_image(image: str, tag: str | None, digest: str | None) -> None:
    if "@" in re.sub(rf"@{_DIGEST.pattern}$", "", image):
        # What stands before the sign may be a password, so none of it is repeated.
        raise SpecError("image", "the name holds a user name or a password: log in with the runtime instead")
    if not _IMAGE.fullmatch(image) or ":" in image.rpartition("/")[2]:
        raise SpecError("image", f"{image!r} is no image name without tag and digest")
    if tag is not None and not _TAG.fullmatch(tag):
        raise SpecError("tag", f"{tag!r} is no tag of an image")
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise SpecError("digest", f"{digest!r} is no sha256 digest")


def _check_env(spec: ContainerSpec) -> None:
    names = [*spec.env, *([spec.key_env] if spec.key_env else [])]
    for name in names:
        if not _ENV_NAME.fullmatch(name):
            raise SpecError("env", f"{name!r} is no name of an environment variable")
    if any("\0" in value or "\n" in value for value in spec.env.values()):
        raise SpecError("env", "a value holds a line break or a zero byte")
    if spec.key_env and STEERS_CLIENT.fullmatch(spec.key_env):
        raise SpecError("env", f"{spec.key_env} is read by the runtime's own client and cannot carry the key")
    if spec.key_env in spec.env:
        raise SpecError("env", f"{spec.key_env} carries the key, which never stands in a specification")
