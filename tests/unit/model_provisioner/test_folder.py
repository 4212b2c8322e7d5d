"""A folder in which no link is followed, whatever somebody planted there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model_provisioner.folder import Folder, LinkError

Use = Callable[[Folder], object]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/victim").write_bytes(b"precious")
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize("link", ["a", "a/b", "a/b/c"])
def test_no_directory_on_the_way_may_be_a_link(cache: Path, link: str, create: bool) -> None:
    (cache / link).parent.mkdir(parents=True, exist_ok=True)
    (cache / link).symlink_to(cache.parent / "outside")
    with pytest.raises(LinkError) as caught:
        Folder.open(cache / "a/b/c", below=cache, create=create)
    assert caught.value.filename == str(cache / link)
    assert [path.name for path in (cache.parent / "outside").iterdir()] == ["victim"]


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda folder: folder.reader("x"), id="read"),
        pytest.param(lambda folder: folder.appender("x"), id="append"),
        pytest.param(lambda folder: folder.read("x", 10), id="read all"),
        pytest.param(lambda folder: folder.size("x"), id="look at"),
        pytest.param(lambda folder: folder.make_durable("x", 0o644), id="make durable"),
    ],
)
def test_no_file_may_be_a_link(cache: Path, use: Use) -> None:
    (cache / "x").symlink_to(cache.parent / "outside/victim")
    with Folder.open(cache, below=cache) as folder, pytest.raises(LinkError):
        use(folder)
    assert (cache.parent / "outside/victim").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda folder: folder.write("x", b"new"), id="write"),
        pytest.param(lambda folder: folder.create_empty("x"), id="create"),
        pytest.param(lambda folder: folder.remove("x"), id="remove"),
        pytest.param(lambda folder: (folder.write("y", b"new"), folder.rename("y", "x")), id="rename"),
    ],
)
def test_a_link_is_replaced_or_removed_and_what_it_leads_to_is_left_alone(cache: Path, use: Use) -> None:
    (cache / "x").symlink_to(cache.parent / "outside/victim")
    with Folder.open(cache, below=cache) as folder:
        use(folder)
    assert not (cache / "x").is_symlink()
    assert (cache.parent / "outside/victim").read_bytes() == b"precious"


def test_the_way_to_the_cache_is_the_users_affair(cache: Path) -> None:
    link = cache.parent / "link"
    link.symlink_to(cache)
    with Folder.open(link / "a", below=link, create=True) as folder:
        folder.write("x", b"1")
        assert folder.read("x", 10) == b"1"
        assert folder.names() == ["x"]
    assert (cache / "a/x").read_bytes() == b"1"


def test_what_is_no_file_is_none(cache: Path) -> None:
    os.mkfifo(cache / "pipe")
    (cache / "directory").mkdir()
    (cache / "file").touch()
    with Folder.open(cache, below=cache) as folder:
        assert folder.read("nothing", 10) is None
        assert folder.size("nothing") is None
        for name in ("pipe", "directory"):
            with pytest.raises(OSError, match="it is no regular file"):
                folder.size(name)
        with pytest.raises(OSError, match="it is no regular file"):
            folder.reader("pipe")  # and it does not wait for a writer
    with pytest.raises(NotADirectoryError):
        Folder.open(cache / "file/x", below=cache)
    with pytest.raises(FileNotFoundError):
        Folder.open(cache / "nothing", below=cache)


def test_a_directory_that_was_moved_away_is_still_the_one_that_was_opened(cache: Path) -> None:
    with Folder.open(cache / "a", below=cache, create=True) as folder:
        (cache / "a").rename(cache / "b")
        (cache / "a").symlink_to(cache.parent / "outside")
        folder.write("x", b"1")
    assert (cache / "b/x").read_bytes() == b"1"
    assert [path.name for path in (cache.parent / "outside").iterdir()] == ["victim"]
