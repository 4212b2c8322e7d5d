"""Mode binary by URL, against a real server on a real socket."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import stat
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from catalog_core.engines import FsEngineCatalog
from contracts.config import Mode, Outbound, Policy, Verdict
from contracts.engines import PreparedEngine
from contracts.pools import Cause
from engine_provisioner.errors import ProvisionError
from engine_provisioner.transfer import ATTEMPTS
from model_provisioner import transfer
from tests.integration.engine_provisioner.fetching import (
    ALLOWED,
    Answer,
    Origin,
    child,
    cut_after,
    download_pool,
    host_at,
    line_with,
    plain,
    provider,
    release,
    serving,
    sha256,
    whole,
)

ROOT = Path(__file__).parents[3]
RELEASE = release()
BIG = release(3 << 20)
ETAG = {"ETag": '"one"'}


@pytest.fixture(autouse=True)
def no_proxy_but_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


class Fetcher:
    """Fetches to one place, and keeps what was said."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: list[str] = []
        self.going = asyncio.Event()
        """Some bytes have arrived, and are on the disk."""

    def say(self, line: str) -> None:
        self.said.append(line)
        if line.startswith("downloaded "):
            self.going.set()

    @property
    def downloads(self) -> Path:
        return self.root / "cache" / "llamacpp" / "downloads"

    @property
    def left(self) -> set[str]:
        """What is left in the cache, but for locks."""
        return {path.name for path in self.downloads.iterdir() if path.suffix != ".lock"}

    async def fetch(self, url: str, digest: str, policy: Policy = ALLOWED, silence_s: float = 300.0) -> PreparedEngine:
        pool = download_pool(url, digest)
        return await provider(host_at(self.root, policy), silence_s).ensure(pool, self.say)

    async def refusal(
        self, url: str, digest: str, policy: Policy = ALLOWED, silence_s: float = 300.0
    ) -> ProvisionError:
        with pytest.raises(ProvisionError) as caught:
            await self.fetch(url, digest, policy, silence_s)
        return caught.value


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)


def starts(origin: Origin) -> list[int]:
    """From which byte on each request wanted the file; 0 is the whole of it."""
    ranges = [request.headers.get("Range", "bytes=0-") for request in origin.asked]
    return [int(each.removeprefix("bytes=").removesuffix("-")) for each in ranges]


# --- what is brought here ---------------------------------------------------------------------------------------------


@pytest.mark.req("EP-18")
async def test_an_archive_is_fetched_unpacked_and_prepared_and_then_needs_no_network(
    fetcher: Fetcher, tmp_path: Path
) -> None:
    async with serving(whole(RELEASE, **ETAG)) as origin:
        engine = await fetcher.fetch(origin.url, sha256(RELEASE))
        server = fetcher.downloads / f"{sha256(RELEASE)}.d" / "llama-b1" / "bin" / "llama-server"
        assert (engine.bin_or_entry, engine.provisioning_mode) == (str(server), Mode.BINARY)
        assert (engine.engine_version, engine.build_ref) == ("0.5.0-dev", "b11549-9a9394a89")
        assert engine.engine_digest == f"sha256:{sha256(RELEASE)}"
        assert stat.S_IMODE(server.stat().st_mode) == 0o755
        assert fetcher.left == {sha256(RELEASE), f"{sha256(RELEASE)}.d"}
        plan = provider(host_at(tmp_path)).plan(download_pool(origin.url, sha256(RELEASE)))
        assert [line for line in fetcher.said if line in {step.detail for step in plan.steps}] == [
            step.detail for step in plan.steps
        ]
        (entry,) = FsEngineCatalog(tmp_path / "catalog").list()
        assert entry.digest == engine.engine_digest
    # the server is gone, and so is the policy
    assert await provider(host_at(tmp_path, Policy())).preflight(download_pool(origin.url, sha256(RELEASE))) == ()
    assert await fetcher.fetch(origin.url, sha256(RELEASE), Policy()) == engine
    assert len(origin.asked) == 1


