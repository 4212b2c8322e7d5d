"""``oci://`` against a real registry (docker-registry), as far as finding goes; and against servers that misbehave."""

import asyncio
import base64
import json
import logging
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from contracts.config import Outbound, Policy
from contracts.pools import Cause
from daemon_core.python_packages import install_hint
from model_provisioner.errors import FetchError, ModelError, Trouble
from model_provisioner.outbound_gate import OutboundGate
from model_provisioner.reference import OciRef
from model_provisioner.sources.base import Located, RemoteFile
from model_provisioner.sources.oci import OciSource
from tests.plugins.failures import OperatorSees
from tests.support.certificates import authority_and_server
from tests.support.oci_registry import (
    PASSWORD,
    USER,
    Layer,
    OciRegistry,
    digest_of,
    registry,
    registry_with_password,
    registry_with_tokens,
)

pytestmark = pytest.mark.req("MP-04")
real = pytest.mark.needs("docker-registry")

DATA = b"GGUF" + bytes(range(256))
HAIKU = Layer(DATA, "haiku.gguf")
LOOPBACK = Policy(outbound=Outbound(allow=("127.0.0.1",)))


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[OciRegistry]:
    async with registry(tmp_path / "registry") as found:
        yield found


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def ref(address: str, name: str) -> OciRef:
    """From ``repository[:tag][@digest]``."""
    name, _, digest = name.partition("@")
    repository, _, tag = name.partition(":")
    return OciRef(registry=address, repository=repository, tag_name=tag or None, digest=digest or None)


async def locate(address: str, name: str, home: Path, policy: Policy = LOOPBACK) -> Located:
    source = OciSource(OutboundGate(policy=policy).require, environ={"HOME": str(home), "PATH": str(home)})
    return await source.locate(ref(address, name))


async def refused(address: str, name: str, home: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await locate(address, name, home)
    assert PASSWORD not in caught.value.render()
    assert caught.value.hint
    return caught.value


async def fetched(file: RemoteFile, **headers: str) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(file.url, headers=dict(file.headers) | headers) as response,
    ):
        return response.status, await response.read()


def log_in(home: Path, address: str, password: str = PASSWORD) -> None:
    folder = home / ".docker"
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))


# --- what a reference comes to ----------------------------------------------------------------------------------------


@real
async def test_a_file_by_tag_by_digest_and_by_nothing(opened: OciRegistry, tmp_path: Path) -> None:
    digest = opened.push("org/haiku", "v1", [Layer(b"read me", "README.md"), HAIKU])
    opened.push("org/haiku", "latest", [HAIKU, Layer(b"other", "README.md")])
    located = await locate(opened.address, "org/haiku:v1", tmp_path)
    (file,) = located.files
    assert (located.entry, file.name, file.size_bytes) == ("haiku.gguf", "haiku.gguf", len(DATA))
    assert file.sha256 == digest_of(DATA).removeprefix("sha256:")
    assert located.revision == digest.removeprefix("sha256:")
    assert located.source == f"oci://{opened.address}/org/haiku@{digest}"
    assert await locate(opened.address, f"org/haiku@{digest}", tmp_path) == located
    assert await locate(opened.address, f"org/haiku:latest@{digest}", tmp_path) == located
    assert (await locate(opened.address, "org/haiku", tmp_path)).revision != located.revision
    assert await fetched(file) == (200, DATA)


@real
async def test_a_blob_is_served_in_ranges_that_its_etag_holds_for(opened: OciRegistry, tmp_path: Path) -> None:
    opened.push("haiku", "v1", [HAIKU])
    (file,) = (await locate(opened.address, "haiku:v1", tmp_path)).files
    async with aiohttp.ClientSession() as session, session.get(file.url, allow_redirects=False) as response:
        etag = response.headers["ETag"]
    assert etag == f'"{digest_of(DATA)}"'
    assert await fetched(file, Range="bytes=200-", **{"If-Range": etag}) == (206, DATA[200:])
    assert await fetched(file, Range="bytes=200-", **{"If-Range": '"another"'}) == (200, DATA)


