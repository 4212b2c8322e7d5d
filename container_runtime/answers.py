"""Reads what podman and docker answer: their error texts become typed errors, their JSON becomes values.

Decides which text means what. The texts are those of podman 3 to 5 and docker 20 to 28, which have no error codes; one
that is not known becomes FAILED with the runtime's own words, never a guess. Never asks a runtime.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from container_runtime.errors import (
    ContainerError,
    DigestMismatchError,
    ImageMissingError,
    RegistryUnreachableError,
    RuntimeCause,
    SpecError,
    TamperedContentError,
)
from container_runtime.spec import ContainerHandle, ContainerState, ImageReference, PortMapping

_Make = Callable[[ImageReference, str, str], ContainerError]
"""From the image, the telling line and everything that was printed."""

_NOISE = re.compile(r'^(time="[^"]*" level=\w+ msg=|Error: |docker: |Error response from daemon: )+')
_NOT_TELLING = re.compile(
    r"^(Run 'docker|See 'docker|Trying to pull|Getting image|Copying|\[\]$|WARNING:|[0-9a-f]{64}$)"
)
_NEVER = "0001-01-01T00:00:00Z"
_UUID = re.compile(r"\(UUID: ((?:GPU|MIG)-[0-9A-Za-z/-]+)\)")


class _Rule(msgspec.Struct, frozen=True):
    """What the text of an error means: one of these patterns, whatever the case of its letters."""

    patterns: tuple[str, ...]
    make: _Make

    def found_in(self, text: str) -> bool:
        return re.search("|".join(self.patterns), text, re.IGNORECASE | re.MULTILINE) is not None


# --- error texts -----------------------------------------------------------------------------------------------------


def _said(cause: RuntimeCause, what: str, hint: str) -> _Make:
    return lambda image, line, output: ContainerError(
        cause, f"{what.format(image=image.text, registry=image.registry)}: {line}", hint, output=output
    )


def _mismatch(image: ImageReference, _line: str, output: str) -> ContainerError:
    return DigestMismatchError(image.text, "another manifest", output=output)


def _missing(image: ImageReference, _line: str, output: str) -> ContainerError:
    return ImageMissingError(image.text, output=output)


def _tampered(image: ImageReference, _line: str, output: str) -> ContainerError:
    return TamperedContentError(image.text, output=output)


def _unreachable(image: ImageReference, _line: str, output: str) -> ContainerError:
    return RegistryUnreachableError(image.registry, output=output)


_NO_RUNTIME = _Rule(
    (
        "cannot connect to the docker daemon",
        "is the docker daemon running",
        "permission denied while trying to connect",
    ),
    _said(RuntimeCause.NO_RUNTIME, "docker does not answer", "start it, or install rootless podman: llama-orch doctor"),
)
_NO_SPACE = _Rule(
    ("no space left on device", "disk quota exceeded"),
    _said(RuntimeCause.NO_SPACE, "no space for {image}", "free some: podman system prune, or docker system prune"),
)
_GONE = _Rule(
    ("no such container", "no such object", "no container with (name or )?id"),
    _said(RuntimeCause.CONTAINER_GONE, "the container is no more", "nothing is left of it to mend; start it again"),
)
_PULL = (
    _NO_RUNTIME,
    _Rule(
        ("invalid reference format", "repository name must be", "short-name .* did not resolve"),
        _said(
            RuntimeCause.BAD_REFERENCE,
            "{image} is no image's name",
            "write it as registry/organization/name under provisioning.container.image; tag and digest have own keys",
        ),
    ),
    _Rule(("does not match provided manifest digest", "manifest verification failed for digest"), _mismatch),
    _Rule(
        (
            *("digest did not match", "blob size mismatch", "layer verification failed", "unexpected commit digest"),
            *("failed size validation", "flate: corrupt", "gzip: invalid", "zstd: ", "archive/tar: invalid"),
            "match image configuration",
        ),
        _tampered,
    ),
    _Rule(
        ("toomanyrequests", "rate limit"),
        _said(RuntimeCause.RATE_LIMITED, "{registry} gives no more for now", "log in, which raises the limit, or wait"),
    ),
    _Rule(
        (
            *("unauthorized", "authentication required", "no basic auth", "access to the resource is denied"),
            r"(status|registry)[a-z: ]* 40[13]\b",
        ),
        _said(
            RuntimeCause.UNAUTHORIZED,
            "{registry} wants a login for {image}, or has no such image",
            "podman login or docker login, as the user who runs pool-managerd; or correct the image's name",
        ),
    ),
    _Rule(
        ("manifest unknown", "name unknown", "manifest for .* not found", "no such image", "image not known"),
        _missing,
    ),
    _NO_SPACE,
    _Rule(
        (
            *("connection refused", "connection reset", "no such host", "name resolution", "network is unreachable"),
            *("no route to host", "timeout", "deadline exceeded", "server gave http response", "x509:", "tls: "),
            *("pinging container registry", r"(status|registry)[a-z: ]* 50[0-9]\b", ": eof$"),
        ),
        _unreachable,
    ),
)
_RUN = (
    _NO_RUNTIME,
    _Rule(
        ("name .* is already in use",),
        _said(RuntimeCause.NAME_TAKEN, "another container has the name", "remove it: podman rm, or docker rm"),
    ),
    _Rule(
        (
            *("unresolvable cdi", "could not select device driver", "cdi device injection failed"),
            *("nvidia-container-(cli|runtime)", "stat /dev/nvidia", "error gathering device information"),
        ),
        _said(
            RuntimeCause.NO_DEVICE,
            "the runtime cannot give the container its GPU",
            "install the NVIDIA container toolkit, then: sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
        ),
    ),
    _Rule(
        ("address already in use", "port is already allocated"),
        _said(RuntimeCause.PORT_TAKEN, "somebody else has the port", "end that program, or let the port be chosen"),
    ),
    _Rule(
        (
            "statfs .*: (no such|permission denied)",
            *("bind source path does not exist", "invalid mount config"),
        ),
        _said(RuntimeCause.BAD_MOUNT, "a path cannot be mounted", "see that the path exists and that you can read it"),
    ),
    _Rule(
        (
            *("controllers? .* (is|are) not available", "nanocpus can not be set", "cgroup.* not mounted"),
            r"open(ing)?( file)? .?\S*(memory|cpu|pids)\.max",
        ),
        _said(
            RuntimeCause.NO_LIMITS,
            "this host cannot hold a container to its limits",
            "let systemd delegate cgroups to your service manager (Delegate=yes for user@.service), or set no limits",
        ),
    ),
    _Rule(
        ("image not known", "no such image"),
        _said(RuntimeCause.IMAGE_MISSING, "{image} is not here", "pull it first: llama-orch ensure"),
    ),
    _NO_SPACE,
    _GONE,
    _Rule(
        ("oci runtime", "exec format error", "executable file", "failed to create (shim )?task"),
        _said(
            RuntimeCause.START_FAILED,
            "the program of {image} did not start",
            "see that the image is for this machine and has the program that is asked for",
        ),
    ),
)
_ASK = (_GONE, _NO_RUNTIME, _NO_SPACE)


def pull_error(reference: ImageReference, output: str) -> ContainerError:
    """Why an image did not come, from all that the runtime printed."""
    return _classify(_PULL, reference, output, "pulling")


def run_error(reference: ImageReference, output: str) -> ContainerError:
    """Why a container did not start."""
    return _classify(_RUN, reference, output, "starting")


def ask_error(reference: ImageReference, output: str) -> ContainerError:
    """Why a question about a container, or its end, failed."""
    return _classify(_ASK, reference, output, "asking about")


def is_no_such_image(output: str) -> bool:
    """Whether a question about an image failed for the reason that it is not here."""
    return re.search(r"image not known|no such image", output, re.IGNORECASE) is not None


def _classify(rules: tuple[_Rule, ...], image: ImageReference, output: str, doing: str) -> ContainerError:
    line = telling_line(output)
    # The last line first: what was tried before it may have failed for a reason that passed.
    for text in (line, output):
        for rule in rules:
            if rule.found_in(text):
                return rule.make(image, line, output)
    text = f"{doing} {image.text} failed: {line or 'the runtime said nothing'}"
    return ContainerError(RuntimeCause.FAILED, text, "see the runtime's own log", output=output)


def telling_line(output: str) -> str:
    """The last line that says something, without the runtime's preambles, cut to 300 characters."""
    lines = [line.strip() for line in output.splitlines()]
    told = [line for line in lines if line and not _NOT_TELLING.match(line)]
    return _NOISE.sub("", told[-1])[:300] if told else ""