@pytest.mark.req("EP-18")
@pytest.mark.needs("gcc")
async def test_the_libraries_beside_a_program_stay_usable(fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "library.c").write_text('const char *version(void) { return "version: 1.2.3"; }')
    (tmp_path / "main.c").write_text(
        "#include <stdio.h>\n#include <string.h>\nconst char *version(void);\nint main(int n, char **a) {"
        'puts(n > 1 && !strcmp(a[1], "--version") ? version() : "--model NAME"); return 0; }'
    )
    out = tmp_path / "llama"
    out.mkdir()
    for command in (
        f"gcc -shared -fPIC -Wl,-soname,libllama.so.0 -o {out}/libllama.so.0.1 {tmp_path}/library.c",
        f"ln -s libllama.so.0.1 {out}/libllama.so.0",
        f"gcc -o {out}/llama-server {tmp_path}/main.c {out}/libllama.so.0.1 -Wl,-rpath,$ORIGIN",
    ):
        process = await asyncio.create_subprocess_exec(*command.split())
        assert await process.wait() == 0
    archive = Path(shutil.make_archive(str(tmp_path / "release"), "xztar", tmp_path, "llama"))
    shutil.rmtree(out)
    async with serving(whole(archive.read_bytes())) as origin:
        engine = await fetcher.fetch(origin.url, sha256(archive.read_bytes()))
    assert engine.engine_version == "1.2.3"


@pytest.mark.req("EP-18")
async def test_without_the_policy_nothing_is_asked_for(fetcher: Fetcher) -> None:
    async with serving(whole(RELEASE)) as origin:
        error = await fetcher.refusal(origin.url, sha256(RELEASE), Policy())
        assert error.cause is Cause.POLICY_DENIED
        assert error.hint.startswith("set policy.allow_binary_downloads: true")
        assert origin.asked == []


async def test_progress_is_told_every_few_percent(fetcher: Fetcher) -> None:
    async with serving(whole(BIG)) as origin:
        await fetcher.fetch(origin.url, sha256(BIG))
    lines = [line for line in fetcher.said if line.startswith("downloaded ")]
    assert 2 <= len(lines) <= 20
    assert lines[-1] == "downloaded 100 % of 3 MB"


async def test_a_file_whose_length_nobody_says_is_fetched(fetcher: Fetcher) -> None:
    async def chunked(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(RELEASE)
        return response

    async with serving(chunked) as origin:
        await fetcher.fetch(origin.url, sha256(RELEASE))


# --- redirects --------------------------------------------------------------------------------------------------------


@pytest.mark.req("EP-18")
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/elsewhere?a=%2F", "{base}/elsewhere?a=%2F", "//{place}/elsewhere?a=%2F"])
async def test_a_redirect_is_followed_in_its_own_spelling(status: int, location: str, fetcher: Fetcher) -> None:
    async with serving(plain(status), whole(RELEASE)) as origin:
        target = location.format(base=origin.base, place=origin.base.partition("//")[2])
        origin.answers[0] = plain(status, Location=target)
        await fetcher.fetch(origin.url, sha256(RELEASE))
    assert [str(request.rel_url) for request in origin.asked] == ["/llama.tar.gz", "/elsewhere?a=%2F"]


@pytest.mark.req("EP-18")
async def test_a_redirect_to_a_denied_host_is_not_followed(fetcher: Fetcher, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with serving(plain(302)) as origin:
        elsewhere = origin.base.replace("127.0.0.1", "localhost")
        origin.answers = [plain(302, Location=f"{elsewhere}/x?token=sesame")]
        for outbound in (Outbound(deny=("localhost",)), Outbound(deny=("LOCAL*.",), allow=("*",))):
            policy = Policy(allow_binary_downloads=True, outbound=outbound)
            error = await fetcher.refusal(origin.url, sha256(RELEASE), policy)
            assert error.cause is Cause.POLICY_DENIED
            assert error.message.startswith("localhost may not be reached: policy.outbound.deny: ")
            fetcher.say(error.render())
    assert [request.path for request in origin.asked] == ["/llama.tar.gz"] * 2
    assert "outbound to 127.0.0.1: allowed by" in caplog.text
    assert "outbound to localhost: denied by policy.outbound.deny: localhost" in caplog.text
    assert "sesame" not in caplog.text + str(fetcher.said)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "", None])
