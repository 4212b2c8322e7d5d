"""Digests of real files, and when a remembered one holds."""

import asyncio
import hashlib
import os
import subprocess
import threading
import tracemalloc
from pathlib import Path

import pytest

from catalog_core.atomic import write_atomic
from model_provisioner import digest
from model_provisioner.digest import (
    ChangedError,
    DigestMemory,
    Identity,
    NotRegularError,
    open_regular,
    sha256_of,
)

FULL = "sha256:" + "f" * 64


def identity(path: Path) -> Identity:
    return Identity.of(path.stat())


def quiet(_: str) -> None:
    pass


@pytest.mark.req("MP-03")
async def test_it_is_what_sha256sum_says(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(os.urandom(digest.CHUNK_BYTES + 12345))
    expected = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]
    assert await sha256_of(path, identity(path), quiet) == f"sha256:{expected}"
    (tmp_path / "empty").touch()
    empty = tmp_path / "empty"
    assert await sha256_of(empty, identity(empty), quiet) == f"sha256:{hashlib.sha256().hexdigest()}"


async def test_memory_is_bounded_and_progress_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(digest, "REPORT_BYTES", 8 << 20)
    path = tmp_path / "model"
    with path.open("wb") as file:
        file.truncate(32 << 20)  # a sparse file: 32 MiB of zeros
    lines: list[tuple[str, int]] = []
    tracemalloc.start()
    try:
        await sha256_of(path, identity(path), lambda line: lines.append((line, threading.get_ident())))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    await asyncio.sleep(0)
    here = threading.get_ident()
    assert lines == [(f"computing the digest of model: {part} %", here) for part in (25, 50, 75, 100)]


async def test_cancelling_it_ends_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of zeros, which nobody waits for
    started, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    real = digest._hash  # noqa: SLF001 - its end is what is watched

    def watched(*arguments: object) -> str:
        loop.call_soon_threadsafe(started.set)
        try:
            return real(*arguments)  # type: ignore[arg-type]
        finally:
            ended.set()

    monkeypatch.setattr(digest, "_hash", watched)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(sha256_of(path, identity(path), quiet))
        await started.wait()
        task.cancel()
    assert task.cancelled()
    assert await asyncio.to_thread(ended.wait, 50)


async def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"old")
    before = identity(path)
    path.write_bytes(b"longer")
    with pytest.raises(ChangedError):
        await sha256_of(path, before, quiet)


async def test_a_file_that_changes_after_the_first_look_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digest, "CHUNK_BYTES", 1 << 10)
    monkeypatch.setattr(digest, "REPORT_BYTES", 1 << 10)
    path = tmp_path / "model"
    path.write_bytes(b"x" * 10_000)
    before = identity(path)
    real = digest._require  # noqa: SLF001 - the moment between its two calls is what is needed

    def require_and_append(expected: Identity, descriptor: int, where: Path) -> None:
        real(expected, descriptor, where)
        with path.open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(digest, "_require", require_and_append)
    with pytest.raises(ChangedError):
        await sha256_of(path, before, quiet)


@pytest.mark.req("MP-03")
def test_a_digest_is_remembered_for_the_very_same_file(tmp_path: Path) -> None:
    path, memory = tmp_path / "model", DigestMemory(tmp_path / "digests.json")
    path.write_bytes(b"one")
    assert memory.recall(path, identity(path)) is None
    memory.remember(path, identity(path), FULL)
    again = DigestMemory(tmp_path / "digests.json")
    assert again.recall(path, identity(path)) == FULL
    assert again.recall(tmp_path / "other", identity(path)) is None

    before = path.stat()
    path.write_bytes(b"two")  # the same size, another time
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert again.recall(path, identity(path)) is None
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    write_atomic(path, b"six")  # the same size and time, another inode
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert again.recall(path, identity(path)) is None


def test_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    one, other, memory = tmp_path / "one", tmp_path / "other", DigestMemory(tmp_path / "digests.json")
    for path in (one, other):
        path.touch()
    known = identity(one)
    memory.remember(one, known, FULL)
    one.unlink()
    memory.remember(other, identity(other), FULL)
    assert memory.recall(one, known) is None
    assert str(one) not in (tmp_path / "digests.json").read_text()


@pytest.mark.parametrize("text", ["damaged", '{"schema": 9, "entries": {}}'])
def test_a_memory_that_cannot_be_used_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    path, memory = tmp_path / "model", DigestMemory(tmp_path / "digests.json")
    path.touch()
    (tmp_path / "digests.json").write_text(text)
    assert memory.recall(path, identity(path)) is None
    memory.remember(path, identity(path), FULL)
    assert memory.recall(path, identity(path)) == (FULL if text == "damaged" else None)


def test_only_regular_files_are_opened_and_nobody_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotRegularError):
        open_regular(tmp_path / "pipe")
    with pytest.raises(NotRegularError):
        open_regular(Path("/dev/null"))
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)
