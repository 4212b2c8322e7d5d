"""The contradictions in a configuration that no type can express.

Decides what a configuration may not say although each of its fields is well typed, and how to mend it.
"""

from __future__ import annotations

import math
import re
from ipaddress import ip_address
from types import MappingProxyType

from contracts.base import Problem
from contracts.config.document import Config, Outbound
from contracts.config.pools import Pool
from contracts.config.values import MODES, Engine, Mode, Profile
from contracts.sampler_profiles import PROFILES


def problems(config: Config) -> list[Problem]:
    """Every contradiction in a configuration whose fields are well typed; empty when it can be used."""
    found = [*_server_problems(config), *_origin_problems(config.server.cors_origins)]
    found += [*_outbound_problems(config.policy.outbound)]
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


ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:[0-9]{1,5})?")
"""As browsers send it: lower case, no path, no default port needed."""


def _origin_problems(origins: tuple[str, ...]) -> list[Problem]:
    """The origins that no browser ever sends: they would allow nobody."""
    hint = 'scheme, host and port as the address bar shows them, such as "https://chat.lan" or "http://10.0.0.5:3000"'
    return [
        Problem(path=f"server.cors_origins[{number}]", message=f"{origin!r} is no origin of a web page", hint=hint)
        for number, origin in enumerate(origins)
        if not ORIGIN.fullmatch(origin)
    ]


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
    if pool.sampler_profile_version not in PROFILES:
        text, known = f"there is no sampler profile {pool.sampler_profile_version!r}", ", ".join(sorted(PROFILES))
        found.append(Problem(path=f"{path}.sampler_profile_version", message=text, hint=f"valid here: {known}"))
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
