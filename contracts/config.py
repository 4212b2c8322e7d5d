"""The configuration file: its shape, its defaults, and the contradictions that no type can express.

Decides what a valid configuration is. Never reads a file or an environment variable: ``daemon_core.config_file`` does,
and adds line numbers to what is found here.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum
from ipaddress import ip_address
from types import MappingProxyType
from typing import Annotated

from msgspec import Meta, field

from contracts.base import Problem, Strict

END = "$(?!\n)"
"""The end of the text: ``$`` alone would let a line break pass behind it."""
SHA256 = r"^[0-9a-f]{64}" + END
IDENTIFIER = r"^[a-z0-9][a-z0-9_-]{0,62}" + END

Millis = Annotated[int, Meta(ge=1, description="milliseconds")]
Id = Annotated[str, Meta(pattern=IDENTIFIER, description="lower-case letters, digits, '-' and '_', at most 63")]


class Profile(StrEnum):
    """What the whole installation is for."""

    HOME = "home"
    """NVIDIA GPUs only: without one nothing starts."""
    TRIAL = "trial"
    """Loopback only, a tiny model on the CPU: for looking around and for tests. Asked for by name, never a fallback."""


class Engine(StrEnum):
    """The engines that can be spoken to."""

    LLAMACPP = "llamacpp"
    VLLM = "vllm"
    TGI = "tgi"
    TRITON = "triton"
    OPENAI = "openai"


class Mode(StrEnum):
    """Where an engine comes from."""

    EXTERNAL = "external"
    SOURCE = "source"
    CONTAINER = "container"
    PACKAGE = "package"
    BINARY = "binary"


MODES: MappingProxyType[Engine, tuple[Mode, ...]] = MappingProxyType(
    {
        Engine.LLAMACPP: (Mode.SOURCE, Mode.CONTAINER, Mode.PACKAGE, Mode.BINARY, Mode.EXTERNAL),
        Engine.VLLM: (Mode.CONTAINER, Mode.EXTERNAL),
        Engine.TGI: (Mode.CONTAINER, Mode.EXTERNAL),
        Engine.TRITON: (Mode.CONTAINER, Mode.EXTERNAL),
        Engine.OPENAI: (Mode.EXTERNAL,),
    }
)
"""The modes that make sense for each engine; the first one is the home profile's default."""


class FullPolicy(StrEnum):
    """What a full queue does with one more task."""

    REJECT = "reject"
    DROP_LRU = "drop-lru"


class Verdict(StrEnum):
    """The default of the outbound policy."""

    ALLOW = "allow"
    DENY = "deny"


class Server(Strict, frozen=True, kw_only=True):
    """The HTTP listener of orchestratord, and the limits it puts on its clients."""

    bind: Annotated[str, Meta(description="host:port; [host]:port for IPv6")] = "127.0.0.1:8080"
    max_body_bytes: Annotated[int, Meta(ge=1024)] = 4 * 1024 * 1024
    max_streams_per_client: Annotated[int, Meta(ge=1)] = 256
    disconnect_grace_ms: Annotated[int, Meta(ge=0)] = 5_000
    """How long an interactive task lives on after its last listener left."""
    ping_interval_ms: Millis = 15_000
    slow_reader_ms: Millis = 30_000
    """A reader that does not take what was written for it within this time is cut off; it may come back."""
    keep_finished: Annotated[int, Meta(ge=1)] = 1_000
    """How many finished tasks, with their streams, can still be read."""


class Auth(Strict, frozen=True, kw_only=True):
    """Who may talk to orchestratord. The token itself never stands in this file."""

    token_file: str | None = None
    optional: bool = False
    trust_proxy: bool = False


class Outbound(Strict, frozen=True, kw_only=True):
    """Which remote hosts and schemes may be spoken to: globs such as ``*.example.org`` or ``hf:``."""

    default: Verdict = Verdict.ALLOW
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class Policy(Strict, frozen=True, kw_only=True):
    """What llama-orch may do to the outside and to this machine."""

    outbound: Outbound = Outbound()
    hook: str | None = None
    allow_package_installs: bool = False
    allow_binary_downloads: bool = False


class Paths(Strict, frozen=True, kw_only=True):
    """Overrides of the XDG defaults; ``~`` is expanded."""

    cache: str | None = None
    data: str | None = None
    state: str | None = None
    runtime: str | None = None


