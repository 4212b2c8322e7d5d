"""The real git, and servers that want something of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from catalog_core.engines import FsEngineCatalog
from contracts.config import Outbound, Policy
from contracts.pools import Cause
from engine_provisioner.build_errors import Context
from engine_provisioner.errors import ProvisionError
from engine_provisioner.git import Repository
from engine_provisioner.host import Host
from tests.plugins.failures import OperatorSees

pytestmark = pytest.mark.needs("git")

Serve = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[TestServer]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[TestServer] = []

    async def start(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> TestServer:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(app)
        servers.append(server)
        await server.start_server()
        return server

    yield start
    for server in servers:
        await server.close()


def repository(
    root: Path, url: str, policy: Policy | None = None, environ: Mapping[str, str] | None = None
) -> Repository:
    ours = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    host = Host(
        environ={**ours, "HOME": str(root), **(environ or {})},
        catalog=FsEngineCatalog(root / "catalog"),
        cache=root / "cache",
        policy=policy or Policy(),
    )
    git = host.which("git")
    assert git is not None
    return Repository(host, git, url, Context(install=str))


@pytest.mark.req("EP-03")
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_repository_that_moved_is_not_followed_and_its_new_address_is_told(
    status: int, serve: Serve, tmp_path: Path, operator_sees: OperatorSees
) -> None:
    asked: list[str] = []

    async def denied(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=404)

    there = await serve(denied)

    async def moved(request: web.Request) -> web.Response:
        to = f"http://me:sesame@localhost:{there.port}/new{request.path_qs}"
        return web.Response(status=status, headers={"Location": to})

    here = await serve(moved)
    policy = Policy(outbound=Outbound(deny=("localhost",)))
    with pytest.raises(ProvisionError) as caught:
        await repository(tmp_path, f"http://127.0.0.1:{here.port}/r", policy).commit("master")
    assert asked == []
    assert caught.value.cause is Cause.ENGINE_FETCH
    assert not caught.value.retriable
    assert caught.value.message.startswith(f"http://127.0.0.1:{here.port}/r: the repository has moved")
    assert caught.value.hint == f"set provisioning.source.repo to http://localhost:{there.port}/new/r"
    assert "sesame" not in caught.value.render()
    if status == 301:
        operator_sees("source/repository-moved", caught.value.render())


@pytest.mark.req("EP-03")
async def test_a_redirect_to_nowhere_is_said(serve: Serve, tmp_path: Path) -> None:
    async def moved(_: web.Request) -> web.Response:
        return web.Response(status=301)

    here = await serve(moved)
    with pytest.raises(ProvisionError) as caught:
        await repository(tmp_path, f"http://127.0.0.1:{here.port}/r").commit("master")
    assert caught.value.hint == "set provisioning.source.repo to the address that it has now"


@pytest.mark.req("EP-13")
async def test_git_gets_its_own_variables_and_no_secret_of_ours(serve: Serve, tmp_path: Path) -> None:
    script = tmp_path / "helper"
    script.write_text(
        f'#!/bin/sh\n/usr/bin/env > {tmp_path}/seen\necho username=me\necho "password=$GIT_TEST_PASSWORD"\n'
    )
    script.chmod(0o755)
    (tmp_path / ".gitconfig").write_text(f"[credential]\n\thelper = {script}\n")
    got: list[str | None] = []

    async def private(request: web.Request) -> web.Response:
        got.append(request.headers.get("Authorization"))
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})

    here = await serve(private)
    given = {"GIT_TEST_PASSWORD": "sesame", "SSH_AUTH_SOCK": "/nowhere/agent", "LLORCH_API_TOKEN": "a", "HF_TOKEN": "b"}
    with pytest.raises(ProvisionError, match="wants authentication"):
        await repository(tmp_path, f"http://127.0.0.1:{here.port}/r", environ=given).commit("master")
    assert any(header is not None and header.startswith("Basic ") for header in got)
    seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().splitlines() if "=" in line)
    assert (seen["GIT_TEST_PASSWORD"], seen["SSH_AUTH_SOCK"]) == ("sesame", "/nowhere/agent")
    assert seen.keys().isdisjoint({"LLORCH_API_TOKEN", "HF_TOKEN"})


@pytest.mark.req("HP-23")
async def test_the_hook_of_the_operator_is_asked_before_a_repository_is(serve: Serve, tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=404)

    here = await serve(answer)
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ncat > {tmp_path}/question\nexit 1\n")
    hook.chmod(0o755)
    url = f"http://me:sesame@127.0.0.1:{here.port}/r"
    with pytest.raises(ProvisionError) as caught:
        await repository(tmp_path, url, Policy(hook=str(hook))).commit("master")
    assert caught.value.cause is Cause.POLICY_DENIED
    assert caught.value.message == f"127.0.0.1 may not be reached: policy.hook {hook}: exit status 1"
    assert asked == []
    question = f'{{"action": "engine", "url": "http://127.0.0.1:{here.port}/r", "host": "127.0.0.1"}}\n'
    assert (tmp_path / "question").read_text() == question


@pytest.mark.req("EP-03")
async def test_a_broken_checkout_around_us_has_nothing_to_do_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = tmp_path / "upstream"
    commands = (("init", "--quiet", str(upstream)), ("-C", str(upstream), "commit", "--quiet", "--allow-empty", "-mx"))
    who = {"GIT_CONFIG_GLOBAL": os.devnull, **dict.fromkeys(("EMAIL", "GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "a@b")}
    for command in commands:
        subprocess.run(("git", *command), check=True, env={**os.environ, **who})
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / ".git").write_text("gitdir: /nowhere\n")
    monkeypatch.chdir(broken)
    there = repository(tmp_path, upstream.as_uri())
    commit = await there.commit("HEAD")
    assert commit is not None
    assert await there.checkout("HEAD", commit, Path("below/target")) == commit
    assert (broken / "below/target/.git").is_dir()