# --- JSON ------------------------------------------------------------------------------------------------------------


def objects(text: str) -> tuple[dict[str, Any], ...]:
    """The objects of an ``inspect``. Raises ContainerError where it is none."""
    try:
        return tuple(msgspec.json.decode(text or "[]", type=list[dict[str, Any]]))
    except msgspec.DecodeError as error:
        raise ContainerError(
            RuntimeCause.FAILED,
            f"the runtime's answer is not what inspect answers: {error}",
            "see that podman or docker on the PATH is the real program",
            output=text,
        ) from error


def repository_digests(image: dict[str, Any], reference: ImageReference) -> tuple[str, ...]:
    """The digests by which the image's own repository knows it, the likeliest first; () where it knows none."""
    found = []
    for text in image.get("RepoDigests") or ():
        name, _, digest = str(text).partition("@")
        try:
            known = ImageReference(image=name, digest=digest)
        except SpecError:
            continue
        if known.repository == reference.repository:
            found.append(digest)
    # podman's own choice among several, such as those of a list and of its entry for this machine.
    return tuple(sorted(dict.fromkeys(found), key=lambda digest: digest != image.get("Digest")))


def handle(runtime: str, container: dict[str, Any]) -> ContainerHandle:
    """The handle of an inspected container."""
    config = _part(container, "Config")
    digest = re.search(r"@(sha256:[0-9a-f]{64})$", str(container.get("ImageName") or config.get("Image") or ""))
    return ContainerHandle(
        runtime=runtime,
        container_id=str(container.get("Id", "")),
        name=str(container.get("Name", "")).removeprefix("/"),
        image_digest=digest[1] if digest else str(container.get("ImageDigest") or ""),
        ports=_ports(container),
        labels={str(name): str(value) for name, value in _part(config, "Labels").items()},
    )


