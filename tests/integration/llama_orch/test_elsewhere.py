"""The command line from another machine: HTTPS with an authority of one's own, a token from a file, clear errors."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from contracts.config import Auth, Config, Server, Tls
from daemon_core.errors import EXIT_USAGE, StartupError
from daemon_core.token import ApiToken, find_token
from llama_orch.session import Session, find_session, own_url
from orchestratord.clock import SystemClock
from orchestratord.tls import Certificate
from tests.integration.orchestratord.house import TOKEN, House, house
from tests.support.certificates import authority_and_server
from tests.unit.orchestratord.world import pool

pytestmark = pytest.mark.req("OP-02", "ORCH-3810")

NO_URLS = ("llm.lan:8080", "llm.lan", "ftp://llm.lan", "http://", "http://llm.lan:99999", "https://[::1", "http://a/?x")
FILES = Tls(cert_file="cert.pem", key_file="key.pem")


def certificate(folder: Path, name: str = "127.0.0.1", days: int = 100) -> Certificate:
    authority_and_server(folder, name, days=days)
    return Certificate(FILES, folder, os.environ, SystemClock().unix_ms)


async def ask(url: str, folder: Path, *options: str, **environ: str) -> tuple[int, str, str]:
    """``llama-orch pools``, as a user of another machine without configuration types it."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "nothing")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "llama_orch", "pools", "--url", url, *options),
        env=kept | home | environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, told = await process.communicate()
    return await process.wait(), said.decode(), told.decode()


def token_file(folder: Path, mode: int = 0o600) -> str:
    path = folder / "token"
    path.write_text(TOKEN + "\n")
    path.chmod(mode)
    return str(path)


def fails(found: tuple[int, str, str], status: int, *words: str) -> None:
    assert found[0] == status, found
    assert all(each in found[2] for each in words), found[2]
    assert "Traceback" not in found[2]


async def test_a_daemon_behind_tls_is_asked_with_its_authority_and_a_token_file(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN, certificate=certificate(tmp_path)) as here:
        authority, token = str(tmp_path / "authority.pem"), token_file(tmp_path)
        status, said, _ = await ask(here.url, tmp_path, "--ca-file", authority, "--token-file", token)
        assert status == 0
        assert said
        by_variables = {"LLORCH_CA_FILE": authority, "LLORCH_API_TOKEN_FILE": token}
        assert (await ask(here.url, tmp_path, **by_variables))[0] == 0
        wrong = by_variables | {"LLORCH_API_TOKEN": "a-wrong-token"}
        fails(await ask(here.url, tmp_path, **wrong), 1, "BAD_TOKEN")
        assert (await ask(here.url, tmp_path, "--token-file", token, **wrong))[0] == 0, "the option counts"

        fails(await ask(here.url, tmp_path, "--token-file", token), 1, "cannot prove itself", "--ca-file")
        plain = here.url.replace("https:", "http:")
        fails(await ask(plain, tmp_path, "--token-file", token), 1, "speaks HTTPS", "use https://")
        fails(await ask(here.url, tmp_path, "--ca-file", authority, "--token", TOKEN), 2, "--token-file")
        fails(await ask(here.url, tmp_path, "--ca-file", "/nothing.pem"), 78, "/nothing.pem", "LLORCH_CA_FILE")
        open_to_all = token_file(tmp_path, 0o644)
        fails(await ask(here.url, tmp_path, "--token-file", open_to_all), 78, "chmod 600")
        fails(await ask(here.url, tmp_path, "--token-file", "/nothing"), 78, "/nothing")


async def test_what_is_wrong_with_a_certificate_is_told_with_its_mend(tmp_path: Path) -> None:
    for name, days, words in (
        ("llm.lan", 100, ("cannot prove itself", "in place of 127.0.0.1")),
        ("127.0.0.1", -1, ("expired", "clocks")),
    ):
        async with house(tmp_path, token=TOKEN, certificate=certificate(tmp_path, name, days)) as here:
            found = await ask(here.url, tmp_path, "--ca-file", str(tmp_path / "authority.pem"))
            fails(found, 1, *words)


async def test_a_daemon_without_tls_is_told_from_one_with_it(tmp_path: Path) -> None:
    async with house(tmp_path, token=TOKEN) as here:
        fails(await ask(here.url.replace("http:", "https:"), tmp_path), 1, "does not speak TLS", "use http://")


async def test_nobody_there_may_be_tried_again(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        fails(await ask(f"http://127.0.0.1:{port}", tmp_path), 75, "Connection refused", "llama-orch up")


@pytest.mark.parametrize("url", NO_URLS)
def test_what_is_no_url_is_told_from_a_daemon_that_is_away(tmp_path: Path, url: str) -> None:
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    for option, variables in ((url, home), (None, home | {"LLORCH_URL": url})):
        with pytest.raises(StartupError, match="is no URL of a daemon") as caught:
            find_session(None, option, variables)
        assert caught.value.exit_code == EXIT_USAGE
        assert "https://workstation.lan:8080" in str(caught.value.hint)


@pytest.mark.parametrize("end", ["/v1", "/v1/"])
def test_the_base_url_of_other_programs_is_told_from_a_daemon_that_lacks_the_route(tmp_path: Path, end: str) -> None:
    with pytest.raises(StartupError, match="names a part of the API") as caught:
        find_session(None, f"https://workstation.lan:8080/llm{end}", {"HOME": str(tmp_path)})
    assert (caught.value.exit_code, caught.value.hint) == (
        EXIT_USAGE,
        "leave /v1 out: https://workstation.lan:8080/llm",
    )


async def test_a_password_in_the_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    found = await ask("http://me:correct-horse@127.0.0.1:1", tmp_path)
    fails(found, 2, "name or a password", "LLORCH_API_TOKEN_FILE")
    assert "correct-horse" not in found[2]


def own(folder: Path, here: House) -> Session:
    """As found on the machine of the daemon itself."""
    settings = Config(pools=(pool(),), server=Server(bind=here.url.partition("://")[2], tls=FILES))
    token = ApiToken(value=TOKEN, source="a test")
    return Session(config_path=folder / "config.yaml", config=settings, token=token, url=own_url(settings))


async def test_on_its_own_machine_a_daemon_is_known_by_its_very_certificate(
    tmp_path: Path,
) -> None:
    async with house(tmp_path, token=TOKEN, certificate=certificate(tmp_path, "llm.lan")) as here:
        session = own(tmp_path, here)
        assert session.url == here.url
        async with session.client() as client:
            assert await client.is_up()
            assert len((await client.pools()).pools) == 1
        (tmp_path / "other").mkdir()
        authority_and_server(tmp_path / "other", "llm.lan", days=100)
        (tmp_path / "other/cert.pem").replace(tmp_path / "cert.pem")
        async with own(tmp_path, here).client() as client:
            assert not await client.is_up(), "another certificate of that name is another one"


def test_the_places_of_a_session(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "LLORCH_URL": "https://llm.lan/", "LLORCH_CA_FILE": "~/ca.pem"}
    found = find_session(None, None, environ)
    assert (found.url, found.authorities) == ("https://llm.lan", tmp_path / "ca.pem")
    token = find_token(Auth(), {"HOME": str(tmp_path), "LLORCH_API_TOKEN_FILE": token_file(tmp_path)}, tmp_path / "no")
    assert token is not None
    assert token.value == TOKEN
