"""What stands between a pool and its container, in the operator's words.

Decides what a runtime's failure means for a pool, and whether what was seen inside a container is what its pool may
have. Never asks a runtime.
"""

from __future__ import annotations

from collections.abc import Collection
from types import MappingProxyType

from container_runtime.errors import ContainerError, RuntimeCause
from container_runtime.spec import ImageIdentity, ImageReference
from contracts.config import ContainerImage, Pool, Profile
from contracts.engines import Finding
from contracts.pools import Cause
from engine_provisioner.container_engines import image_of, needs_of
from engine_provisioner.errors import ProvisionError

CAUSES: MappingProxyType[RuntimeCause, Cause] = MappingProxyType(
    {
        RuntimeCause.BAD_REFERENCE: Cause.ENGINE_FETCH,
        RuntimeCause.IMAGE_MISSING: Cause.ENGINE_FETCH,
        RuntimeCause.DIGEST_MISMATCH: Cause.ENGINE_FETCH,
        RuntimeCause.TAMPERED_CONTENT: Cause.ENGINE_FETCH,
        RuntimeCause.REGISTRY_UNREACHABLE: Cause.ENGINE_FETCH,
        RuntimeCause.UNAUTHORIZED: Cause.ENGINE_FETCH,
        RuntimeCause.RATE_LIMITED: Cause.ENGINE_FETCH,
        RuntimeCause.NO_SPACE: Cause.ENGINE_FETCH,
        RuntimeCause.NO_DEVICE: Cause.NO_GPU,
        RuntimeCause.NO_RUNTIME: Cause.CONTAINER_RUNTIME,
        RuntimeCause.NO_ANSWER: Cause.CONTAINER_RUNTIME,
        RuntimeCause.NAME_TAKEN: Cause.CONTAINER_RUNTIME,
        RuntimeCause.BAD_MOUNT: Cause.CONTAINER_RUNTIME,
        RuntimeCause.NO_LIMITS: Cause.CONTAINER_RUNTIME,
        RuntimeCause.FAILED: Cause.CONTAINER_RUNTIME,
        RuntimeCause.START_FAILED: Cause.ENGINE_EXIT,
        RuntimeCause.PORT_TAKEN: Cause.ENGINE_EXIT,
        RuntimeCause.CONTAINER_GONE: Cause.ENGINE_EXIT,
    }
)
"""What a runtime's failure means for a pool: one for each."""
_UNTOLD = frozenset(
    {
        *(RuntimeCause.NO_ANSWER, RuntimeCause.FAILED),
        *(cause for cause, meaning in CAUSES.items() if meaning is Cause.ENGINE_EXIT),
    }
)
"""Failures that, while an engine is prepared, tell of no engine: none runs yet."""
_PASSES = frozenset({RuntimeCause.REGISTRY_UNREACHABLE, RuntimeCause.RATE_LIMITED, RuntimeCause.NO_ANSWER})
_MEND_GPU = MappingProxyType(
    {
        "podman": "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml, and again after every driver update",
        "docker": "sudo nvidia-ctk runtime configure --runtime=docker, then sudo systemctl restart docker",
    }
)


def provision_error(error: ContainerError, otherwise: Cause) -> ProvisionError:
    """A runtime's failure in its own words, as a pool reports it; ``otherwise`` is for causes that tell nothing."""
    cause = otherwise if error.cause in _UNTOLD else CAUSES[error.cause]
    return ProvisionError(cause, error.message, error.hint, retriable=error.cause in _PASSES)


def gpu_error(
    runtime: str, identity: ImageIdentity, given: Collection[str], seen: Collection[str]
) -> ProvisionError | None:
    """What is wrong with the GPUs that were seen inside, by their UUIDs; None where they are those that were given."""
    inside = f"a container of {identity.image}@{identity.digest}"
    mend = _MEND_GPU[runtime]
    if missing := sorted(set(given) - set(seen)):
        text = (
            f"{inside} is given {', '.join(missing)} and does not see it; it sees {', '.join(sorted(seen)) or 'none'}"
        )
        return ProvisionError(Cause.NO_GPU, text, mend)
    # The slices of a GPU (MIG) are listed below it, and so belong to one that is named.
    if strangers := sorted(uuid for uuid in set(seen) - set(given) if not uuid.startswith("MIG-")):
        text = f"{inside} sees {', '.join(strangers)}, which it is not given"
        hint = f"see that no hook and no default runtime of {runtime} adds GPUs, then: {mend}"
        return ProvisionError(Cause.CONTAINER_RUNTIME, text, hint)
    return None


def user_findings(pool: Pool, runtime: str, uid: int) -> tuple[Finding, ...]:
    """An image whose program only root can read, in a runtime that runs it as the user."""
    needs = needs_of(pool.engine)
    image = image_of(pool, Profile.HOME)
    usual = image is not None and image.image == needs.image.image
    if not (needs.as_root and usual and runtime == "docker" and uid != 0):
        return ()
    text = f"the image {needs.image.image} keeps its Python where only root may read, and docker runs it as you"
    hint = "install rootless podman, inside of which you are root; or name an image that any user can run"
    return (Finding(check="container", message=text, why="the engine would not start", hint=hint),)


def pin_advice(pool: Pool, reference: ImageReference, digest: str) -> str:
    """What to write where a tag stands alone."""
    pin = as_yaml(ContainerImage(image=reference.image, tag=reference.tag, digest=digest))
    text = f"warning: {reference.text} is a tag, which can mean another image tomorrow"
    return f"{text}; to keep this one: pools[{pool.id}].provisioning.container: {pin}"


def as_yaml(image: ContainerImage) -> str:
    """``provisioning.container`` as an operator writes it."""
    fields = {"image": image.image, "tag": image.tag, "digest": image.digest}
    return "{" + ", ".join(f'{name}: "{value}"' for name, value in fields.items() if value is not None) + "}"
