"""How a container runtime fails: causes that mean different mends.

Decides the kinds and how they read. Never decides when one is raised.
"""

from __future__ import annotations

from enum import StrEnum


class RuntimeCause(StrEnum):
    """What is wrong, as far as the mend differs."""

    NO_RUNTIME = "no_runtime"
    """Neither rootless podman nor docker works here."""
    BAD_REFERENCE = "bad_reference"
    """The image's name is no name of an image."""
    IMAGE_MISSING = "image_missing"
    """The registry answers, and has no such tag or digest."""
    DIGEST_MISMATCH = "digest_mismatch"
    """What the registry sent has another digest than the one that was asked for."""
    TAMPERED_CONTENT = "tampered_content"
    """A layer does not match the manifest that names it."""
    REGISTRY_UNREACHABLE = "registry_unreachable"
    """Nobody answers for the registry, or not in a way that can be trusted."""
    UNAUTHORIZED = "unauthorized"
    """The registry wants a login."""
    RATE_LIMITED = "rate_limited"
    """The registry refuses more pulls for now."""
    NO_DEVICE = "no_device"
    """The runtime cannot give the container its GPU."""
    PORT_TAKEN = "port_taken"
    NAME_TAKEN = "name_taken"
    """Another container has the name."""
    BAD_MOUNT = "bad_mount"
    """A path that is mounted is not there, or cannot be read."""
    NO_LIMITS = "no_limits"
    """This host cannot hold the container to a limit that was asked for."""
    NO_SPACE = "no_space"
    START_FAILED = "start_failed"
    """The container was made, and its program did not start."""
    CONTAINER_GONE = "container_gone"
    NO_ANSWER = "no_answer"
    """The runtime did not answer in time, and was ended."""
    FAILED = "failed"
    """In a way that is not known here: the message has the runtime's own words."""


class ContainerError(Exception):
    """A container runtime cannot do what was asked. ``message`` is one line without secrets, ``hint`` the mend.

    ``output`` is what the runtime printed, for a log.
    """

    cause: RuntimeCause

    def __init__(self, cause: RuntimeCause, message: str, hint: str, *, output: str = "") -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.hint = hint
        self.output = output


class ImageMissingError(ContainerError):
    """There is no such image."""

    def __init__(self, image: str, *, output: str = "") -> None:
        hint = "check image, tag and digest under provisioning.container; an image can be deleted from its registry"
        super().__init__(RuntimeCause.IMAGE_MISSING, f"the registry has no image {image}", hint, output=output)


class DigestMismatchError(ContainerError):
    """Another image came than the one that was asked for. It must not be run."""

    def __init__(self, image: str, found: str, *, output: str = "") -> None:
        text = f"{image} was asked for, and {found} came"
        hint = "do not run it: find out who changed the image, then pin the digest that you trust"
        super().__init__(RuntimeCause.DIGEST_MISMATCH, text, hint, output=output)


class TamperedContentError(ContainerError):
    """The content of an image is not what its manifest says. It must not be run."""

    def __init__(self, image: str, *, output: str = "") -> None:
        hint = "pull it again; when that fails too, the registry or its cache holds a damaged or changed image"
        text = f"the content of {image} does not match its manifest"
        super().__init__(RuntimeCause.TAMPERED_CONTENT, text, hint, output=output)


class RegistryUnreachableError(ContainerError):
    """Nobody answers for the registry."""

    def __init__(self, registry: str, *, output: str = "") -> None:
        hint = "check the network and the registry's name; an image that is here already is used without it"
        text = f"the registry {registry} cannot be reached"
        super().__init__(RuntimeCause.REGISTRY_UNREACHABLE, text, hint, output=output)


class SpecError(ValueError):
    """A container specification that must not be run: what is wrong with which field."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