@real
async def test_dockers_split_and_directory_models(opened: OciRegistry, tmp_path: Path) -> None:
    gguf = "application/vnd.docker.ai.gguf.v3"
    config = {"mediaType": "application/vnd.docker.ai.model.config.v0.1+json", "digest": digest_of(b"{}"), "size": 2}
    opened.push("ai/smollm2", "360M", [Layer(DATA, None, gguf), Layer(b"MIT", None, "text/plain")], config=b"{}")
    assert (await locate(opened.address, "ai/smollm2:360M", tmp_path)).entry == "smollm2-360M.gguf"
    parts = [f"big-{number:05}-of-00002.gguf" for number in (1, 2)]
    opened.push("ai/big", "latest", [Layer(part.encode(), part) for part in reversed(parts)], subject=config)
    located = await locate(opened.address, "ai/big", tmp_path)
    assert ([file.name for file in located.files], located.entry) == (parts, parts[0])
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    opened.push("ai/phi", "latest", [Layer(name.encode(), name) for name in names])
    located = await locate(opened.address, "ai/phi", tmp_path)
    assert ([file.name for file in located.files], located.entry) == (names, None)


@real
async def test_the_one_model_of_an_index(opened: OciRegistry, tmp_path: Path) -> None:
    model = opened.push("haiku", "model", [HAIKU])
    image = opened.push("haiku", "image", [Layer(b"tar", None, "application/vnd.oci.image.layer.v1.tar+gzip")])
    other = opened.push("haiku", "other", [Layer(b"other", "other.gguf")])
    attested = {"vnd.docker.reference.type": "attestation-manifest"}
    opened.index("haiku", "one", {image: {}, model: {}, other: attested})
    assert (await locate(opened.address, "haiku:one", tmp_path)).revision == model.removeprefix("sha256:")
    opened.index("haiku", "two", {model: {}, other: {}})
    error = await refused(opened.address, "haiku:two", tmp_path)
    assert (error.cause, model in error.message, other in error.message) == (Cause.MODEL_INVALID, True, True)
    assert error.hint == f"write which one: oci://{opened.address}/haiku@{model}"
    opened.index("haiku", "none", {image: {}})
    assert "is a container image" in (await refused(opened.address, "haiku:none", tmp_path)).message


@real
@pytest.mark.req("MP-02")
async def test_what_is_not_there_or_no_model(opened: OciRegistry, tmp_path: Path, operator_sees: OperatorSees) -> None:
    opened.push("haiku", "v1", [HAIKU])
    opened.push("image", "v1", [Layer(b"tar", None, "application/vnd.docker.image.rootfs.diff.tar.gzip")])
    opened.push("evil", "v1", [Layer(DATA, "../../.ssh/x.gguf")])
    missing = await refused(opened.address, "nothing:v1", tmp_path)
    assert (missing.cause, "/nothing has no tag 'v1'" in missing.message) == (Cause.MODEL_MISSING, True)
    missing = await refused(opened.address, "haiku:v2", tmp_path)
    assert (missing.cause, missing.message) == (Cause.MODEL_MISSING, f"oci://{opened.address}/haiku has no tag 'v2'")
    operator_sees("model/oci-no-such-tag", missing.render())
    digest = f"sha256:{'0' * 64}"
    missing = await refused(opened.address, f"haiku@{digest}", tmp_path)
    assert missing.message == f"oci://{opened.address}/haiku has no manifest {digest}"
    image = await refused(opened.address, "image:v1", tmp_path)
    assert (image.cause, "is a container image" in image.message) == (Cause.MODEL_INVALID, True)
    operator_sees("model/oci-container-image", image.render())
    evil = await refused(opened.address, "evil:v1", tmp_path)
    assert "not safe on a disk" in evil.message
    operator_sees("model/oci-unsafe-name", evil.render())


@real
@pytest.mark.req("MP-03")
async def test_a_manifest_that_was_changed_behind_the_registrys_back_is_refused(
    opened: OciRegistry, tmp_path: Path
) -> None:
    digest = opened.push("haiku", "v1", [HAIKU])
    other = opened.push("haiku", "v2", [Layer(b"other", "haiku.gguf")])
    opened.stored(digest).write_bytes(opened.stored(other).read_bytes())
    with pytest.raises(ModelError):
        await locate(opened.address, f"haiku@{digest}", tmp_path)


# --- who we are -------------------------------------------------------------------------------------------------------


