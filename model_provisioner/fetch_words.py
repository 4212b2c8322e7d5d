"""How a failed fetch reads to somebody who wants a model.

Decides the cause and the mend of what ``transfer`` and the sources report, by the scheme of the reference. Never shows
a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from contracts.pools import Cause
from model_provisioner import reference
from model_provisioner.errors import FetchError, ModelError, Trouble
from model_provisioner.reference import HfRef, RemoteRef

_CAUSES: Mapping[Trouble, Cause] = MappingProxyType(
    {Trouble.POLICY: Cause.POLICY_DENIED, Trouble.DIGEST: Cause.MODEL_DIGEST}
)
_HINTS: Mapping[Trouble, str] = MappingProxyType(
    {
        Trouble.ADDRESS: "see that the address leads to the file itself",
        Trouble.ANSWER: "see that it can be opened from this machine, or download it and give its path",
        Trouble.NETWORK: "see that it can be reached from this machine; what came so far is kept for the next try",
        Trouble.SIZE: "what is there has changed or is broken: try again, or ask whoever offers it",
        Trouble.DISK: "see that this user may write to the cache, or set paths.cache",
    }
)


def model_error(error: FetchError, ref: RemoteRef) -> ModelError:
    """The error for a model that could not be fetched. Of the hub's refusals ``hf_words`` knows more."""
    cause = _CAUSES.get(error.trouble, Cause.MODEL_FETCH)
    hint = error.hint or _status_hint(error.status, ref) or _HINTS.get(error.trouble, _HINTS[Trouble.ANSWER])
    return ModelError(cause, error.message, hint, retriable=error.retriable)


def _status_hint(status: int | None, ref: RemoteRef) -> str | None:
    match status:
        case 401 | 403 if isinstance(ref, HfRef):
            return f"see https://huggingface.co/{ref.org}/{ref.repo}, and set HF_TOKEN where it is gated or private"
        case 401 | 403:
            return "it wants a login or a signed address, or the signature is too old: get a new address"
        case 404 | 410:
            return "it is not there (any more): see the address"
        case 429:
            return "it is asked too often from here: wait some minutes"
        case _:
            return None


def wrong_digest(what: str, found: str, expected: str, aside: str, *, held: bool) -> ModelError:
    """A file with another digest than it must have, which was moved to ``aside``. Digests are bare hex.

    ``held``: the configuration alone says which one it must have, so the same would come again.
    """
    again = (
        "it is not used, nor fetched again while it is kept there: remove it when its source was mended and try again; "
        "set model_sha256 to this digest only if you trust it"
    )
    once = "it is not used; try again, and see whether something between its source and here changes what is fetched"
    return ModelError(
        Cause.MODEL_DIGEST,
        f"{what} came with the digest sha256:{found}, but sha256:{expected} is required: it was set aside as {aside}",
        again if held else once,
    )


def other_digest_there(ref: RemoteRef, there: str, expected: str) -> ModelError:
    """The source itself says that its file has another digest: nothing is fetched."""
    return ModelError(
        Cause.MODEL_DIGEST,
        f"{reference.shown(ref)} has the digest sha256:{there} where it is offered, but sha256:{expected} is required",
        "nothing was fetched; see which file or revision is meant, or correct model_sha256",
    )