def main_process(container: dict[str, Any]) -> int | None:
    """The number of the container's first process on this machine, while it runs."""
    pid = _part(container, "State").get("Pid")
    return pid if isinstance(pid, int) and pid > 0 else None


def state(container: dict[str, Any], pids: tuple[int, ...] = ()) -> ContainerState:
    """How an inspected container is."""
    said = _part(container, "State")
    running = said.get("Running") is True
    started = said.get("StartedAt")
    ran = isinstance(started, str) and started not in {"", _NEVER}
    code = said.get("ExitCode")
    return ContainerState(
        running=running,
        exit_code=code if isinstance(code, int) and ran and not running else None,
        oom_killed=said.get("OOMKilled") is True,
        started_at=str(started) if ran else None,
        pids=pids if running else (),
    )


def environment(container: dict[str, Any]) -> dict[str, str]:
    """The variables of an inspected container."""
    listed = _part(container, "Config").get("Env") or ()
    return {name: value for name, _, value in (str(item).partition("=") for item in listed)}


def gpus_listed(output: str) -> tuple[str, ...]:
    """The UUIDs that ``nvidia-smi -L`` prints, of whole GPUs and of slices."""
    return tuple(_UUID.findall(output))


def pulled_digest(output: str) -> str | None:
    """The digest that docker names at the end of a pull."""
    found = re.search(r"^Digest: (sha256:[0-9a-f]{64})$", output, re.MULTILINE)
    return found[1] if found else None


def _part(container: dict[str, Any], name: str) -> dict[str, Any]:
    part = container.get(name)
    return part if isinstance(part, dict) else {}


def _ports(container: dict[str, Any]) -> tuple[PortMapping, ...]:
    """As they are; for a container that does not run, as they were asked for, where that was no choice left open."""
    ports = _part(_part(container, "NetworkSettings"), "Ports") or _part(_part(container, "HostConfig"), "PortBindings")
    found = []
    for inside, bindings in sorted(ports.items()):
        for binding in bindings or ():
            mapping = _port(str(inside), binding)
            if mapping is not None:
                found.append(mapping)
    return tuple(found)


def _port(inside: str, binding: dict[str, Any]) -> PortMapping | None:
    try:
        host = int(binding.get("HostPort") or 0)
        container = int(inside.partition("/")[0])
        return PortMapping(container=container, host=host, address=str(binding.get("HostIp"))) if host else None
    except (ValueError, SpecError):
        return None  # of no container of ours
