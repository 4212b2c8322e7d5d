"""Pulls of ``s3:`` and ``oci:`` from real servers, through the provisioner: killed, resumed, changed, tampered with."""

import hashlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from contracts.engines import ModelFormat
from contracts.pools import Cause
from model_provisioner.errors import ModelError
from tests.integration.model_provisioner.object_pulls import catalog_at, child, pull
from tests.support.certificates import authority_and_server
from tests.support.object_store import nobody, object_store, use
from tests.support.oci_registry import Layer, digest_of, registry
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.valve import Valve, valve
from tests.unit.model_provisioner.heads import write_directory

pytestmark = [pytest.mark.req("MP-04"), pytest.mark.timeout(120), pytest.mark.slow]

STOP = 3 << 20
"""Bytes after which the line is held; models are larger."""


@dataclass
class Upstream:
    """One model at ``ref``, behind a tap. ``put`` puts files there in the place of what is there."""

    ref: str
    tap: Valve
    put: Callable[[dict[str, bytes]], None]


Opens = Callable[[Path, pytest.MonkeyPatch, AsyncExitStack], Awaitable[Upstream]]


async def in_a_store(root: Path, patch: pytest.MonkeyPatch, stack: AsyncExitStack) -> Upstream:
    store = stack.enter_context(object_store())
    tap = await stack.enter_async_context(valve(store.address))
    use(f"http://{tap.address}", patch, str(root))

    def put(files: dict[str, bytes]) -> None:
        for name, data in files.items():
            store.put(f"m/{name}", data)

    return Upstream("s3://models/m", tap, put)


async def in_a_registry(root: Path, patch: pytest.MonkeyPatch, stack: AsyncExitStack) -> Upstream:
    opened = await stack.enter_async_context(registry(root / "registry"))
    tap = await stack.enter_async_context(valve(opened.address))
    nobody(patch, str(root))

    def put(files: dict[str, bytes]) -> None:
        opened.push("org/m", "v1", [Layer(data, name) for name, data in files.items()])

    return Upstream(f"oci://{tap.address}/org/m:v1", tap, put)


