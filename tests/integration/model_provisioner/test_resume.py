"""Fetches that are cut, killed, or wanted by several at once: they go on where they ended, and bring the same bytes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from daemon_core.procfs import boot_id
from model_provisioner.folder import Folder
from model_provisioner.sources.base import RemoteFile
from model_provisioner.transfer import Transfer
from tests.integration.model_provisioner.pulling import Puller, child, line_with
from tests.plugins.failures import OperatorSees
from tests.support.file_server import FileServer, Knobs
from tests.support.hub import Hub
from tests.support.tls import Authority

ROOT = Path(__file__).parents[3]


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.req("MP-04")
async def test_a_transfer_that_is_cut_goes_on_where_it_ended(server: FileServer, puller: Puller, epic: bytes) -> None:
    server.files["/epic.gguf"] = epic
    server.knobs["/epic.gguf"] = knobs = Knobs(cut_after=len(epic) // 2, released=puller.going)
    puller.on("trying again", lambda: setattr(knobs, "cut_after", None))
    model = await puller.pull(server.url("/epic.gguf"))
    assert model.digest == digest(epic)
    first, second = server.starts("/epic.gguf")
    assert first == 0
    assert len(epic) // 20 <= second <= len(epic) // 2
    assert "the connection broke; trying again in 0 s" in puller.said
    assert not any("computing the digest" in line for line in puller.said)


@pytest.mark.req("MP-04")
async def test_attempts_that_bring_something_are_not_counted(server: FileServer, puller: Puller, epic: bytes) -> None:
    server.files["/epic.gguf"] = epic
    server.knobs["/epic.gguf"] = knobs = Knobs(cut_after=(5 << 20) // 4)
    knobs.released.set()
    data = epic * 4  # 16 MB, in pieces of 1.25 MB: more attempts than fruitless ones are allowed
    server.files["/epic.gguf"] = data
    assert len(data) > 7 * (5 << 20) // 4
    model = await puller.pull(server.url("/epic.gguf"))
    assert model.digest == digest(data)
    assert len(server.starts("/epic.gguf")) > 6


async def killed_and_resumed(
    puller: Puller, ref: str, knobs: Knobs, env: dict[str, str], again: Callable[[], Awaitable[object]]
) -> int:
    """Kill a child when a part of the file has arrived, and pull again; the answer is how many bytes it had."""
    async with child(puller.root, ref, env=env) as process:
        line = await line_with(process, "downloaded 4")
        process.kill()
        await process.wait()
    knobs.released.set()
    assert puller.catalog.list() == ()
    (part,) = puller.left(".part")
    assert puller.left(".gguf") == []
    said = int(line.split()[1])
    here = (puller.cache / part).stat().st_size
    await again()
    return here if here >= said else -1


@pytest.mark.req("MP-04")
@pytest.mark.timeout(60)
async def test_a_pull_that_is_killed_is_followed_by_one_that_goes_on_https(
    server: FileServer, puller: Puller, epic: bytes, authority: Authority
) -> None:
    server.files["/epic.gguf"] = epic
    server.knobs["/epic.gguf"] = knobs = Knobs(hold_after=len(epic) // 2)
    ref = server.url("/epic.gguf")
    here = await killed_and_resumed(
        puller, ref, knobs, {"SSL_CERT_FILE": str(authority.authorities)}, lambda: puller.pull(ref)
    )
    model = await puller.pull(ref)
    assert model.digest == digest(epic)
    assert Path(model.local_path).read_bytes() == epic
    assert server.starts("/epic.gguf") == [0, here]
    twice = server.sent["/epic.gguf"] - len(epic) - 2  # but for the byte that each of the two looked at
    assert 0 <= twice <= len(epic) // 2 - here
    assert here >= len(epic) * 2 // 5
    assert puller.left(".part", ".part.json") == []


@pytest.mark.req("MP-04")
@pytest.mark.timeout(60)
async def test_a_pull_that_is_killed_is_followed_by_one_that_goes_on_hf(
    the_hub: Hub, puller: Puller, epic: bytes
) -> None:
    the_hub.add("org/epic", {"epic.gguf": epic})
    path = f"/repos/{hashlib.sha256(epic).hexdigest()}"
    the_hub.cdn.knobs[path] = knobs = Knobs(hold_after=len(epic) // 2)
    ref = "hf:org/epic/epic.gguf"
    here = await killed_and_resumed(
        puller, ref, knobs, {"HF_ENDPOINT": the_hub.endpoint, "HF_HOME": str(puller.root)}, lambda: puller.pull(ref)
    )
    model = await puller.pull(ref)
    assert model.digest == digest(epic)
    assert Path(model.local_path).read_bytes() == epic
    assert the_hub.cdn.starts(path) == [0, here]
    assert 0 <= the_hub.cdn.sent[path] - len(epic) <= len(epic) // 2 - here


@pytest.mark.req("MP-02", "MP-04")
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_pull_that_is_killed_at_any_line_is_followed_by_one_that_succeeds(
    the_hub: Hub, puller: Puller, haiku: bytes
) -> None:
    the_hub.add("org/poems", {"haiku.gguf": haiku})
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.integration.model_provisioner.killed_pull"),
        *("--endpoint", the_hub.endpoint, "--ref", "hf:org/poems", "--digest", digest(haiku)),
        *("--root", str(puller.root), "--step", "29"),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    found = json.loads(output)
    assert found["wrong"] == []
    assert found["points"] > 60
    assert found["resumed"] > 0


@pytest.mark.req("MP-04")
@pytest.mark.timeout(60)
async def test_processes_that_want_the_same_model_fetch_it_once(
    server: FileServer, puller: Puller, epic: bytes, authority: Authority
) -> None:
    server.files["/epic.gguf"] = epic
    server.knobs["/epic.gguf"] = knobs = Knobs(hold_after=len(epic) // 2)
    said: list[str] = []

    async def watch(process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := (await process.stdout.readline()).decode():
            said.append(line)
            if "which fetches epic.gguf" in line:
                knobs.released.set()
        assert await process.wait() == 0

    async with AsyncExitStack() as stack:
        env = {"SSL_CERT_FILE": str(authority.authorities)}
        want = (puller.root, server.url("/epic.gguf"))
        processes = [await stack.enter_async_context(child(*want, env=env)) for _ in range(2)]
        async with asyncio.TaskGroup() as group:
            for process in processes:
                group.create_task(watch(process))
    assert sum(line == f"it has {digest(epic)}\n" for line in said) == 2
    assert server.starts("/epic.gguf") == [0]
    assert server.sent["/epic.gguf"] == len(epic) + 2
    assert len(puller.catalog.list()) == 1


async def test_two_pools_that_want_the_same_model_fetch_it_once(
    server: FileServer, puller: Puller, epic: bytes
) -> None:
    server.files["/epic.gguf"] = epic
    server.knobs["/epic.gguf"] = knobs = Knobs(hold_after=len(epic) // 2)
    puller.on("which fetches epic.gguf", knobs.released.set)
    provisioner = puller.provisioner()
    async with asyncio.TaskGroup() as group:
        one, two = (
            group.create_task(provisioner.ensure_present(server.url("/epic.gguf"), None, puller.say)) for _ in range(2)
        )
    assert one.result() == two.result()
    assert server.starts("/epic.gguf") == [0]


async def test_a_cancelled_pull_leaves_what_the_next_one_uses(server: FileServer, puller: Puller, epic: bytes) -> None:
    server.files["/epic.gguf"] = epic
    server.knobs["/epic.gguf"] = knobs = Knobs(hold_after=len(epic) // 2)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(puller.pull(server.url("/epic.gguf")))
        await puller.going.wait()
        task.cancel()
    knobs.released.set()
    assert (await puller.pull(server.url("/epic.gguf"))).digest == digest(epic)
    assert [start > 0 for start in server.starts("/epic.gguf")] == [False, True]


@pytest.mark.req("MP-04")
async def test_a_fetch_that_is_cancelled_while_its_bytes_are_made_to_last_ends_no_sooner_than_that(
    server: FileServer, puller: Puller, haiku: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is closed then, and what still renames in it would do so in whatever is opened next."""
    server.files["/haiku.gguf"] = haiku
    durable, go, target = threading.Event(), threading.Event(), puller.root / "haiku.gguf"
    make_durable = Folder.make_durable

    def slowly(folder: Folder, name: str, mode: int) -> None:
        durable.set()
        go.wait(50)
        make_durable(folder, name, mode)

    monkeypatch.setattr(Folder, "make_durable", slowly)
    file = RemoteFile(name="haiku.gguf", url=server.url("/haiku.gguf"))
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(Transfer(puller.gate()).fetch(file, target))
        await asyncio.to_thread(durable.wait, 50)
        fetching.cancel()
        group.create_task(asyncio.to_thread(go.set))
    assert fetching.cancelled()
    assert [path.name for path in puller.root.glob("haiku*")] == ["haiku.gguf"]


