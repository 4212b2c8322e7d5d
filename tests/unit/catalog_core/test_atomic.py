"""The atomic write, the lock and the journal, on real files."""

import errno
import os
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from catalog_core.atomic import read_if_exists, remove_leftovers, write_atomic
from catalog_core.errors import CatalogIoError, LockTimeoutError
from catalog_core.journal import append_line, read_lines
from catalog_core.lock import locked
from contracts.base import Message


class Line(Message, frozen=True, kw_only=True):
    text: str


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """A disk that is full after so many bytes of a file, as far as a writer can tell."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.req("CAT-01")
def test_a_file_is_replaced_whole_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    assert read_if_exists(path) is None
    write_atomic(path, b"old")
    path.chmod(0o644)
    write_atomic(path, b"new")
    assert read_if_exists(path) == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.json"]


def test_another_mode_can_be_asked_for(tmp_path: Path) -> None:
    write_atomic(tmp_path / "public", b"", mode=0o644)
    assert (tmp_path / "public").stat().st_mode & 0o777 == 0o644


@pytest.mark.req("CAT-01", "MP-02")
def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    write_atomic(path, b"old")
    with no_file_longer_than(1000), pytest.raises(OSError, match="large") as caught:
        write_atomic(path, b"x" * 5000)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.json"]


@pytest.mark.req("CAT-01")
def test_the_bytes_are_on_the_disk_before_the_name_is_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A power cut cannot be had here; what can be seen is the order in which the kernel is asked.
    asked: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        asked.append(f"fsync {'directory' if target == tmp_path else target.suffix}")
        real_fsync(descriptor)

    def replace(source: str, target: str) -> None:
        asked.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomic(tmp_path / "index.json", b"new")
    assert asked == ["fsync .tmp", "rename", "fsync directory"]


def test_only_leftovers_of_this_file_are_removed(tmp_path: Path) -> None:
    for name in (".a.json.xyz.tmp", ".b.json.xyz.tmp", "a.json", "a.json.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.json.xyz.tmp", "a.json", "a.json.tmp"]


@pytest.mark.req("CAT-01")
def test_who_waits_too_long_for_the_lock_is_told_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "models.json.lock"
    with locked(path), pytest.raises(LockTimeoutError) as caught, locked(path, wait_s=0.02):
        pass
    assert f"process {os.getpid()} (" in caught.value.holder
    assert caught.value.message == f"{path} has been locked by {caught.value.holder} for more than 0.02 s"
    assert caught.value.hint == "wait for it, or end it if it hangs"
    with locked(path, wait_s=0):
        assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() == b""


def test_who_waits_gets_the_lock_when_it_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with locked(path, wait_s=20):
            order.append("second")

    thread = threading.Thread(target=second)
    with locked(path):
        thread.start()
        waiting.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_lock_is_free_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock"):
        raise ZeroDivisionError
    with locked(tmp_path / "lock", wait_s=0):
        pass


def test_a_journal_gives_back_its_lines_in_order(tmp_path: Path) -> None:
    path = tmp_path / "provenance" / "models.jsonl"
    assert list(read_lines(path, Line)) == []
    for text in ("one", "two\nlines", "three"):
        append_line(path, Line(text=text))
    assert [line.text for line in read_lines(path, Line)] == ["one", "two\nlines", "three"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_line_whose_writer_was_killed_costs_no_other_line(tmp_path: Path) -> None:
    path = tmp_path / "models.jsonl"
    append_line(path, Line(text="one"))
    with path.open("ab") as file:
        file.write(b'{"text": "tor')
    append_line(path, Line(text="two"))
    assert [line.text for line in read_lines(path, Line)] == ["one", "two"]


@pytest.mark.req("MP-02")
def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "models.jsonl"
    append_line(path, Line(text="one"))
    before = path.read_bytes()
    with no_file_longer_than(100), pytest.raises(CatalogIoError) as caught:
        append_line(path, Line(text="x" * 500))
    assert path.read_bytes() == before
    assert caught.value.path == path
    assert caught.value.hint == f"make room on the disk, and see that this user owns {tmp_path}"


def test_lines_of_several_threads_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "models.jsonl"

    def write(name: str) -> None:
        for number in range(20):
            append_line(path, Line(text=f"{name}{number}" * 50))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [line.text for line in read_lines(path, Line)]
    assert sorted(found) == sorted(f"{name}{number}" * 50 for name in "abc" for number in range(20))
