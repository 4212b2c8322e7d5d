"""Downloads in tests: a release to fetch, a server that misbehaves on demand, and a child process that fetches.

As a program (``python -m``): prepares the engine of ``--url`` and ``--sha256`` below ``--root``, and prints each line
of progress as it comes. ``--largest`` is the most bytes that a file may have, as on a disk that fills up.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import os
import random
import resource
import sys
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer
from tenacity import wait_none

from catalog_core.engines import FsEngineCatalog
from contracts.config import Binary, Engine, Mode, Policy, Pool, Profile, Provisioning
from contracts.engines import PreparedEngine
from contracts.pools import Gpu
from engine_provisioner.errors import ProvisionError
from engine_provisioner.host import Host
from engine_provisioner.providers.download import DownloadSource
from engine_provisioner.providers.native import NativeProvider
from engine_provisioner.transfer import Patience, Transfer

ALLOWED = Policy(allow_binary_downloads=True)
GPU = Gpu(
    index=0,
    uuid="GPU-0f2c0000-aaaa-bbbb-cccc-000000000000",
    name="x",
    vram_total_bytes=1,
    vram_used_bytes=0,
    driver="1",
)
SCRIPT = b"""#!/bin/sh
case $1 in
--version) echo 'version: 0.5.0-dev (build 11549, commit 9a9394a89)' ;;
--help) echo '-m, --model FNAME  model'; echo '--list-devices  list' ;;
--list-devices) echo '  CUDA0: NVIDIA GeForce RTX 3090 (24135 MiB, 23860 MiB free)' ;;
esac
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def release(size: int = 0) -> bytes:
    """A tar.gz with a llama-server that answers, and so many bytes that cannot be compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, content in (
            ("llama-b1/bin/llama-server", SCRIPT),
            ("llama-b1/weights", random.Random(size).randbytes(size)),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def download_pool(url: str | None, digest: str | None, **parts: object) -> Pool:
    provisioning = Provisioning(mode=Mode.BINARY, binary=Binary(url=url, sha256=digest))
    chosen = {"id": "gpu0", "engine": Engine.LLAMACPP, "model": "m", "devices": (0,), "provisioning": provisioning}
    return Pool(**(chosen | parts))  # type: ignore[arg-type]


def host_at(root: Path, policy: Policy = ALLOWED) -> Host:
    """A machine with a GPU and nothing on its PATH."""
    return Host(
        environ={"PATH": "/nowhere"},
        catalog=FsEngineCatalog(root / "catalog"),
        cache=root / "cache",
        policy=policy,
        gpus=lambda: (GPU,),
    )


def provider(host: Host, silence_s: float = 300.0) -> NativeProvider:
    """As the registry makes it, without the pauses between attempts."""
    transfer = Transfer(host, patience=Patience(silence_s=silence_s), pause=wait_none())
    return NativeProvider(host, Profile.HOME, DownloadSource(host, transfer))


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Origin:
    """A server whose answers are the test's; it notes what it was asked."""

    base: str = ""
    answers: list[Answer] = field(default_factory=list)
    """Used up one by one; the last one stays."""
    asked: list[web.BaseRequest] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.base}/llama.tar.gz"

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)


@asynccontextmanager
async def serving(*answers: Answer) -> AsyncIterator[Origin]:
    """A server on a real socket of the loopback."""
    origin = Origin(answers=list(answers))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", origin.answer)
    async with TestServer(app) as server:
        origin.base = str(server.make_url("")).rstrip("/")
        yield origin


def whole(data: bytes, **headers: str) -> Answer:
    """The file, or the part that is asked for, as a web server gives it that knows its ETag."""

    async def answer(request: web.Request) -> web.StreamResponse:
        start = request.http_range.start or 0
        if start and request.headers.get("If-Range") in headers.values():
            span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            return web.Response(status=206, body=data[start:], headers=headers | span)
        return web.Response(body=data, headers=headers)

    return answer


def cut_after(data: bytes, count: int, going: asyncio.Event, **headers: str) -> Answer:
    """The first ``count`` bytes of the file, and the end of the connection when some of them have arrived."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers | {"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:count])
        await going.wait()
        assert request.transport is not None
        request.transport.close()
        return response

    return answer


def plain(status: int, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers=headers)

    return answer


async def fetch(arguments: argparse.Namespace) -> PreparedEngine:
    host = host_at(arguments.root)
    pool = download_pool(arguments.url, arguments.sha256)
    return await provider(host).ensure(pool, lambda line: print(line, flush=True))  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--sha256", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--largest", type=int)
    arguments = parser.parse_args()
    if arguments.largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (arguments.largest, arguments.largest))
    try:
        asyncio.run(fetch(arguments))
    except ProvisionError as error:
        sys.exit(error.render())


@asynccontextmanager
async def child(root: Path, url: str, digest: str, *more: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that fetches; gone at the end, whatever happens."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __spec__.name, "--url", url, "--sha256", digest, "--root", str(root), *more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_with(process: asyncio.subprocess.Process, words: str) -> str:
    """The first line of a process that has these words."""
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(40):
        while line := (await process.stdout.readline()).decode():
            said += line
            if words in line:
                return line
    raise AssertionError(f"{words!r} was never said:\n{said}")


if __name__ == "__main__":
    main()