async def test_the_event_loop_waits_for_no_disk(
    server: FileServer, puller: Puller, haiku: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/haiku.gguf"] = haiku
    threads, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        threads.append(threading.current_thread())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    await puller.pull(server.url("/haiku.gguf"))
    assert threads
    assert threading.main_thread() not in threads


async def test_what_was_whole_and_only_had_no_name_is_not_fetched_again(
    server: FileServer, puller: Puller, epic: bytes
) -> None:
    server.files["/epic.gguf"] = epic
    model = await puller.pull(server.url("/epic.gguf"))
    path = Path(model.local_path)
    note = b'{"if_range":"x","total":%d,"boot":"%s"}' % (len(epic), boot_id().encode())
    path.rename(f"{path}.part")
    Path(f"{path}.part.json").write_bytes(note)
    assert await puller.pull(server.url("/epic.gguf")) == model
    assert server.starts("/epic.gguf") == [0]


async def test_bytes_from_before_a_restart_of_the_machine_are_trusted_only_with_a_digest(
    server: FileServer, puller: Puller, epic: bytes
) -> None:
    server.files["/epic.gguf"] = epic
    model = await puller.pull(server.url("/epic.gguf"))
    path, etag = Path(model.local_path), f'\\"{hashlib.sha256(epic).hexdigest()}\\"'
    for sha256, starts in ((None, 0), (digest(epic), 1000)):
        path.unlink(missing_ok=True)
        Path(f"{path}.part").write_bytes(epic[:1000])
        Path(f"{path}.part.json").write_text(f'{{"if_range":"{etag}","total":{len(epic)},"boot":"another"}}')
        assert await puller.pull(server.url("/epic.gguf"), sha256) == model
        assert server.starts("/epic.gguf")[-1] == starts


# --- full disks -------------------------------------------------------------------------------------------------------


@pytest.mark.req("MP-02")
async def test_a_disk_that_fills_up_is_said_and_what_came_is_kept(
    server: FileServer, puller: Puller, epic: bytes, authority: Authority, operator_sees: OperatorSees
) -> None:
    server.files["/epic.gguf"] = epic
    env = {"SSL_CERT_FILE": str(authority.authorities)}
    async with child(puller.root, server.url("/epic.gguf"), "--largest", "1000000", env=env) as process:
        _, errors = await process.communicate()
    assert process.returncode == 1
    operator_sees("model/fetch-disk-full", errors.decode())
    assert puller.catalog.list() == ()
    assert puller.left(".gguf") == []
    model = await puller.pull(server.url("/epic.gguf"))
    assert model.digest == digest(epic)
    assert server.starts("/epic.gguf")[-1] == 1_000_000