async def test_a_redirect_leads_to_a_server_or_nowhere(location: str | None, fetcher: Fetcher) -> None:
    headers = {} if location is None else {"Location": location}
    async with serving(plain(302, **headers)) as origin:
        error = await fetcher.refusal(origin.url, sha256(RELEASE))
    assert error.message == f"{origin.url} redirects to no address of a server"
    assert len(origin.asked) == 1


async def test_redirects_without_end_end(fetcher: Fetcher) -> None:
    async with serving(plain(302, Location="/llama.tar.gz")) as origin:
        assert "redirects more than 10 times" in (await fetcher.refusal(origin.url, sha256(RELEASE))).message
    assert len(origin.asked) == 11


@pytest.mark.req("EP-18")
async def test_a_proxy_of_the_environment_is_used_and_no_redirect_leads_from_outside_to_this_machine(
    fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(whole(RELEASE), plain(302, Location="http://127.0.0.1:1/x")) as origin:
        monkeypatch.setenv("http_proxy", origin.base)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        await fetcher.fetch("http://release.example/a", sha256(RELEASE))
        assert origin.asked[0].host == "release.example"
        error = await fetcher.refusal("http://release.example/b", "0" * 64)
        assert (error.cause, error.message) == (
            Cause.POLICY_DENIED, "http://release.example/b redirects to this machine",
        )  # fmt: skip
        denied = Policy(allow_binary_downloads=True, outbound=Outbound(default=Verdict.DENY))
        assert (await fetcher.refusal("http://release.example/c", "1" * 64, denied)).cause is Cause.POLICY_DENIED
        assert len(origin.asked) == 2


# --- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.req("EP-18")
@pytest.mark.parametrize(
    ("headers", "named"),
    [
        (ETAG, '"one"'),
        ({"ETag": 'W/"weak"', "Last-Modified": "Mon, 01 Jun 2026 00:00:00 GMT"}, "Mon, 01 Jun 2026 00:00:00 GMT"),
    ],
)
async def test_a_transfer_that_is_cut_goes_on_where_it_ended(
    headers: dict[str, str], named: str, fetcher: Fetcher
) -> None:
    async with serving(cut_after(BIG, 2 << 20, fetcher.going, **headers), whole(BIG, **headers)) as origin:
        await fetcher.fetch(origin.url, sha256(BIG))
    first, second = starts(origin)
    assert (first, origin.asked[1].headers["If-Range"]) == (0, named)
    assert len(BIG) // 20 <= second <= 2 << 20
    assert "the connection broke; trying again in 0 s" in fetcher.said
    assert any(line.startswith("going on after ") for line in fetcher.said)


@pytest.mark.req("EP-18")
async def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(fetcher: Fetcher) -> None:
    other = release(1 << 20)
    async with serving(cut_after(other, 600_000, fetcher.going, **ETAG), whole(BIG, ETag='"two"')) as origin:
        await fetcher.fetch(origin.url, sha256(BIG))
    assert 0 < starts(origin)[1] <= 600_000
    assert origin.asked[1].headers["If-Range"] == '"one"'
    assert fetcher.left == {sha256(BIG), f"{sha256(BIG)}.d"}


async def test_bytes_that_nobody_named_are_not_used_again(fetcher: Fetcher) -> None:
    for headers in ({}, {"ETag": 'W/"weak"'}):
        async with serving(cut_after(BIG, 600_000, fetcher.going, **headers), whole(BIG)) as origin:
            await fetcher.fetch(origin.url, sha256(BIG))
        assert starts(origin) == [0, 0]
        fetcher.going.clear()
        shutil.rmtree(fetcher.downloads)


@pytest.mark.req("EP-18")
async def test_a_server_that_goes_on_with_another_file_is_found_out_and_asked_anew(fetcher: Fetcher) -> None:
    other = release(1 << 20)
    async with serving(cut_after(other, 600_000, fetcher.going, **ETAG), whole(BIG, **ETAG)) as origin:
        await fetcher.fetch(origin.url, sha256(BIG))
    assert [start > 0 for start in starts(origin)] == [False, True, False]
    assert "what an earlier download left does not belong to this file: fetching it anew" in fetcher.said


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(plain(416, **{"Content-Range": "bytes */7"}), id="416"),
        pytest.param(plain(206, **{"Content-Range": "bytes 5-6/7"}), id="another range"),
        pytest.param(plain(206), id="no range"),
    ],
)
async def test_a_server_that_cannot_go_on_is_asked_for_the_whole_file(wrong: Answer, fetcher: Fetcher) -> None:
    async with serving(cut_after(BIG, 600_000, fetcher.going, **ETAG), wrong, whole(BIG, **ETAG)) as origin:
        await fetcher.fetch(origin.url, sha256(BIG))
    assert [start > 0 for start in starts(origin)] == [False, True, False]
    assert "the server does not go on where the last attempt ended; trying again in 0 s" in fetcher.said


