"""Fetching a large file takes little memory: all of it is fetched, hashed, looked at and catalogued."""

import re
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.integration.model_provisioner.object_pulls import child
from tests.support.object_store import use
from tests.unit.model_provisioner.heads import STRING, U32, head, key, number, tensor, text

SIZE = 2 << 30
LIMIT_KIB = 100 << 10
PIECE = bytes(1 << 20)
HEAD = head(
    key("general.architecture", STRING, text("llama")),
    key("llama.block_count", U32, number(U32, 1)),
    key("llama.context_length", U32, number(U32, 256)),
    tensors=(tensor("blk.0.attn_q.weight", [1 << 14, 1 << 15]),),
).ljust(4096, b"\0")
TOTAL = SIZE + len(HEAD)


async def answer(request: web.Request) -> web.StreamResponse:
    """An object of zeros behind a head."""
    response = web.StreamResponse(headers={"ETag": '"zeros"', "Content-Length": str(TOTAL)})
    await response.prepare(request)
    if request.method == "GET":
        await response.write(HEAD)
        for _ in range(SIZE // len(PIECE)):
            await response.write(PIECE)
    return response


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.req("MP-04")
async def test_two_gigabytes_come_through_a_hundred_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    root = tmp_path / "root"
    async with TestServer(app) as server:
        use(f"http://{server.host}:{server.port}", monkeypatch, str(tmp_path))
        async with child(root, "s3://models/zeros.gguf", measured=True) as process:
            said, wrong = await process.communicate()
    assert process.returncode == 0, wrong.decode()
    found = re.search(rb"^memory: (\d+) KiB before, (\d+) KiB at most$", said, re.MULTILINE)
    assert found is not None, said.decode()
    before, most = int(found[1]), int(found[2])
    assert most - before < LIMIT_KIB
    (fetched,) = (root / "models/s3").rglob("*.gguf")
    assert fetched.stat().st_size == TOTAL
    fetched.unlink()  # a folder of a failed test is kept, and this one is large