class Limits(Strict, frozen=True, kw_only=True):
    """What one client, told from others by its token, may ask for in a minute; left out, there is no such limit."""

    requests_per_minute: Annotated[int, Meta(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Meta(ge=1)] | None = None
    """Prompt tokens and the new ones that were asked for; what was not generated is given back."""


class Sessions(Strict, frozen=True, kw_only=True):
    """How long a conversation keeps its place, and what it may use up."""

    ttl_ms: Annotated[int, Meta(ge=1, le=600_000)] = 600_000
    """Since its last turn ended."""
    max_turns: Annotated[int, Meta(ge=1)] = 8
    max_sessions: Annotated[int, Meta(ge=1)] = 1_024
    """The one that was used least recently makes room for another."""
    affinity_wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 1_000
    """At most so long a turn waits for the replica that has its session's KV cache while another one is free."""
    token_budget: Annotated[int, Meta(ge=1)] | None = None
    """Tokens, read and generated, of all turns of a session together."""
    time_budget_ms: Millis | None = None
    """Time that the turns of a session keep slots busy, together."""


class Artifacts(Strict, frozen=True, kw_only=True):
    """What is kept on disk of finished tasks and of what clients store; the oldest goes first."""

    max_bytes: Annotated[int, Meta(ge=1)] = 256 * 1024 * 1024
    max_age_ms: Millis = 7 * 24 * 3600 * 1000
    records: bool = True
    """Whether each task leaves a record: its request without secrets, who served it, and its transcript."""


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


class Models(Strict, frozen=True, kw_only=True):
    """What is kept of the models that were fetched. Files of the user's own are never counted and never removed."""

    max_bytes: Annotated[int, Meta(ge=1)] | None = None
    """Fetched models together take no more; the least recently used goes first. Left out, nothing is removed."""
    pinned: tuple[str, ...] = ()
    """References of models that are never removed to make room, beside those of the pools."""


class Durability(StrEnum):
    """What an admitted task, its stream and its receipt outlive, once an answer has told of them."""

    MEMORY = "memory"
    """Nothing: a restart forgets all tasks."""
    PROCESS = "process"
    """The end of orchestratord, however it ends."""
    MACHINE = "machine"
    """A power cut, too: every answer waits for the disk."""


class Store(Strict, frozen=True, kw_only=True):
    """The task store: what is kept of tasks, their streams and their receipts, and for how long."""

    durability: Durability = Durability.PROCESS
    max_bytes: Annotated[int, Meta(ge=1 << 20)] = 1 << 30
    """Ended tasks and receipts together take no more on the disk; the oldest go first."""
    max_age_ms: Annotated[int, Meta(ge=1)] = 30 * 24 * 3600 * 1000
    """What ended longer ago is let go."""


class Logging(Strict, frozen=True, kw_only=True):
    """Where one debugs: JSON for machines, readable lines for people; ``auto`` is readable on a terminal only."""

    format: Annotated[str, Meta(pattern="^(auto|json|text)" + END)] = "auto"
    level: Annotated[str, Meta(pattern="^(debug|info|warning|error)" + END)] = "info"


class Config(Strict, frozen=True, kw_only=True):
    """The one configuration file."""

    pools: Annotated[tuple[Pool, ...], Meta(min_length=1)]
    profile: Profile = Profile.HOME
    server: Server = Server()
    auth: Auth = Auth()
    policy: Policy = Policy()
    paths: Paths = Paths()
    models: Models = Models()
    limits: Limits = Limits()
    sessions: Sessions = Sessions()
    artifacts: Artifacts = Artifacts()
    store: Store = Store()
    logging: Logging = Logging()


# --- contradictions ---------------------------------------------------------------------------------------------------


def problems(config: Config) -> list[Problem]:
    """Every contradiction in a configuration whose fields are well typed; empty when it can be used."""
    found = [*_server_problems(config), *_outbound_problems(config.policy.outbound)]
    found += [*_duplicate_ids(config.pools), *_overlaps(config.pools)]
    for number, pool in enumerate(config.pools):
        found += _pool_problems(config, pool, f"pools[{number}]")
    return found


def split_bind(bind: str) -> tuple[str, int] | None:
    """``host:port`` or ``[host]:port`` as a pair, or None where it is neither. Port 0 lets the system choose."""
    host, colon, port = bind.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        return None
    if host.startswith("[") and host.endswith("]"):
        return host[1:-1], int(port)
    return None if not host or ":" in host else (host, int(port))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on ``host``."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _server_problems(config: Config) -> list[Problem]:
    address = split_bind(config.server.bind)
    if address is None:
        text = f"{config.server.bind!r} is no address of the form host:port"
        return [Problem(path="server.bind", message=text, hint='for example "127.0.0.1:8080" or "0.0.0.0:8080"')]
    if config.profile is Profile.TRIAL and not is_loopback(address[0]):
        text = f"profile trial serves loopback only, and {address[0]!r} can be reached from outside"
        return [
            Problem(path="server.bind", message=text, hint='use "127.0.0.1:8080", or profile: home on a GPU machine')
        ]
    return []


def _outbound_problems(outbound: Outbound) -> list[Problem]:
    """The patterns that no host and no scheme matches: a rule that never holds is worse than none."""
    found = []
    for name, patterns in (("allow", outbound.allow), ("deny", outbound.deny)):
        for number, pattern in enumerate(patterns):
            if not _can_match(pattern):
                host = re.match(r"(?:[a-zA-Z][a-zA-Z0-9+.-]*://)?(?:[^/@]*@)?([^/:@\s]+)", pattern)
                network = re.fullmatch(r"[0-9a-fA-F:.]+/[0-9]+", pattern)
                mend = f"write {host[1]!r}; " if host and host[1] != pattern and not network else ""
                hint = f'{mend}a pattern is a host ("*.example.org"), an IP address ("10.*") or a scheme ("hf:")'
                text = f"{pattern!r} matches no address"
                found.append(Problem(path=f"policy.outbound.{name}[{number}]", message=text, hint=hint))
    return found


def _can_match(pattern: str) -> bool:
    """Whether a pattern is a scheme with its colon, an IP address or a glob of one, or a glob of host names."""
    if re.fullmatch(r"[a-zA-Z][a-zA-Z0-9+.-]*:", pattern):
        return True
    if ":" not in pattern:
        return re.search(r"[/@\s\x00-\x1f\x7f]", pattern) is None and pattern != ""
    if re.fullmatch(r"\[[^\]]*:[^\]]*\]:.*", pattern):
        return False  # an address with its port
    try:
        return bool(ip_address(re.sub(r"^\[(.*)\]$", r"\1", pattern)))
    except ValueError:
        return re.fullmatch(r"[0-9a-fA-F*?\[\]!-]*:[0-9a-fA-F*?\[\]!-]*:[0-9a-fA-F:.*?\[\]!-]*", pattern) is not None


def _duplicate_ids(pools: tuple[Pool, ...]) -> list[Problem]:
    seen: dict[str, int] = {}
    found = []
    for number, pool in enumerate(pools):
        first = seen.setdefault(pool.id, number)
        if first != number:
            found.append(
                Problem(path=f"pools[{number}].id", message=f"{pool.id!r} is already the id of pools[{first}]")
            )
    return found


def _overlaps(pools: tuple[Pool, ...]) -> list[Problem]:
    owner: dict[int | str, int] = {}
    found = []
    for number, pool in enumerate(pools):
        for device in pool.devices:
            other = owner.setdefault(device, number)
            if other != number and not (pool.share and pools[other].share):
                text = f"device {device!r} already belongs to pool {pools[other].id!r}"
                hint = "give each pool its own GPU, or set share: true on both pools"
                found.append(Problem(path=f"pools[{number}].devices", message=text, hint=hint))
    return found


def _pool_problems(config: Config, pool: Pool, path: str) -> list[Problem]:
    found = [*_mode_problems(pool, path), *_device_problems(config, pool, path), *_exec_problems(pool, path)]
    found += _split_problems(pool, f"{path}.tensor_split")
    if config.profile is Profile.TRIAL and not _fits_trial(pool):
        named = pool.provisioning.package.name if pool.mode is Mode.PACKAGE and pool.provisioning.package else None
        what = f"mode {pool.mode}" if named is None else f"the package {named!r}"
        text = f"profile trial cannot use {pool.engine} from {what}"
        hint = (
            "use engine llamacpp with provisioning: {mode: package, package: {name: xllamacpp}}, mode source or mode "
            "container, or any engine with mode external; or profile: home"
        )
        found.append(Problem(path=f"{path}.provisioning.mode", message=text, hint=hint))
    if config.profile is Profile.HOME and _is_trial_wheel(pool):
        text = "the wheel xllamacpp computes on the CPU, and profile home is GPU only"
        hint = "remove the provisioning block to build llama.cpp with CUDA, or set profile: trial"
        found.append(Problem(path=f"{path}.provisioning.package.name", message=text, hint=hint))
    return found


def _split_problems(pool: Pool, where: str) -> list[Problem]:
    """Shares that no model can be divided by."""
    shares = pool.tensor_split
    if shares is None:
        return []
    found = []
    if len(shares) != len(pool.devices):
        text = f"{len(shares)} shares for {len(pool.devices)} devices"
        found.append(Problem(path=where, message=text, hint="give one share per device"))
    hint = "a number from 0 on, such as [2, 1] for two thirds and one third"
    found += [
        Problem(path=f"{where}[{number}]", message=f"{share:g} is no share of a model", hint=hint)
        for number, share in enumerate(shares)
        if not math.isfinite(share) or share < 0
    ]
    if shares and not any(shares):
        text = "every share is 0, so no device gets any layer"
        found.append(Problem(path=where, message=text, hint="give at least one device a share above 0"))
    return found


def _exec_problems(pool: Pool, path: str) -> list[Problem]:
    """What no process can be started with."""
    found = [
        Problem(path=f"{path}.flags[{number}]", message="a flag with a null character", hint="remove it")
        for number, flag in enumerate(pool.flags)
        if "\0" in flag
    ]
    for name, value in pool.env.items():
        if not name or "=" in name or "\0" in name:
            hint = "a name without '=' and null characters"
            found.append(Problem(path=f"{path}.env", field=name, message="no name of a variable", hint=hint))
        if "\0" in value:
            found.append(Problem(path=f"{path}.env", field=name, message="a null character", hint="remove it"))
    return found


def _fits_trial(pool: Pool) -> bool:
    by_itself = pool.mode in {Mode.SOURCE, Mode.CONTAINER} or _is_trial_wheel(pool)
    return pool.mode is Mode.EXTERNAL or (pool.engine is Engine.LLAMACPP and by_itself)


def _is_trial_wheel(pool: Pool) -> bool:
    package = pool.provisioning.package
    return pool.mode is Mode.PACKAGE and package is not None and package.name == TRIAL_WHEEL


TRIAL_WHEEL = "xllamacpp"
"""The distribution whose llama.cpp server the trial profile runs."""


def _mode_problems(pool: Pool, path: str) -> list[Problem]:
    where = f"{path}.provisioning"
    legal = MODES[pool.engine]
    if pool.mode not in legal:
        text = f"{pool.engine} cannot be provisioned in mode {pool.mode!s}"
        return [Problem(path=f"{where}.mode", message=text, hint=f"valid for {pool.engine}: {', '.join(legal)}")]
    provisioning = pool.provisioning
    needs_block = {
        Mode.CONTAINER: provisioning.container,
        Mode.PACKAGE: provisioning.package,
        Mode.EXTERNAL: provisioning.external,
    }
    if pool.mode in needs_block and needs_block[pool.mode] is None and _has_no_default(pool):
        text = f"mode {pool.mode} needs a block {pool.mode!s}"
        return [Problem(path=where, field=str(pool.mode), message=text, hint=_BLOCK_EXAMPLES[pool.mode])]
    binary = provisioning.binary
    if pool.mode is Mode.BINARY and binary is not None and binary.url is not None and binary.sha256 is None:
        text = "a downloaded binary needs its sha256"
        return [Problem(path=f"{where}.binary", field="sha256", message=text, hint="sha256sum prints it")]
    if pool.mode is Mode.BINARY and binary is not None and binary.url is not None and binary.path is not None:
        return [Problem(path=f"{where}.binary", message="path and url exclude each other", hint="keep one of them")]
    return []


def _has_no_default(pool: Pool) -> bool:
    """Containers of known engines have a default image; packages and endpoints are always the operator's choice."""
    return pool.mode is not Mode.CONTAINER or pool.engine is Engine.OPENAI


_BLOCK_EXAMPLES: MappingProxyType[Mode, str] = MappingProxyType(
    {
        Mode.CONTAINER: 'container: {image: "...", digest: "sha256:..."}',
        Mode.PACKAGE: 'package: {name: "llama.cpp"}',
        Mode.EXTERNAL: 'external: {url: "http://127.0.0.1:8000"}',
    }
)


def _device_problems(config: Config, pool: Pool, path: str) -> list[Problem]:
    found = []
    for number, device in enumerate(pool.devices):
        where = f"{path}.devices[{number}]"
        if isinstance(device, int) and device < 0:
            found.append(Problem(path=where, message=f"{device} is no GPU index", hint="indices start at 0"))
        if isinstance(device, str) and not re.fullmatch(r"GPU-[0-9a-fA-F-]{8,}", device):
            hint = "an index such as 0, or a UUID such as GPU-8f2c..., as nvidia-smi -L prints it"
            found.append(Problem(path=where, message=f"{device!r} is no GPU", hint=hint))
    if len(set(pool.devices)) != len(pool.devices):
        found.append(Problem(path=f"{path}.devices", message="a device is named twice", hint="name each GPU once"))
    local = [each for each in config.pools if each.mode is not Mode.EXTERNAL]
    if config.profile is Profile.HOME and pool in local and not pool.devices and len(local) > 1:
        text = "a pool without devices takes every GPU, and there are other pools"
        found.append(Problem(path=f"{path}.devices", message=text, hint="give each pool its own, such as devices: [0]"))
    return found
