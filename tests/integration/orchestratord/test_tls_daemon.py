"""The real orchestratord with a certificate: refused at start where it is no good, read again on SIGHUP."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support.certificates import authority_and_server
from tests.support.installation import TOKEN, Daemon

pytestmark = pytest.mark.req("OP-02", "ORCH-3810")

CONFIG = """
server: {{bind: "127.0.0.1:0", tls: {{cert_file: cert.pem, key_file: key.pem}}}}
pools: [{{id: p, engine: openai, model: m, provisioning: {{mode: external, external: {{url: "http://127.0.0.1:1"}}}}}}]
paths: {{cache: {folder}/cache, data: {folder}/data, state: {folder}/state, runtime: {folder}/runtime}}
logging: {{format: json}}
"""


@asynccontextmanager
async def orchestratord(folder: Path) -> AsyncIterator[Daemon]:
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder))
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environ = kept | {"HOME": str(folder), "LLORCH_API_TOKEN": TOKEN}
    daemon = await Daemon("orchestratord", folder / "config.yaml", environ).start()
    try:
        yield daemon
    finally:
        await daemon.close()


async def health(url: str, authority: Path) -> int:
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=authority))
    async with aiohttp.ClientSession(connector=connector) as client, client.get(f"{url}/healthz") as answer:
        return answer.status


async def test_a_certificate_is_read_again_on_sighup(tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    authority_and_server(tmp_path, "127.0.0.1", days=100)
    authority_and_server(new, "127.0.0.1", days=100)
    async with orchestratord(tmp_path) as daemon:
        url = (await daemon.logged("listening on https://"))["message"].split()[2].removesuffix(",")
        assert await health(url, tmp_path / "authority.pem") == 200
        for name in ("cert.pem", "key.pem"):
            shutil.copy(new / name, tmp_path / name)
        os.kill(daemon.pid, signal.SIGHUP)
        await daemon.logged("cert.pem", "again")
        assert await health(url, new / "authority.pem") == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await health(url, tmp_path / "authority.pem")


async def test_a_key_that_others_can_read_keeps_the_daemon_from_starting(tmp_path: Path) -> None:
    authority_and_server(tmp_path, "127.0.0.1")
    (tmp_path / "key.pem").chmod(0o644)
    async with orchestratord(tmp_path) as daemon:
        assert await daemon.ended() == 78
    assert any("chmod 600" in line for line in daemon.lines), daemon.lines
