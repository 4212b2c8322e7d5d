"""HTTPS: streams flow, what is wrong with a certificate is told, and a new one is taken up while streams run."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from contracts.config import Tls
from daemon_core.errors import EXIT_CONFIG, StartupError
from orchestratord.clock import SystemClock
from orchestratord.tls import Certificate
from tests.integration.orchestratord.house import (
    BODY,
    EVENT_STREAM,
    TOKEN,
    House,
    house,
    read_until,
    slow_alone,
    tokens_in,
)
from tests.integration.orchestratord.wire import BRIEF_MS, HEALTH, LONG_MS, served_until, wire
from tests.standin.knobs import Fault, Knobs
from tests.standin.server import StandIn
from tests.support.certificates import authority_and_server

pytestmark = pytest.mark.req("OP-02")

STUCK = Knobs(fault=Fault.HANG, fault_after=5, tokens=100)
LONG = Knobs(words=("x" * 1_000,), tokens=8_000)


def certificate(folder: Path, *, days: int = 100, name: str = "127.0.0.1") -> tuple[Certificate, ssl.SSLContext]:
    """A certificate that a house can use, and what trusts it."""
    authority, _ = authority_and_server(folder, name, days=days)
    files = Tls(cert_file="cert.pem", key_file="key.pem")
    return Certificate(files, folder, os.environ, SystemClock().unix_ms), ssl.create_default_context(cafile=authority)


@asynccontextmanager
async def secured(
    folder: Path,
    engine_url: str | None = None,
    **server: Any,  # noqa: ANN401 - any field of the server
) -> AsyncIterator[tuple[House, ssl.SSLContext, Certificate]]:
    mine, trusted = certificate(folder)
    async with house(folder, engine_url, certificate=mine, **server) as here:
        await here.client.close()
        async with aiohttp.ClientSession(here.url, connector=aiohttp.TCPConnector(ssl=trusted)) as here.client:
            yield here, trusted, mine


async def shown(here: House, trusted: ssl.SSLContext) -> bytes:
    """The certificate that a new connection sees."""
    async with wire(here, trusted) as client:
        found: bytes = client.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return found


# --- serving ----------------------------------------------------------------------------------------------------------


async def test_streams_flow_over_tls(tmp_path: Path) -> None:
    async with StandIn(STUCK) as engine, secured(tmp_path, engine.url) as (here, trusted, _):
        assert here.url.startswith("https://")
        accept = {"Accept": EVENT_STREAM}
        async with here.client.post("/v1/tasks", json=BODY | {"task_id": "t"}, headers=accept) as answer:
            got = await read_until(answer, lambda got: tokens_in(got) == 5)
            assert await here.cancel("t") == 204
            assert b"event: end" in got + await answer.read()
        async with wire(here, trusted) as client:
            session = client.writer.get_extra_info("ssl_object")
            assert session.version() in {"TLSv1.2", "TLSv1.3"}


async def test_an_older_tls_is_refused(tmp_path: Path) -> None:
    async with secured(tmp_path) as (here, _, _):
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(tmp_path / "authority.pem")
        old.set_ciphers("DEFAULT:@SECLEVEL=0")
        old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            async with wire(here, old):
                pass
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        async with wire(here, old) as client:
            await client.send(HEALTH)
            assert (await client.answer()).status == 200


async def test_http_on_the_port_of_https_is_told_what_to_do(tmp_path: Path) -> None:
    async with secured(tmp_path) as (here, _, _), wire(here) as plain:
        await plain.send(HEALTH)
        heard = await plain.answer()
        assert (heard.status, heard.told["hint"]) == (400, "use https:// in place of http://")
        assert await plain.rest() == b""


async def test_https_on_the_port_of_http_fails_at_once(tmp_path: Path) -> None:
    async with house(tmp_path) as here:
        with pytest.raises(ssl.SSLError):
            async with wire(here, ssl.create_default_context()):
                pass


async def test_a_defect_met_by_one_client_ends_nobody_elses_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured(tmp_path) as (here, trusted, mine):
        with monkeypatch.context() as patched:
            patched.setattr(mine, "context", "no context")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with wire(here, trusted):
                    pass
        async with wire(here, trusted) as client:
            await client.send(HEALTH)
            assert (await client.answer()).status == 200
    assert "a connection of 127.0.0.1 could not be let in" in caplog.text


async def test_handshakes_that_never_end_take_their_places_for_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    limits = secured(tmp_path, header_timeout_ms=LONG_MS, max_connections_per_client=6)
    async with limits as (here, trusted, _), wire(here, trusted) as honest:
        async with wire(here) as silent, wire(here) as silent_too, wire(here) as begun, wire(here) as begun_too:
            for each in (begun, begun_too):
                await each.send(b"\x16\x03\x01\x02\x00")
            for _ in range(3):
                await honest.send(HEALTH)
                assert (await honest.answer()).status == 200
            for each in (silent, silent_too, begun, begun_too):
                assert await each.rest() == b""
        for _ in range(10):
            async with wire(here, trusted) as client:
                await client.send(HEALTH)
                assert (await client.answer()).status == 200


async def test_garbage_in_place_of_a_handshake_is_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with secured(tmp_path) as (here, trusted, _):
        for _ in range(20):
            async with wire(here) as client:
                await client.send(b"\x16\x03\x01\x00\x05hello")
                await client.rest()
        assert await shown(here, trusted)
    told = [each.getMessage() for each in caplog.records if "handshake" in each.getMessage()]
    assert len(told) == 1
    assert not [each for each in caplog.records if each.exc_info]


async def test_a_slow_head_and_a_slow_body_are_cut_off_over_tls_too(tmp_path: Path) -> None:
    async with secured(tmp_path, header_timeout_ms=BRIEF_MS, body_timeout_ms=300) as (here, trusted, _):
        async with wire(here, trusted) as slow:
            await slow.send(b"GET / HTTP/1.1\r\nHost: ")
            assert (await slow.answer()).status == 408
            assert await slow.rest() == b""
        async with wire(here, trusted) as slow:
            await slow.send(b"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
            assert (await slow.answer()).status == 408


@pytest.mark.timeout(120)  # eight megabytes through TLS in one loop
async def test_a_reader_that_takes_nothing_is_cut_off_over_tls_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_alone(monkeypatch)
    async with StandIn(LONG) as engine, secured(tmp_path, engine.url, slow_reader_ms=200) as (here, trusted, _):
        task_id = await here.submit(max_tokens=8_000, priority="batch")
        async with wire(here, trusted) as slow:
            peer: socket.socket = slow.writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
            asking = f"GET /v1/tasks/{task_id}/stream HTTP/1.1\r\nHost: localhost\r\nUser-Agent: Slow\r\n"
            await slow.send(f"{asking}Connection: close\r\n\r\n".encode())
            assert tokens_in(await here.stream(task_id)) == 8_000, "others are served"
            async with asyncio.timeout(60):
                while not [each for each in caplog.records if "was cut off" in each.getMessage()]:
                    await served_until(here, asyncio.get_running_loop().time() + 0.05)
            slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert b"event: end" not in await slow.rest()


# --- files ------------------------------------------------------------------------------------------------------------


def refused(folder: Path, cert: str = "cert.pem", key: str = "key.pem") -> StartupError:
    with pytest.raises(StartupError) as caught:
        Certificate(Tls(cert_file=cert, key_file=key), folder, os.environ, SystemClock().unix_ms)
    assert caught.value.exit_code == EXIT_CONFIG
    return caught.value


def test_what_is_wrong_with_the_files_is_told_with_its_mend(tmp_path: Path) -> None:
    authority_and_server(tmp_path, "127.0.0.1")
    (tmp_path / "other").mkdir()
    authority_and_server(tmp_path / "other", "127.0.0.1")
    assert "there is no file" in refused(tmp_path, cert="none.pem").message
    assert "there is no file" in refused(tmp_path, key="none.pem").message
    assert "there is no file" in refused(tmp_path, key="other").message
    unreadable = refused(tmp_path, cert=f"{'x' * 300}.pem")  # as what is in a folder that this user may not enter
    assert unreadable.message.endswith("cannot be read: File name too long")
    assert "key values mismatch" in refused(tmp_path, key="other/key.pem").message
    (tmp_path / "text.pem").write_text("no certificate")
    assert "text.pem" in refused(tmp_path, cert="text.pem").message
    half = tmp_path / "half.pem"
    half.write_bytes((tmp_path / "cert.pem").read_bytes()[:200])
    assert "half.pem" in refused(tmp_path, cert="half.pem").message
    (tmp_path / "key.pem").chmod(0o640)
    error = refused(tmp_path)
    assert "can be used by others (mode 0640)" in error.message
    assert error.hint == f"chmod 600 {tmp_path / 'key.pem'}"


@pytest.mark.needs("openssl")
async def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    authority_and_server(tmp_path, "127.0.0.1")
    locked = tmp_path / "locked.pem"
    making = await asyncio.create_subprocess_exec(
        *("openssl", "pkey", "-in", str(tmp_path / "key.pem"), "-aes128", "-passout", "pass:secret"),
        *("-out", str(locked)),
    )
    assert await making.wait() == 0
    locked.chmod(0o600)
    assert "passphrase" in str(refused(tmp_path, key="locked.pem").hint)


@pytest.mark.parametrize(
    ("days", "words"), [(100, None), (5, "expires in 4 days"), (-1, "has expired")], ids=["good", "soon", "expired"]
)
def test_how_long_a_certificate_is_good_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, days: int, words: str | None
) -> None:
    certificate(tmp_path, days=days)
    assert [words for each in caplog.records if words and words in each.getMessage()] == ([words] if words else [])
    assert len(caplog.records) == (1 if words else 0)


async def test_an_expired_or_a_strangers_certificate_is_refused_by_the_client_and_harms_nobody(tmp_path: Path) -> None:
    mine, trusted = certificate(tmp_path, days=-1)
    async with house(tmp_path, certificate=mine) as here:
        for trust in (trusted, ssl.create_default_context()):
            with pytest.raises(ssl.SSLCertVerificationError):
                await shown(here, trust)
        careless = ssl.create_default_context()
        careless.check_hostname, careless.verify_mode = False, ssl.CERT_NONE
        async with wire(here, careless) as client:
            await client.send(HEALTH)
            assert (await client.answer()).status == 200


async def test_a_new_certificate_is_shown_to_new_connections_and_streams_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "new").mkdir()
    async with StandIn(STUCK) as engine, secured(tmp_path, engine.url) as (here, trusted, mine):
        accept = {"Accept": EVENT_STREAM}
        async with here.client.post("/v1/tasks", json=BODY | {"task_id": "t"}, headers=accept) as answer:
            got = await read_until(answer, lambda got: tokens_in(got) == 5)
            before = await shown(here, trusted)
            authority_and_server(tmp_path / "new", "127.0.0.1", days=100)
            shutil.copy(tmp_path / "new/cert.pem", tmp_path / "cert.pem")
            mine.renew()  # half of the new pair
            assert "the certificate stays as it was" in caplog.text
            assert await shown(here, trusted) == before
            shutil.copy(tmp_path / "new/key.pem", tmp_path / "key.pem")
            mine.renew()
            with pytest.raises(ssl.SSLCertVerificationError):
                await shown(here, trusted)
            assert await shown(here, ssl.create_default_context(cafile=tmp_path / "new/authority.pem")) != before
            here.orchestrator.cancel(here.orchestrator.get("t"), "client")
            assert b"event: end" in got + await answer.read()


async def test_a_token_is_needed_over_tls_too(tmp_path: Path) -> None:
    async with secured(tmp_path, token=TOKEN) as (here, _, _), here.client.get("/v1/pools") as answer:
        assert answer.status == 401