async def test_a_server_that_falls_silent_is_asked_again(fetcher: Fetcher) -> None:
    over = asyncio.Event()

    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=ETAG | {"Content-Length": str(len(BIG))})
        await response.prepare(request)
        await response.write(BIG[:600_000])
        await over.wait()
        return response

    async with serving(silent, whole(BIG, **ETAG)) as origin:
        await fetcher.fetch(origin.url, sha256(BIG), silence_s=2)
        over.set()
    assert "the server fell silent; trying again in 0 s" in fetcher.said
    assert 0 < starts(origin)[1] <= 600_000


@pytest.mark.req("EP-18")
async def test_a_fetcher_that_is_killed_is_followed_by_one_that_goes_on(fetcher: Fetcher) -> None:
    held = asyncio.Event()

    async def stuck(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=ETAG | {"Content-Length": str(len(BIG))})
        await response.prepare(request)
        await response.write(BIG[: len(BIG) // 2])
        await held.wait()
        return response

    async with serving(stuck, whole(BIG, **ETAG)) as origin:
        async with child(fetcher.root, origin.url, sha256(BIG)) as process:
            await line_with(process, "downloaded ")
            process.kill()
            await process.wait()
        held.set()
        assert f"{sha256(BIG)}.part" in fetcher.left
        assert sha256(BIG) not in fetcher.left
        engine = await fetcher.fetch(origin.url, sha256(BIG))
    assert engine.engine_version == "0.5.0-dev"
    assert len(BIG) // 20 <= starts(origin)[1] <= len(BIG) // 2
    assert fetcher.left == {sha256(BIG), f"{sha256(BIG)}.d"}


@pytest.mark.req("EP-18")
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_preparation_that_is_killed_at_any_line_is_followed_by_one_that_succeeds(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(RELEASE)
    command = (sys.executable, "-m", "tests.integration.engine_provisioner.killed_download")
    process = await asyncio.create_subprocess_exec(
        *command, str(tmp_path / "file"), str(tmp_path), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    found = json.loads(output)
    assert found["wrong"] == []
    assert found["points"] > 60


async def test_what_was_whole_and_only_had_no_name_needs_no_network(fetcher: Fetcher) -> None:
    fetcher.downloads.mkdir(parents=True)
    (fetcher.downloads / f"{sha256(RELEASE)}.part").write_bytes(RELEASE)
    (fetcher.downloads / f".{sha256(RELEASE)}.part.json.x.tmp").write_bytes(b"")  # of one that was killed
    async with serving(plain(500)) as origin:
        await fetcher.fetch(origin.url, sha256(RELEASE))
    assert origin.asked == []
    assert fetcher.left == {sha256(RELEASE), f"{sha256(RELEASE)}.d"}


async def test_a_cancelled_fetch_leaves_what_the_next_one_uses(fetcher: Fetcher) -> None:
    held = asyncio.Event()

    async def stuck(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=ETAG | {"Content-Length": str(len(BIG))})
        await response.prepare(request)
        await response.write(BIG[:600_000])
        await held.wait()
        return response

    async with serving(stuck, whole(BIG, **ETAG)) as origin:
        async with asyncio.TaskGroup() as group:
            pool = download_pool(origin.url, sha256(BIG))
            task = group.create_task(provider(host_at(fetcher.root)).ensure(pool, fetcher.say))
            await fetcher.going.wait()
            task.cancel()
        held.set()
        await fetcher.fetch(origin.url, sha256(BIG))
    assert origin.asked[1].headers["If-Range"] == '"one"'


@pytest.mark.req("EP-18")
async def test_processes_that_want_the_same_file_fetch_it_once(fetcher: Fetcher) -> None:
    waiting = asyncio.Event()
    serve = whole(BIG, **ETAG)

    async def slow(request: web.Request) -> web.StreamResponse:
        await waiting.wait()
        return await serve(request)

    async with serving(slow) as origin, AsyncExitStack() as stack:
        want = (fetcher.root, origin.url, sha256(BIG))
        processes = [await stack.enter_async_context(child(*want)) for _ in range(2)]
        here = asyncio.Event()

        async def watch(process: asyncio.subprocess.Process) -> None:
            assert process.stdout is not None
            while line := (await process.stdout.readline()).decode():
                if "which fetches the same file" in line:
                    waiting.set()
                if "is here" in line:
                    here.set()
            assert await process.wait() == 0

        async with asyncio.TaskGroup() as group:
            for process in processes:
                group.create_task(watch(process))
        assert here.is_set()
    assert len(origin.asked) == 1


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("EP-18")
async def test_a_wrong_digest_is_never_used_and_named_beside_the_right_one(fetcher: Fetcher) -> None:
    async with serving(whole(RELEASE)) as origin:
        error = await fetcher.refusal(origin.url, "a" * 64)
    assert error.cause is Cause.ENGINE_FETCH
    assert error.message == f"{origin.url} has the sha256 {sha256(RELEASE)}, and the pool asks for {'a' * 64}"
    assert fetcher.left == set()
    assert len(origin.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
async def test_an_answer_that_will_not_change_is_asked_for_once(status: int, fetcher: Fetcher) -> None:
    async with serving(plain(status)) as origin:
        error = await fetcher.refusal(origin.url, sha256(RELEASE))
    assert error.cause is Cause.ENGINE_FETCH
    assert error.message.startswith(f"{origin.url} cannot be fetched: the server answers {status} ")
    assert len(origin.asked) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_an_answer_that_may_change_is_asked_for_again_and_not_for_ever(status: int, fetcher: Fetcher) -> None:
    async with serving(plain(status), plain(status), whole(RELEASE)) as origin:
        await fetcher.fetch(origin.url, sha256(RELEASE))
    assert len(origin.asked) == 3
    shutil.rmtree(fetcher.downloads)
    async with serving(plain(status)) as origin:
        error = await fetcher.refusal(origin.url, sha256(RELEASE))
    assert error.message.endswith(f"({ATTEMPTS} attempts)")
    assert error.retriable
    assert len(origin.asked) == ATTEMPTS


async def test_a_server_that_is_not_there_is_said(fetcher: Fetcher) -> None:
    async with serving(plain(200)) as origin:
        pass
    error = await fetcher.refusal(origin.url, sha256(RELEASE))
    place = origin.base.partition("//")[2]
    assert f"cannot be fetched: no connection to {place}: " in error.message
    assert error.message.endswith(f"({ATTEMPTS} attempts)")


async def test_a_server_that_cannot_prove_who_it_is_is_asked_once(fetcher: Fetcher) -> None:
    async with serving(plain(200)) as origin:
        error = await fetcher.refusal(origin.url.replace("http:", "https:"), sha256(RELEASE))
    assert error.message.endswith("cannot be fetched: the server cannot prove who it is (TLS)")
    assert "update-ca-certificates" in error.hint
    assert fetcher.said[2:] == []


async def test_a_server_that_speaks_something_else_is_said(fetcher: Fetcher) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await fetcher.refusal(f"http://127.0.0.1:{port}/x", sha256(RELEASE))
    assert "does not speak HTTP" in error.message


async def test_a_file_that_is_larger_than_the_disk_is_not_begun(fetcher: Fetcher) -> None:
    async def huge(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(1 << 60)})
        await response.prepare(request)
        assert request.transport is not None
        request.transport.close()
        return response

    async with serving(huge) as origin:
        error = await fetcher.refusal(origin.url, sha256(RELEASE))
    assert error.message.startswith("there is no room for 1152921504607 MB more: ")
    assert error.message.endswith(", and 268 MB stay free")
    assert "paths.cache" in error.hint
    assert len(origin.asked) == 1


async def test_a_file_without_a_length_may_not_fill_the_disk(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(65_536))

    monkeypatch.setattr(transfer, "REPORT_BYTES", 1 << 20)

    def free_bytes(folder: Path) -> int:
        return transfer.SPARE_BYTES + (5 << 20) - sum(path.stat().st_size for path in folder.iterdir())

    host = dataclasses.replace(host_at(fetcher.root), free_bytes=free_bytes)
    async with serving(endless) as origin:
        with pytest.raises(ProvisionError, match="there is no room for a file whose length nobody says: ") as caught:
            await provider(host).ensure(download_pool(origin.url, sha256(RELEASE)), fetcher.say)
    assert "paths.cache" in caught.value.hint
    assert (fetcher.downloads / f"{sha256(RELEASE)}.part").stat().st_size < 8 << 20


async def test_a_disk_that_fills_up_is_said(fetcher: Fetcher) -> None:
    async with (
        serving(whole(BIG, **ETAG)) as origin,
        child(fetcher.root, origin.url, sha256(BIG), "--largest", "1000000") as process,
    ):
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert "File too large" in errors.decode()
    assert "make room on that disk" in errors.decode()
    assert sha256(BIG) not in fetcher.left


# --- secrets ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("EP-13")
async def test_what_is_secret_in_a_url_reaches_the_server_only(
    fetcher: Fetcher, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    shown: list[str] = []

    for answer in (
        plain(404),
        plain(500),
        plain(302, Location="/x?sesame"),
        plain(302, Location="file:///sesame"),
        whole(RELEASE),
        cut_after(BIG, 600_000, fetcher.going, **ETAG),
        whole(BIG, **ETAG),
    ):
        async with serving(answer) as origin:
            url = origin.url.replace("http://", "http://me:sesame@") + "?token=sesame#sesame"
            pool = download_pool(url, sha256(BIG))
            chosen = provider(host_at(fetcher.root))
            shown.append(repr(chosen.plan(pool)))
            shown.append(repr(await provider(host_at(fetcher.root, Policy())).preflight(pool)))
            try:
                shown.append(repr(await chosen.ensure(pool, fetcher.say)))
            except ProvisionError as error:
                shown.append(error.render())
        assert origin.asked[0].headers["Authorization"] == "Basic bWU6c2VzYW1l"
        assert origin.asked[0].query_string == "token=sesame"
    text = "\n".join([*shown, *fetcher.said])
    assert "llama.tar.gz" in text
    assert "sesame" not in text
    logged = [record.getMessage() for record in caplog.records if record.name != "aiohttp.access"]  # the test's server
    assert any("outbound to 127.0.0.1" in line for line in logged)
    assert "sesame" not in str(logged)
    for path in fetcher.root.rglob("*"):
        assert "sesame" not in path.name
        assert not path.is_file() or b"sesame" not in path.read_bytes()
