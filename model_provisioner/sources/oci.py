"""``oci://``: models that lie in a registry, as artifacts whose layers are files.

Decides which manifest a reference means, and how what a registry says is answered. A layer's digest is its sha256, so
whatever comes is verified; a manifest asked for by digest is verified here. Credentials are those of ``podman login``
and ``docker login``. Plain http is spoken to this machine and to the hosts in ``plain_http`` only. Never fetches a
layer, and never shows a token.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import msgspec

from contracts.pools import Cause
from daemon_core.outbound import is_this_machine
from daemon_core.python_packages import install_hint
from model_provisioner import reference
from model_provisioner.errors import ModelError
from model_provisioner.reference import OciRef
from model_provisioner.sources import oci_auth, oci_manifest
from model_provisioner.sources.base import Located, RemoteFile
from model_provisioner.sources.oci_manifest import Artifact, Index, Manifest, ManifestError, NotAModelError
from model_provisioner.threads import left_behind

if TYPE_CHECKING:
    from model_provisioner.sources.oci_client import Client

DEFAULT_TAG = "latest"

_LIKE = "a model is an artifact whose layers are files: `oras push REGISTRY/REPOSITORY:TAG model.gguf` makes one"


class OciSource:
    """Registries.

    ``require`` is asked before each request, with its URL; it answers with the addresses that the host may be reached
    at (none: wherever its name leads), and raises FetchError, which comes out of here.
    """

    def __init__(
        self,
        require: Callable[[str], Sequence[str]],
        *,
        environ: Mapping[str, str] = os.environ,
        plain_http: frozenset[str] = frozenset(),
    ) -> None:
        self._require = require
        self._environ = environ
        self._plain_http = plain_http

    async def locate(self, ref: OciRef) -> Located:
        """The files of the artifact. Raises ModelError, FetchError."""
        return await left_behind(lambda: self._locate(ref))

    def _locate(self, ref: OciRef) -> Located:
        host, repository = _place(ref)
        login = oci_auth.login_for(_login_files(self._environ), ref.registry, repository)
        client = _client(host, self._require, self._is_plain, login)
        try:
            return _Look(client, ref, repository, login).located()
        finally:
            client.close()

    def _is_plain(self, host: str) -> bool:
        return host in self._plain_http or is_this_machine(f"http://{host}")


class _Look:
    """One reference being followed."""

    def __init__(self, client: Client, ref: OciRef, repository: str, login: oci_auth.Login | None) -> None:
        self._client = client
        self._ref = ref
        self._shown = reference.shown(ref)
        self._repository = repository
        self._login = login

    def located(self) -> Located:
        try:
            manifest, artifact = self._artifact()
        except NotAModelError as error:
            raise ModelError(Cause.MODEL_INVALID, f"{self._shown} {error}", _LIKE) from error
        except ManifestError as error:
            hint = "see what was pushed there, or push it again"
            raise ModelError(Cause.MODEL_INVALID, f"the manifest of {self._shown} {error}", hint) from error
        headers = self._client.authorization()
        files = tuple(
            RemoteFile(
                name=name,
                url=self._client.url(self._repository, "blobs", layer.digest),
                headers=headers,
                size_bytes=layer.size,
                sha256=layer.sha256,
            )
            for name, layer in artifact.files
        )
        return Located(
            revision=manifest.digest.removeprefix("sha256:"),
            source=f"oci://{self._ref.registry}/{self._ref.repository}@{manifest.digest}",
            files=files,
            entry=artifact.entry,
        )

    def _artifact(self) -> tuple[Manifest, Artifact]:
        found = self._read(self._ref.digest or self._ref.tag_name or DEFAULT_TAG, self._ref.digest)
        match found:
            case Manifest():
                return found, oci_manifest.artifact(found, self._fallback)
            case Index():
                return self._chosen(found)
            case _:
                assert_never(found)

    def _chosen(self, index: Index) -> tuple[Manifest, Artifact]:
        """The one model of an index."""
        models: list[tuple[Manifest, Artifact]] = []
        reasons: list[NotAModelError] = []
        for child in oci_manifest.candidates(index):
            manifest = self._read(child.digest, child.digest)
            if isinstance(manifest, Index):
                continue
            try:
                models.append((manifest, oci_manifest.artifact(manifest, self._fallback)))
            except NotAModelError as error:
                reasons.append(error)
        if len(models) == 1:
            return models[0]
        if not models:
            raise reasons[0] if reasons else NotAModelError("is an index of indexes")
        digests = ", ".join(manifest.digest for manifest, _ in models)
        message = f"{self._shown} is an index of {len(models)} models: {digests}"
        hint = f"write which one: oci://{self._ref.registry}/{self._ref.repository}@{models[0][0].digest}"
        raise ModelError(Cause.MODEL_INVALID, message, hint)

    @property
    def _fallback(self) -> str:
        name = self._repository.rpartition("/")[2]
        tag = self._ref.tag_name
        return name if tag in {None, DEFAULT_TAG} else f"{name}-{tag}"

    def _read(self, name: str, digest: str | None) -> Manifest | Index:
        status, body = self._ask(name)
        if status == 200:
            return oci_manifest.read(body, digest)
        raise self._refused(name, status, body)

    def _ask(self, name: str) -> tuple[int, bytes]:
        import requests  # noqa: PLC0415 - of the same extra as the client, which is here by now

        from model_provisioner.sources import oci_client  # noqa: PLC0415

        registry = self._ref.registry
        try:
            answer = self._client.manifest(self._repository, name)
        except oci_client.UnauthorizedError as error:
            raise self._unauthorized(str(error)) from error
        except oci_client.TooLargeError as error:
            limit = oci_manifest.MAX_BYTES >> 20
            message = f"the manifest of {self._shown} is larger than {limit} MiB"
            raise ModelError(Cause.MODEL_INVALID, message, _LIKE) from error
        except oci_client.PlainError as error:
            message = f"{self._shown} leads to {error}, which is to be spoken to without TLS"
            raise ModelError(Cause.POLICY_DENIED, message, _TLS) from error
        except requests.exceptions.SSLError as error:
            message = f"{registry} cannot prove who it is (TLS), so {self._shown} is not fetched"
            raise ModelError(Cause.MODEL_FETCH, message, _TLS) from error
        except (requests.ConnectionError, requests.Timeout, oci_client.SlowError) as error:
            message = f"{registry} cannot be reached, so {self._shown} is not fetched"
            hint = f"see that this machine reaches it: curl -I {self._client.origin}/v2/"
            raise ModelError(Cause.MODEL_FETCH, message, hint, retriable=True) from error
        except requests.RequestException as error:
            message = f"{registry} does not answer like a registry ({type(error).__name__})"
            raise ModelError(Cause.MODEL_FETCH, message, "see that the name of the registry is right") from error
        return answer.status, answer.body

    def _refused(self, name: str, status: int, body: bytes) -> ModelError:
        """What a registry's refusal means: with a code in its body, as the specification has it, or without."""
        codes = _codes(body)
        if status == 404 and "NAME_UNKNOWN" in codes:
            message = f"{self._ref.registry} has no repository {self._ref.repository}"
            return ModelError(Cause.MODEL_MISSING, message, "see that it is spelled right")
        if status == 404:
            there = f"oci://{self._ref.registry}/{self._ref.repository}"
            what = f"manifest {name}" if name.startswith("sha256:") else f"tag {name!r}"
            message = f"{there} has no {what}"
            hint = f"see which tags there are: oras repo tags {there.removeprefix('oci://')}"
            return ModelError(Cause.MODEL_MISSING, message, hint)
        if status in {401, 403}:
            return self._unauthorized(f"{self._ref.registry} answers {status}")
        message = f"{self._shown} cannot be fetched: the registry answers {status}"
        busy = status == 429 or status >= 500
        hint = "try again later" if busy else "see that the reference is right"
        return ModelError(Cause.MODEL_FETCH, message, hint, retriable=busy)

    def _unauthorized(self, how: str) -> ModelError:
        login = self._login
        if login is None:
            message = f"{self._shown} is not open to everybody ({how}), or does not exist"
        elif login.problem is not None:
            message = f"{self._shown} is not open to everybody ({how}), and {login.problem}"
        else:
            message = f"the login for {self._ref.registry} does not open {self._shown} ({how})"
        hint = f"log in as the user of the daemon: podman login {self._ref.registry}"
        if login is not None and login.problem is not None:
            hint += " --authfile ~/.config/containers/auth.json"
        return ModelError(Cause.MODEL_FETCH, message, hint)