@real
async def test_a_registry_with_a_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, operator_sees: OperatorSees
) -> None:
    async with registry_with_password(tmp_path / "registry") as closed:
        closed.push("haiku", "v1", [HAIKU])
        error = await refused(closed.address, "haiku:v1", tmp_path)
        assert "is not open to everybody" in error.message
        operator_sees("model/oci-login", error.render())
        assert f"podman login {closed.address}" in error.hint
        log_in(tmp_path, closed.address, "wrong")
        error = await refused(closed.address, "haiku:v1", tmp_path)
        assert f"the login for {closed.address} does not open" in error.message
        operator_sees("model/oci-wrong-login", error.render())
        log_in(tmp_path, closed.address)
        with caplog.at_level(logging.DEBUG):
            located = await locate(closed.address, "haiku:v1", tmp_path)
        (file,) = located.files
        assert await fetched(file) == (200, DATA)
        assert (await fetched(RemoteFile(name=file.name, url=file.url)))[0] == 401
        secret = file.headers[0][1].partition(" ")[2]
        for text in (repr(located), caplog.text):
            assert secret not in text


@real
async def test_a_registry_with_tokens(tmp_path: Path) -> None:
    async with registry_with_tokens(tmp_path / "registry") as (closed, tokens):
        closed.headers["Authorization"] = f"Bearer {tokens.token('org/haiku', ['push', 'pull'])}"
        closed.push("org/haiku", "v1", [HAIKU])
        assert "is not open to everybody" in (await refused(closed.address, "org/haiku:v1", tmp_path)).message
        tokens.public.add("org/haiku")
        (file,) = (await locate(closed.address, "org/haiku:v1", tmp_path)).files
        assert await fetched(file) == (200, DATA)
        tokens.public.clear()
        log_in(tmp_path, closed.address, "wrong")
        error = await refused(closed.address, "org/haiku:v1", tmp_path)
        assert "does not open" in error.message
        log_in(tmp_path, closed.address)
        (file,) = (await locate(closed.address, "org/haiku:v1", tmp_path)).files
        assert await fetched(file) == (200, DATA)
        assert {asked["scope"] for asked in tokens.asked} == {"repository:org/haiku:pull"}


@real
async def test_a_credential_helper_is_never_started(tmp_path: Path, operator_sees: OperatorSees) -> None:
    async with registry_with_password(tmp_path / "registry") as closed:
        helper = tmp_path / "docker-credential-trap"
        helper.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
        helper.chmod(0o755)
        (tmp_path / ".docker").mkdir()
        (tmp_path / ".docker/config.json").write_text('{"credsStore": "trap"}')
        error = await refused(closed.address, "haiku:v1", tmp_path)
        assert "keeps logins in the credential helper 'trap', which is not asked" in error.message
        assert not (tmp_path / "started").exists()
        operator_sees("model/oci-credential-helper", error.render())


