"""``s3://``: models that lie in an object store, Amazon's or any that speaks its API.

Decides which objects a reference comes to, and whose credentials are used: those of botocore's own chain (environment,
profile, files), and nobody's where there are none. A cloud's metadata service is asked only where policy allows it, and
policy is asked before each request of botocore's, whichever service it is for and wherever a store sends it. Never
fetches an object: the addresses that it answers with are signed, so that the transfer can, for a while and for nothing
else. Never shows a signed address or what a store says in its own words.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from contracts.pools import Cause
from daemon_core.python_packages import install_hint
from daemon_core.version import version
from model_provisioner.errors import FetchError, ModelError, Trouble
from model_provisioner.reference import S3Ref
from model_provisioner.sources import listing, s3_words
from model_provisioner.sources.base import Located, RemoteFile
from model_provisioner.sources.s3_words import Place
from model_provisioner.threads import left_behind

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

DEFAULT_REGION = "us-east-1"
CONNECT_S = 20
SILENCE_S = 30
ATTEMPTS = 3
PAGE_KEYS = 1000
SIGNED_S = 7 * 24 * 3600
"""How long a signed address holds: the most there is, since a large model on a slow line takes days."""

_CONTAINER = "http://169.254.170.2"
_HOLDS = "a file ends in .gguf; a folder holds one, or config.json and *.safetensors"


logging.getLogger("botocore").setLevel(logging.INFO)  # below it, it logs what it signs, session tokens included


class _Object(msgspec.Struct, frozen=True, kw_only=True):
    key: str
    size_bytes: int
    etag: str
    version: str | None
    sha256: str | None

    @property
    def revision(self) -> str:
        return s3_words.revision_of(self.version, self.etag)


class S3Source:
    """Object stores.

    ``require`` is asked before each request, with its URL, and raises FetchError, which comes out of here.
    """

    def __init__(self, require: Callable[[str], object]) -> None:
        self._require = require

    async def locate(self, ref: S3Ref) -> Located:
        """The objects of the reference, with signed addresses. Raises ModelError, FetchError."""
        return await left_behind(lambda: self._locate(ref))

    def _locate(self, ref: S3Ref) -> Located:
        try:
            import botocore.session  # noqa: PLC0415 - optional, and slow to import
        except ImportError as error:
            message = "s3:// needs the Python package botocore, which is not installed"
            raise ModelError(Cause.MODEL_FETCH, message, install_hint("botocore")) from error
        from botocore import exceptions  # noqa: PLC0415

        try:
            store = _Store(ref, self._require, botocore.session.Session)
        except _credential_errors() as error:
            raise s3_words.no_credentials(ref, type(error).__name__) from error
        except (exceptions.BotoCoreError, ValueError) as error:
            raise s3_words.bad_settings(ref, type(error).__name__) from error
        try:
            return store.located()
        except exceptions.ClientError as error:
            raise s3_words.refusal(_code(error), store.place) from error
        except exceptions.SSLError as error:
            raise s3_words.unproved(store.place) from error
        except (exceptions.HTTPClientError, exceptions.ConnectionError) as error:
            raise s3_words.unreachable(store.place) from error
        except _credential_errors() as error:
            raise s3_words.no_credentials(ref, type(error).__name__) from error
        except exceptions.BotoCoreError as error:
            raise s3_words.bad_settings(ref, type(error).__name__) from error
        finally:
            store.close()


class _Store:
    """One store, for one look at it. ``new_session`` is botocore's."""

    def __init__(self, ref: S3Ref, require: Callable[[str], object], new_session: Callable[[], Any]) -> None:
        from botocore import UNSIGNED  # noqa: PLC0415 - optional
        from botocore.config import Config  # noqa: PLC0415

        self._ref = ref
        self._require = require
        session = self._session_with_credentials(new_session)
        anonymous = session.get_credentials() is None
        region = session.get_config_variable("region") or DEFAULT_REGION
        self._client = session.create_client(
            "s3",
            region_name=region,
            verify=_trusted(session),
            config=Config(
                signature_version=UNSIGNED if anonymous else "s3v4",  # by itself botocore signs addresses the old way
                connect_timeout=CONNECT_S,
                read_timeout=SILENCE_S,
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                user_agent_extra=f"llama-orch/{version()}",
                defaults_mode="legacy",  # "auto" asks the metadata service
            ),
        )
        host = urlsplit(self._client.meta.endpoint_url).netloc.rpartition("@")[2]
        self.place = Place(ref=ref, host=host, region=region, anonymous=anonymous)

    def close(self) -> None:
        self._client.close()

    def located(self) -> Located:
        key = self._ref.key
        if key.endswith(listing.GGUF):
            folder, slash, name = key.rpartition("/")
            names, entry = listing.parts_of(name) or (name,), name
            prefix = folder + slash
            if len(names) > 1 and name != names[0]:
                message = f"{self.place.shown} is a later part of a split model"
                raise ModelError(
                    Cause.MODEL_INVALID, message, f"give its first: s3://{self._ref.bucket}/{prefix}{names[0]}"
                )
            choice = listing.Choice(names=names, entry=entry)
        else:
            prefix = key.rstrip("/") + "/"
            choice = self._choice(prefix)
        self._require_safe(choice)
        objects = {name: self._look_at(prefix + name) for name in choice.names}
        if len(objects) == 1:
            (only,) = objects.values()
            revision = only.revision
            pinned = f"version {only.version}" if s3_words.is_version(only.version) else f"ETag {only.etag}"
        else:
            revision = s3_words.together((name, each.revision) for name, each in objects.items())
            pinned = f"{len(objects)} objects, together {revision}"
        return Located(
            revision=revision,
            source=f"{self.place.shown} at {self.place.host}, {pinned}",
            files=tuple(self._remote(name, each) for name, each in objects.items()),
            entry=choice.entry,
        )

    # --- what is there ------------------------------------------------------------------------------------------------

    def _choice(self, prefix: str) -> listing.Choice:
        """The model in a folder."""
        names = self._names(prefix)
        if not names:
            message = f"the bucket {self._ref.bucket!r} at {self.place.host} has nothing at {self.place.shown}"
            raise ModelError(Cause.MODEL_MISSING, message, _HOLDS)
        try:
            return listing.choose(names)
        except listing.NoChoiceError as error:
            message = f"{self.place.shown} {error}"
            raise ModelError(Cause.MODEL_INVALID, message, f"write which file: {_HOLDS}") from error

    def _names(self, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._ref.bucket, Prefix=prefix, Delimiter="/", PaginationConfig={"PageSize": PAGE_KEYS}
        )
        names: list[str] = []
        for page in pages:
            names += [each["Key"].removeprefix(prefix) for each in page.get("Contents", ())]
            if len(names) > listing.MAX_FILES + 1:
                break
        return [name for name in names if name]  # a folder made by a console is an object without a name

    def _look_at(self, key: str) -> _Object:
        from botocore.exceptions import ClientError  # noqa: PLC0415 - optional

        try:
            found = self._client.head_object(Bucket=self._ref.bucket, Key=key, ChecksumMode="ENABLED")
        except ClientError:
            # The answer to HEAD has no body that says why.
            self._client.get_object(Bucket=self._ref.bucket, Key=key, Range="bytes=0-0")["Body"].close()
            raise
        if s3_words.is_archived(found.get("StorageClass", ""), found.get("Restore", "")):
            raise s3_words.archived(self.place)
        return _Object(
            key=key,
            size_bytes=found["ContentLength"],
            etag=found.get("ETag", ""),
            version=found.get("VersionId"),
            sha256=s3_words.sha256_of(found.get("ChecksumSHA256"), found.get("ChecksumType")),
        )

    def _require_safe(self, choice: listing.Choice) -> None:
        if unsafe := [name for name in choice.names if not listing.safe_name(name)]:
            message = f"{self.place.shown} has a name that is not safe on a disk: {listing.shown(unsafe)}"
            raise ModelError(Cause.MODEL_INVALID, message, "copy it to another key: letters, digits, '.', '_' and '-'")

    def _remote(self, name: str, found: _Object) -> RemoteFile:
        which = {"Bucket": self._ref.bucket, "Key": found.key}
        headers: tuple[tuple[str, str], ...] = ()
        if s3_words.is_version(found.version):
            which["VersionId"] = str(found.version)
        elif found.etag:
            headers = (("If-Match", found.etag),)  # what is fetched is what was looked at
        return RemoteFile(
            name=name,
            url=self._client.generate_presigned_url("get_object", Params=which, ExpiresIn=SIGNED_S),
            headers=headers,
            size_bytes=found.size_bytes,
            sha256=found.sha256,
        )

    # --- who we are ---------------------------------------------------------------------------------------------------

    def _session_with_credentials(self, new_session: Callable[[], Any]) -> Any:  # noqa: ANN401 - botocore has no types
        """A session whose every request asks policy, with credentials if there are any."""
        if address := _container_address():
            self._require(address)
        session = self._session(new_session, metadata=False)
        if session.get_credentials() is not None:
            return session
        try:
            self._require(session.get_config_variable("ec2_metadata_service_endpoint") or s3_words.METADATA_SERVICE)
        except FetchError as error:
            if error.trouble is not Trouble.POLICY:
                raise
            return session
        return self._session(new_session, metadata=True)

    def _session(self, new_session: Callable[[], Any], *, metadata: bool) -> Any:  # noqa: ANN401 - as above
        session = new_session()
        session.register("before-send", self._ask)
        if not metadata:
            # Without attempts there is no contact, not even for a profile that names the service as its source.
            session.set_config_variable("metadata_service_num_attempts", 0)
        return session

    def _ask(self, request: Any, **_: object) -> None:  # noqa: ANN401 - as above
        self._require(request.url)


def _trusted(session: Any) -> str | None:  # noqa: ANN401 - as above
    """Whose word is taken for who a server is: that of the authorities of this machine, as the transfer takes it.

    None leaves it to botocore, which has a list of its own, and settings to name another.
    """
    return None if session.get_config_variable("ca_bundle") else ssl.get_default_verify_paths().cafile


def _container_address() -> str | None:
    """Where a container in the cloud asks who it is, if its environment says so."""
    if relative := os.environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        return _CONTAINER + relative
    return os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")


def _credential_errors() -> tuple[type[Exception], ...]:
    from botocore import exceptions  # noqa: PLC0415 - optional

    return (
        exceptions.CredentialRetrievalError,
        exceptions.InvalidConfigError,
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.ProfileNotFound,
        exceptions.RefreshWithMFAUnsupportedError,
        exceptions.SSOError,
        exceptions.TokenRetrievalError,
        exceptions.UnknownCredentialError,
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