@pytest.fixture(params=[in_a_store, pytest.param(in_a_registry, marks=pytest.mark.needs("docker-registry"))])
async def upstream(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Upstream]:
    opens: Opens = request.param
    async with AsyncExitStack() as stack:
        yield await opens(tmp_path, monkeypatch, stack)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Two models of some ten megabytes."""
    folder = tmp_path_factory.mktemp("models")
    one, two = (write_tiny_gguf(folder / f"{seed}.gguf", layers=4, dim=256, seed=seed) for seed in (1, 2))
    return one.read_bytes(), two.read_bytes()


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def killed_on_the_way(root: Path, upstream: Upstream) -> int:
    """Pull, and kill -9 it when the line is held; the bytes that are on the disk."""
    upstream.tap.shut_after(STOP)
    async with child(root, upstream.ref) as process:
        await upstream.tap.shut.wait()
        assert process.stdout is not None
        while b"downloaded" not in await process.stdout.readline():
            assert process.returncode is None
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
    upstream.tap.open()
    (part,) = (root / "models").rglob("*.part")
    return part.stat().st_size


async def test_a_pull_that_was_killed_goes_on_where_it_was(
    upstream: Upstream, tmp_path: Path, models: tuple[bytes, bytes]
) -> None:
    upstream.put({"haiku.gguf": models[0]})
    root = tmp_path / "root"
    here = await killed_on_the_way(root, upstream)
    lines: list[str] = []
    model = await pull(root, upstream.ref, lines.append)
    assert model.digest == sha256(models[0])
    assert Path(model.local_path).read_bytes() == models[0]
    assert any(f"bytes={here}-" in head for head in upstream.tap.asked("Range: "))
    assert len(models[0]) - here <= upstream.tap.passed < len(models[0]) - here + 100_000, (
        "what was here was fetched again"
    )
    assert any("going on after" in line for line in lines)
    upstream.tap.open()
    assert (await pull(root, upstream.ref)).digest == model.digest
    assert upstream.tap.heads == [], "what is here needs no network"
    (entry,) = catalog_at(root).list()
    assert (entry.ref, entry.fetched, entry.digest) == (upstream.ref, True, model.digest)


async def test_what_changed_meanwhile_is_fetched_anew(
    upstream: Upstream, tmp_path: Path, models: tuple[bytes, bytes]
) -> None:
    upstream.put({"haiku.gguf": models[0]})
    root = tmp_path / "root"
    await killed_on_the_way(root, upstream)
    upstream.put({"haiku.gguf": models[1]})
    model = await pull(root, upstream.ref)
    assert model.digest == sha256(models[1])
    assert Path(model.local_path).read_bytes() == models[1]
    assert upstream.tap.passed > len(models[1])


async def test_a_moved_reference_is_fetched_again_on_demand_only(
    upstream: Upstream, tmp_path: Path, models: tuple[bytes, bytes]
) -> None:
    upstream.put({"haiku.gguf": models[0]})
    root = tmp_path / "root"
    await pull(root, upstream.ref)
    upstream.put({"haiku.gguf": models[1]})
    assert (await pull(root, upstream.ref)).digest == sha256(models[0])
    lines: list[str] = []
    assert (await pull(root, upstream.ref, lines.append, refresh=True)).digest == sha256(models[1])
    assert any("has changed" in line for line in lines)


async def test_a_split_model_is_all_of_its_parts(upstream: Upstream, tmp_path: Path) -> None:
    folder = tmp_path / "split"
    folder.mkdir()
    write_tiny_gguf(folder / "big.gguf", split=8)
    parts = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    assert len(parts) > 2
    upstream.put(parts)
    model = await pull(tmp_path / "root", upstream.ref)
    assert (model.id, Path(model.local_path).name) == ("big", next(iter(parts)))
    assert {path.name: path.read_bytes() for path in Path(model.local_path).parent.iterdir()} == parts


async def test_a_directory_for_vllm_and_its_kind(upstream: Upstream, tmp_path: Path) -> None:
    offered = write_directory(tmp_path / "Llama-3.1-8B")
    files = {path.name: path.read_bytes() for path in sorted(offered.iterdir())}
    upstream.put(files)
    model = await pull(tmp_path / "root", upstream.ref)
    assert (model.format, model.id) == (ModelFormat.HF_DIRECTORY, "m")
    here = {path.name: path.read_bytes() for path in Path(model.local_path).iterdir()}
    assert here == {name: data for name, data in files.items() if name != "README.md"}
    assert (await pull(tmp_path / "root", str(offered))).digest == model.digest


async def test_another_digest_than_the_configured_one_is_refused(
    upstream: Upstream, tmp_path: Path, models: tuple[bytes, bytes]
) -> None:
    upstream.put({"haiku.gguf": models[0]})
    root = tmp_path / "root"
    with pytest.raises(ModelError) as caught:
        await pull(root, upstream.ref, digest=sha256(models[1]))
    assert caught.value.cause is Cause.MODEL_DIGEST
    assert catalog_at(root).list() == ()
    assert (await pull(root, upstream.ref, digest=sha256(models[0]))).digest == sha256(models[0])


@pytest.mark.needs("docker-registry")
@pytest.mark.req("MP-03")
async def test_a_layer_that_was_tampered_with_is_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: tuple[bytes, bytes]
) -> None:
    nobody(monkeypatch, str(tmp_path))
    async with registry(tmp_path / "registry") as opened:
        opened.push("m", "v1", [Layer(models[0], "haiku.gguf")])
        tampered = models[0][:-1] + bytes([models[0][-1] ^ 1])
        opened.stored(digest_of(models[0])).write_bytes(tampered)
        root = tmp_path / "root"
        with pytest.raises(ModelError) as caught:
            await pull(root, f"oci://{opened.address}/m:v1")
        assert caught.value.cause is Cause.MODEL_DIGEST
        assert "was set aside" in caught.value.message
        assert catalog_at(root).list() == ()
        assert not list((root / "models/oci").rglob("*.gguf"))
        (aside,) = [path for path in (root / "models/quarantine").iterdir() if path.suffix == ".gguf"]
        assert aside.read_bytes() == tampered
        with pytest.raises(ModelError, match="was set aside"):
            await pull(root, f"oci://{opened.address}/m:v1")
        opened.stored(digest_of(models[0])).write_bytes(models[0])
        aside.unlink()
        assert (await pull(root, f"oci://{opened.address}/m:v1")).digest == sha256(models[0])


async def test_a_token_that_expires_on_the_way_is_had_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: tuple[bytes, bytes]
) -> None:
    nobody(monkeypatch, str(tmp_path))
    data = models[0]
    manifest = json.dumps({"schemaVersion": 2, "layers": [Layer(data, "haiku.gguf").descriptor()]}).encode()
    tokens = ["first"]
    spans: list[tuple[str, str | None]] = []

    async def token(_: web.Request) -> web.Response:
        return web.json_response({"token": tokens[-1]})

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {tokens[-1]}":
            realm = f'Bearer realm="http://{request.host}/token",scope="repository:m:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": realm})
        if "/manifests/" in request.path:
            return web.Response(body=manifest)
        start = request.http_range.start or 0
        spans.append((tokens[-1], request.headers.get("Range")))
        span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        response = web.StreamResponse(status=206 if start else 200, headers={"ETag": '"x"'} | span)
        response.content_length = len(data) - start
        await response.prepare(request)
        if len(tokens) < 3:  # the line breaks, and the token is over
            await response.write(data[start : start + STOP])
            tokens.append(f"number {len(tokens)}")
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(data[start:])
        return response

    app = web.Application()
    app.router.add_get("/token", token)
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        lines: list[str] = []
        model = await pull(tmp_path / "root", f"oci://{server.host}:{server.port}/m", lines.append)
    assert Path(model.local_path).read_bytes() == data
    assert [name for name, _ in spans] == ["first", "number 1", "number 2"]
    assert [span is not None for _, span in spans] == [False, True, True]
    assert lines.count("what it was fetched with has expired: asking for something new") == 2


async def test_a_login_that_opens_the_manifest_alone_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody(monkeypatch, str(tmp_path))
    manifest = json.dumps({"schemaVersion": 2, "layers": [Layer(b"GGUF", "haiku.gguf").descriptor()]}).encode()
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=manifest) if "/manifests/" in request.path else web.Response(status=403)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as server:
        with pytest.raises(ModelError) as caught:
            await pull(tmp_path / "root", f"oci://{server.host}:{server.port}/m")
    assert "the server answers 403" in caught.value.message
    assert len(asked) == 2


async def test_a_store_with_a_certificate_that_this_machine_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, models: tuple[bytes, bytes]
) -> None:
    authority, context = authority_and_server(tmp_path, "127.0.0.1")

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=models[0], headers={"ETag": '"one"'})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    server = TestServer(app, scheme="https")
    await server.start_server(ssl=context)
    try:
        use(f"https://{server.host}:{server.port}", monkeypatch, str(tmp_path))
        async with child(tmp_path / "root", "s3://models/haiku.gguf") as process:
            _, said = await process.communicate()
        assert b"cannot prove who it is" in said
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        async with child(tmp_path / "root", "s3://models/haiku.gguf") as process:
            _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
    finally:
        await server.close()