# --- where it goes ----------------------------------------------------------------------------------------------------

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """A registry of the test's own, which notes what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.address = ""
        self.asked: list[web.BaseRequest] = []
        self._answer = answer

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        return await self._answer(request)


@asynccontextmanager
async def serving(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(answer)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    running = TestServer(app, scheme="https" if tls else "http")
    await running.start_server(ssl=tls)
    try:
        server.address = f"{running.host}:{running.port}"
        yield server
    finally:
        await running.close()


def manifest() -> bytes:
    return json.dumps({"schemaVersion": 2, "layers": [HAIKU.descriptor()]}).encode()


async def gives_manifest(_: web.Request) -> web.Response:
    return web.Response(body=manifest())


def says(status: int, body: bytes = b"", **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return answer


@pytest.mark.req("HP-23")
async def test_policy_is_asked_of_a_registry_and_of_where_it_redirects(tmp_path: Path) -> None:
    async with serving(gives_manifest) as other:
        elsewhere = other.address.replace("127.0.0.1", "localhost")
        async with serving(says(307, Location=f"http://{elsewhere}/manifest")) as first:
            with pytest.raises(FetchError) as caught:
                await locate(first.address, "haiku", tmp_path, Policy())
            assert "127.0.0.1 may not be reached" in caught.value.message
            assert first.asked == []
            with pytest.raises(FetchError) as caught:
                await locate(first.address, "haiku", tmp_path)
            assert caught.value.trouble is Trouble.POLICY
            assert "localhost may not be reached" in caught.value.message
            assert other.asked == []
            allowed = Policy(outbound=Outbound(allow=("127.0.0.1", "localhost")))
            assert (await locate(first.address, "haiku", tmp_path, allowed)).entry == "haiku.gguf"


@pytest.mark.req("HP-23")
async def test_policy_is_asked_of_where_tokens_are_had(tmp_path: Path) -> None:
    log_in(tmp_path, "127.0.0.1")
    async with serving(says(200, b'{"token": "t"}')) as tokens:
        realm = f'Bearer realm="http://{tokens.address.replace("127.0.0.1", "localhost")}/token"'
        async with serving(says(401, WWW_Authenticate=realm)) as closed:
            with pytest.raises(FetchError) as caught:
                await locate(closed.address, "haiku", tmp_path)
            assert "localhost may not be reached" in caught.value.message
            assert tokens.asked == []


async def test_a_password_is_not_sent_to_where_a_registry_redirects(tmp_path: Path) -> None:
    async with serving(gives_manifest) as other:

        async def answer(request: web.Request) -> web.Response:
            if "Authorization" not in request.headers:
                return web.Response(status=401, headers={"WWW-Authenticate": "Basic realm=x"})
            return web.Response(status=307, headers={"Location": f"http://{other.address}/manifest"})

        async with serving(answer) as first:
            log_in(tmp_path, first.address)
            (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {PASSWORD}\n")
            (tmp_path / ".netrc").chmod(0o600)
            await locate(first.address, "haiku", tmp_path)
            assert "Authorization" in first.asked[-1].headers
            assert "Authorization" not in other.asked[-1].headers
            assert "Authorization" not in first.asked[0].headers


@pytest.mark.req("HP-23")
async def test_nothing_is_sent_without_tls_to_another_machine(tmp_path: Path) -> None:
    def require(_: str) -> tuple[str, ...]:
        return ("127.0.0.1",)

    async with serving(says(401, WWW_Authenticate='Bearer realm="http://tokens.example/token"')) as closed:
        log_in(tmp_path, closed.address)
        source = OciSource(require, environ={"HOME": str(tmp_path)})
        with pytest.raises(ModelError) as caught:
            await source.locate(ref(closed.address, "haiku"))
        assert caught.value.cause is Cause.POLICY_DENIED
        assert "leads to tokens.example, which is to be spoken to without TLS" in caught.value.message


@pytest.mark.req("HP-23")
async def test_what_was_judged_is_connected_to_and_must_prove_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, context = authority_and_server(tmp_path, "registry.test")
    async with serving(gives_manifest, context) as proved:
        port = proved.address.rpartition(":")[2]
        asked: list[str] = []

        def require(url: str) -> tuple[str, ...]:
            asked.append(url)
            return ("127.0.0.2", "127.0.0.1")  # nobody is at the first

        source = OciSource(require, environ={"HOME": str(tmp_path)})
        with pytest.raises(ModelError, match="cannot prove who it is"):
            await source.locate(ref(f"registry.test:{port}", "haiku"))
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        located = await source.locate(ref(f"registry.test:{port}", "haiku"))
        assert located.files[0].url.startswith(f"https://registry.test:{port}/v2/haiku/blobs/sha256:")
        assert proved.asked[-1].headers["Host"] == f"registry.test:{port}"
        assert set(asked) == {f"https://registry.test:{port}/v2/haiku/manifests/latest"}
        with pytest.raises(ModelError, match="cannot prove who it is"):
            await source.locate(ref(f"other.test:{port}", "haiku"))


@pytest.mark.req("HP-23")
async def test_behind_a_proxy_it_is_the_proxy_that_resolves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, context = authority_and_server(tmp_path, "registry.test")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with serving(gives_manifest, context) as proved, proxy_to(proved.address) as (address, asked):
        monkeypatch.setenv("https_proxy", f"http://{address}")
        located = await locate("registry.test", "haiku", tmp_path, Policy())
        assert located.entry == "haiku.gguf"
        assert [line.rpartition(" ")[0] for line in asked] == ["CONNECT registry.test:443"]
        with pytest.raises(FetchError) as caught:
            await locate("192.168.1.1:5000", "haiku", tmp_path, Policy())
        assert caught.value.trouble is Trouble.POLICY


@asynccontextmanager
async def proxy_to(target: str) -> AsyncIterator[tuple[str, list[str]]]:
    """A proxy that connects everybody to one server, and notes what it was asked for."""
    asked: list[str] = []
    served: list[asyncio.Event] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(over := asyncio.Event())
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head.partition(b"\r\n")[0].decode())
        host, _, port = target.rpartition(":")
        upstream, to_server = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.0 200 connected\r\n\r\n")
        await asyncio.gather(pump(reader, to_server), pump(upstream, writer), return_exceptions=True)
        for each in (to_server, writer):
            each.close()
        over.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}", asked
        for over in served:  # what is still open when the loop ends would be told as left open
            await over.wait()
    finally:
        server.close()
        await server.wait_closed()


# --- what else can go wrong -------------------------------------------------------------------------------------------


async def too_large(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(1000):  # 64 MB, of which only the first are ever read
        try:
            await response.write(bytes(64_000))
        except ConnectionError:
            break
    return response


@pytest.mark.req("MP-02")
@pytest.mark.parametrize(
    ("answer", "cause", "words"),
    [
        (too_large, Cause.MODEL_INVALID, "is larger than 4 MiB"),
        (says(200, b"<html>"), Cause.MODEL_INVALID, "cannot be read"),
        (says(404, b'{"errors": [{"code": "NAME_UNKNOWN"}]}'), Cause.MODEL_MISSING, "has no repository haiku"),
        (says(404, b"<html>"), Cause.MODEL_MISSING, "has no tag 'latest'"),
        (says(429), Cause.MODEL_FETCH, "the registry answers 429"),
        (says(503), Cause.MODEL_FETCH, "the registry answers 503"),
        (says(403), Cause.MODEL_FETCH, "is not open to everybody"),
        (says(401), Cause.MODEL_FETCH, "asks for neither a token nor a password"),
        (says(401, WWW_Authenticate="Negotiate"), Cause.MODEL_FETCH, "neither a token nor a password"),
        (says(401, WWW_Authenticate='Bearer realm="nonsense"'), Cause.MODEL_FETCH, "does not answer like a registry"),
        (says(307, Location="http://127.0.0.1:1/" + "x" * 10), Cause.MODEL_FETCH, "cannot be reached"),
    ],
)
async def test_a_registrys_refusals_and_nonsense(answer: Answer, cause: Cause, words: str, tmp_path: Path) -> None:
    async with serving(answer) as server:
        error = await refused(server.address, "haiku", tmp_path)
    assert (error.cause, words in error.message) == (cause, True), error.message
    assert error.retriable is any(each in words for each in ("429", "503", "reached"))


@pytest.mark.req("MP-02")
@pytest.mark.parametrize(
    "body", [b"", b"[]", b'"x"', b"{}", b'{"token": ["x"]}', b'{"token": "a\\r\\nX-Evil: 1"}', b"\xff"]
)
async def test_a_token_server_that_says_nonsense(body: bytes, tmp_path: Path) -> None:
    async with (
        serving(says(200, body)) as tokens,
        serving(says(401, WWW_Authenticate=f'Bearer realm="http://{tokens.address}/t"')) as server,
    ):
        error = await refused(server.address, "haiku", tmp_path)
    assert error.cause is Cause.MODEL_FETCH


@pytest.mark.req("MP-02")
async def test_a_registry_that_redirects_forever(tmp_path: Path) -> None:
    async with serving(says(307, Location="/again")) as server:
        error = await refused(server.address, "haiku", tmp_path)
        assert len(server.asked) == 6
    assert error.cause is Cause.MODEL_FETCH


@pytest.mark.req("MP-02")
async def test_a_registry_that_cannot_be_reached(tmp_path: Path, operator_sees: OperatorSees) -> None:
    error = await refused(f"127.0.0.1:{unused_port()}", "haiku", tmp_path)
    assert (error.cause, "cannot be reached" in error.message) == (Cause.MODEL_FETCH, True)
    operator_sees("model/oci-unreachable", error.render())


@pytest.mark.req("MP-02")
def test_without_the_extra_it_is_said_how_to_get_it(operator_sees: OperatorSees) -> None:
    script = (
        "import asyncio, sys\n"
        "sys.modules['oras'] = None\n"
        "from model_provisioner.errors import ModelError\n"
        "from model_provisioner.reference import OciRef\n"
        "from model_provisioner.sources.oci import OciSource\n"
        "try: asyncio.run(OciSource(lambda _: ()).locate(OciRef(registry='r.test', repository='x')))\n"
        "except ModelError as error: print(error.render())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout == (
        f"model_fetch: oci:// needs the Python package oras, which is not installed\n  hint: {install_hint('oras')}\n"
    )
    operator_sees("model/oci-not-installed", done.stdout)
