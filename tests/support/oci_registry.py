"""A real registry (Debian's docker-registry) on the loopback, open, with a password, or with tokens; and what is in it.

Artifacts are pushed over the registry's own HTTP API. Its files can be changed behind its back.
"""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import http.client
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
OCTETS = "application/octet-stream"
TITLE = "org.opencontainers.image.title"
USER, PASSWORD = "user", "hush-hush-5"
HTPASSWD = "user:$2b$04$abcdefghijklmnopqrstuueGv6nQ13Vm325C5Gfk/hxE535nLNEpC\n"
_LISTENING = re.compile(rb"listening on (127\.0\.0\.1:\d+)")


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True)
class Layer:
    """One layer to push; without a title it has no annotations."""

    data: bytes
    title: str | None = None
    media_type: str = OCTETS

    def descriptor(self) -> dict[str, Any]:
        given = {"mediaType": self.media_type, "digest": digest_of(self.data), "size": len(self.data)}
        return given | ({"annotations": {TITLE: self.title}} if self.title is not None else {})


@dataclass
class OciRegistry:
    """A registry that answers at ``address`` and keeps its files below ``root``."""

    address: str
    root: Path
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with each push."""

    def push(
        self, repository: str, tag: str, layers: Sequence[Layer], config: bytes = b"{}", **manifest: object
    ) -> str:
        """Push an artifact; its digest."""
        for data in [config, *(layer.data for layer in layers)]:
            self._blob(repository, data)
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.unknown.config.v1+json",
                "digest": digest_of(config),
                "size": len(config),
            },
            "layers": [layer.descriptor() for layer in layers],
        }
        return self.manifest(repository, tag, document | manifest)

    def index(self, repository: str, tag: str, digests: Mapping[str, Mapping[str, str]]) -> str:
        """Push an index of manifests that are here, each with its annotations."""
        manifests = [
            {"mediaType": MANIFEST, "digest": digest, "size": 1, "annotations": dict(annotations)}
            for digest, annotations in digests.items()
        ]
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        return self.manifest(repository, tag, document)

    def manifest(self, repository: str, tag: str, document: Mapping[str, Any]) -> str:
        """Push a manifest as it stands."""
        body = json.dumps(document).encode()
        self._ask("PUT", f"/v2/{repository}/manifests/{tag}", 201, body, {"Content-Type": document["mediaType"]})
        return digest_of(body)

    def stored(self, digest: str) -> Path:
        """Where the registry keeps the bytes of a blob or a manifest."""
        bare = digest.removeprefix("sha256:")
        return self.root / "docker/registry/v2/blobs/sha256" / bare[:2] / bare / "data"

    def _blob(self, repository: str, data: bytes) -> None:
        place = self._ask("POST", f"/v2/{repository}/blobs/uploads/", 202)
        path = place.partition(self.address)[2]
        path += f"{'&' if '?' in path else '?'}digest={digest_of(data)}"
        self._ask("PUT", path, 201, data, {"Content-Type": OCTETS})

    def _ask(
        self, method: str, path: str, expected: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> str:
        connection = http.client.HTTPConnection(self.address, timeout=50)
        try:
            connection.request(method, path, body, {**self.headers, **(headers or {})})
            answer = connection.getresponse()
            said = answer.read()
            assert answer.status == expected, f"{method} {path}: {answer.status} {said!r}"
            return answer.headers.get("Location", "")
        finally:
            connection.close()


@asynccontextmanager
async def registry(root: Path, auth: str = "{}") -> AsyncIterator[OciRegistry]:
    """A registry, open to everybody unless ``auth`` (YAML, one line) says otherwise."""
    root.mkdir(parents=True)
    config = root / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {root / 'files'}}}}}\n"
        f'http: {{addr: "127.0.0.1:0"}}\n{"" if auth == "{}" else f"auth: {auth}"}\n'
    )
    process = await asyncio.create_subprocess_exec(
        *("docker-registry", "serve", config),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"},
    )
    try:
        async with asyncio.timeout(50):
            address = await _address(process)
        async with asyncio.TaskGroup() as group:
            assert process.stderr is not None
            reading = group.create_task(process.stderr.read())  # else it would wait for somebody to read
            try:
                yield OciRegistry(address, root / "files")
            finally:
                reading.cancel()
    finally:
        process.kill()
        await process.communicate()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = b""
    while line := await process.stderr.readline():
        said += line
        if found := _LISTENING.search(line):
            return found[1].decode()
    raise AssertionError(said.decode())


@asynccontextmanager
async def registry_with_password(root: Path) -> AsyncIterator[OciRegistry]:
    """One that only ``USER`` with ``PASSWORD`` may use."""
    root.mkdir(parents=True)
    passwords = root / "htpasswd"
    passwords.write_text(HTPASSWD)
    async with registry(root / "registry", f"{{htpasswd: {{realm: lab, path: {passwords}}}}}") as opened:
        opened.headers["Authorization"] = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
        yield opened


class TokenServer:
    """Where a registry's tokens are had: for everybody what is in ``public``, for ``USER`` everything."""

    def __init__(self) -> None:
        self.public: set[str] = set()
        self.asked: list[dict[str, str]] = []
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens")])
        now = dt.datetime.now(dt.UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    async def answer(self, request: web.Request) -> web.Response:
        said = request.headers.get("Authorization", "")
        self.asked.append({"authorization": said, **request.query})
        _, repository, actions = request.query["scope"].split(":")
        known = said == f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
        if said and not known:
            return web.json_response({"details": "wrong password"}, status=401)
        allowed = actions.split(",") if known or repository in self.public else []
        return web.json_response({"token": self.token(repository, allowed)})

    def token(self, repository: str, actions: Sequence[str]) -> str:
        """A token that the registry believes."""
        now = int(dt.datetime.now(dt.UTC).timestamp())
        certificate = base64.b64encode(self._certificate.public_bytes(serialization.Encoding.DER)).decode()
        head = {"typ": "JWT", "alg": "ES256", "x5c": [certificate]}
        claims = {
            "iss": "lab",
            "aud": "registry",
            "sub": "",
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": [{"type": "repository", "name": repository, "actions": list(actions)}],
        }
        signed = f"{_bare(json.dumps(head).encode())}.{_bare(json.dumps(claims).encode())}"
        r, s = utils.decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_bare(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _bare(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@asynccontextmanager
async def registry_with_tokens(root: Path) -> AsyncIterator[tuple[OciRegistry, TokenServer]]:
    """One that believes the tokens of a server beside it."""
    root.mkdir(parents=True)
    tokens = TokenServer()
    (root / "tokens.pem").write_bytes(tokens.pem)
    app = web.Application()
    app.router.add_get("/token", tokens.answer)
    async with TestServer(app) as server:
        auth = (
            f"{{token: {{realm: '{server.make_url('/token')}', service: registry, issuer: lab,"
            f" rootcertbundle: {root / 'tokens.pem'}}}}}"
        )
        async with registry(root / "registry", auth) as opened:
            yield opened, tokens
