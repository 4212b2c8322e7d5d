"""What an object store's refusals and metadata mean, in our words.

Decides the cause, the sentence and the mend for each code of the S3 API, what names the very bytes of an object, and
which checksum is one of all its bytes. Never shows what a store says in its own words: those repeat key ids, signatures
and what was signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable

import msgspec

from contracts.pools import Cause
from model_provisioner.errors import ModelError
from model_provisioner.reference import S3Ref

METADATA_SERVICE = "http://169.254.169.254"
"""Where a machine in the cloud asks who it is. Everywhere else nobody, or somebody else, is there."""

_BUCKETS = frozenset({"NoSuchBucket", "InvalidBucketName"})
_OBJECTS = frozenset({"NoSuchKey", "NoSuchVersion", "404"})
_DENIED = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"})
_WRONG_KEY = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId", "401"})
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_CLOCK = frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"})
_REGION = frozenset(
    {
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "301",
    }
)
_BUSY = frozenset({"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "502", "503", "504"})
_ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_FIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_CODE = re.compile(r"[A-Za-z0-9.]{1,60}")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a reference was looked for, as far as errors tell it."""

    ref: S3Ref
    host: str
    """The store's."""
    region: str
    anonymous: bool
    """Whether no credentials were found."""

    @property
    def shown(self) -> str:
        """The reference."""
        return f"s3://{self.ref.bucket}/{self.ref.key}"


def refusal(code: str, place: Place) -> ModelError:
    """The error for what a store answered."""
    bucket, shown = place.ref.bucket, place.shown
    if code in _BUCKETS:
        text = f"{place.host} has no bucket {bucket!r}"
        hint = "see that it is spelled right, and that AWS_ENDPOINT_URL is the store that has it"
        return ModelError(Cause.MODEL_MISSING, text, hint)
    if code in _OBJECTS:
        text = f"the bucket {bucket!r} at {place.host} has nothing at {shown}"
        return ModelError(Cause.MODEL_MISSING, text, f"see what there is: aws s3 ls {shown.rpartition('/')[0]}/")
    if code in _DENIED:
        return _denied(place)
    if code in _WRONG_KEY:
        text = f"{place.host} does not know the credentials that were found, so {shown} is not fetched"
        return ModelError(Cause.MODEL_FETCH, text, "see which are found, as the daemon's user: aws configure list")
    if code in _EXPIRED:
        text = f"the credentials for {shown} have expired"
        return ModelError(Cause.MODEL_FETCH, text, "get new ones, for example: aws sso login")
    if code in _CLOCK:
        text = f"{place.host} does not accept this machine's time, so {shown} is not fetched"
        return ModelError(Cause.MODEL_FETCH, text, "set the clock right: timedatectl set-ntp true")
    if code in _REGION:
        text = f"the bucket {bucket!r} is in another region than {place.region}"
        return ModelError(Cause.MODEL_FETCH, text, "set AWS_REGION, or region in ~/.aws/config, to the bucket's")
    if code == "InvalidObjectState":
        return archived(place)
    text = f"{shown} cannot be fetched: {place.host} answers {_known(code)}"
    busy = code in _BUSY
    hint = "try again later" if busy else "see that AWS_ENDPOINT_URL is an object store, and the reference right"
    return ModelError(Cause.MODEL_FETCH, text, hint, retriable=busy)


def archived(place: Place) -> ModelError:
    """The error for an object that has to be brought back first."""
    text = f"{place.shown} is in an archive"
    return ModelError(Cause.MODEL_FETCH, text, "restore it first: aws s3api restore-object, then try again")


def is_archived(storage_class: str, restore: str) -> bool:
    """Whether an object cannot be read, from the two headers that say so."""
    return storage_class in _ARCHIVED and 'ongoing-request="false"' not in restore


def _denied(place: Place) -> ModelError:
    if not place.anonymous:
        text = f"the credentials that were found may not read {place.shown}, or it does not exist"
        hint = "let them have s3:GetObject on it, and s3:ListBucket on its bucket"
        return ModelError(Cause.MODEL_FETCH, text, hint)
    text = f"{place.shown} is not open to everybody, and no credentials were found"
    hint = (
        "run `aws configure` as the daemon's user, or set AWS_PROFILE or AWS_ACCESS_KEY_ID with AWS_SECRET_ACCESS_KEY "
        f"(the metadata service of a cloud is asked only where policy.outbound.allow names {METADATA_SERVICE[7:]})"
    )
    return ModelError(Cause.MODEL_FETCH, text, hint)


def unreachable(place: Place) -> ModelError:
    """The error for a store that does not answer."""
    text = f"{place.host} cannot be reached, so {place.shown} is not fetched"
    hint = "see that this machine reaches it; another store than Amazon's is named by AWS_ENDPOINT_URL"
    return ModelError(Cause.MODEL_FETCH, text, hint, retriable=True)


def unproved(place: Place) -> ModelError:
    """The error for a store without a certificate that is trusted here."""
    text = f"{place.host} cannot prove who it is (TLS), so {place.shown} is not fetched"
    return ModelError(Cause.MODEL_FETCH, text, _TRUST)


_TRUST = "let this machine trust whoever vouches for it: add that certificate, then update-ca-certificates"


def no_credentials(ref: S3Ref, kind: str) -> ModelError:
    """The error for credentials that are configured and cannot be had; ``kind`` is the client's name for why."""
    text = f"the credentials for s3://{ref.bucket}/{ref.key} cannot be had ({kind})"
    return ModelError(Cause.MODEL_FETCH, text, "see which are found, as the daemon's user: aws configure list")


def bad_settings(ref: S3Ref, kind: str) -> ModelError:
    """The error for settings of the AWS client that do not work."""
    text = f"s3://{ref.bucket}/{ref.key} cannot be fetched: the settings of the AWS client are not usable ({kind})"
    return ModelError(Cause.MODEL_FETCH, text, "see AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE and ~/.aws/config")


def sha256_of(checksum: str | None, kind: str | None) -> str | None:
    """The sha256 of an object as bare hex, from the checksum that a store keeps; None where that is of parts."""
    if checksum is None or kind == "COMPOSITE":
        return None
    try:
        digest = base64.b64decode(checksum, validate=True)
    except (binascii.Error, ValueError):
        return None  # "...-3" is a checksum of three parts
    return digest.hex() if len(digest) == hashlib.sha256().digest_size else None


def revision_of(version: str | None, etag: str) -> str:
    """What pins an object: its version where the store keeps versions, else its ETag; fit for a folder's name."""
    return fit(version) if is_version(version) else fit(etag.strip('"'))


def is_version(version: str | None) -> bool:
    """Whether a store keeps versions of the object."""
    return version not in {None, "", "null"}


def fit(text: str | None) -> str:
    """The text if it can name a folder, else its digest."""
    found = text or ""
    return found if _FIT.fullmatch(found) else hashlib.sha256(found.encode(errors="surrogatepass")).hexdigest()


def together(files: Iterable[tuple[str, str]]) -> str:
    """One revision for several files, given as (name, revision)."""
    return hashlib.sha256("".join(f"{name}\0{revision}\n" for name, revision in sorted(files)).encode()).hexdigest()


def _known(code: str) -> str:
    return code if _CODE.fullmatch(code) else "something that is no error of an object store"