_TLS = "plain http is spoken to this machine only: give the registry a certificate that this machine trusts"


class _Refusal(msgspec.Struct):
    code: str = ""


class _Refusals(msgspec.Struct):
    errors: list[_Refusal] = []


def _codes(body: bytes) -> frozenset[str]:
    try:
        return frozenset(each.code for each in msgspec.json.decode(body, type=_Refusals).errors)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()


def _place(ref: OciRef) -> tuple[str, str]:
    """The host that answers for a registry, and the repository as it knows it."""
    short = ref.registry == oci_auth.HUB and "/" not in ref.repository
    return oci_auth.server_of(ref.registry), f"library/{ref.repository}" if short else ref.repository


def _client(
    host: str, require: Callable[[str], Sequence[str]], plain: Callable[[str], bool], login: oci_auth.Login | None
) -> Client:
    try:
        from model_provisioner.sources.oci_client import Client  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        message = "oci:// needs the Python package oras, which is not installed"
        raise ModelError(Cause.MODEL_FETCH, message, install_hint("oras")) from error
    return Client(host, require=require, plain=plain, login=login)


def _login_files(environ: Mapping[str, str]) -> list[tuple[str, bytes]]:
    """Those login files that can be read, with their content."""
    found: list[tuple[str, bytes]] = []
    for name in oci_auth.login_files(environ):
        try:
            with Path(name).open("rb") as file:
                found.append((str(name), file.read(oci_auth.MAX_FILE_BYTES)))
        except OSError:
            continue
    return found
