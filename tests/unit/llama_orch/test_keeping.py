"""A file that somebody has worked on is never lost, whatever happens while it is replaced."""

import errno
import os
from pathlib import Path
from typing import Self

import pytest

from daemon_core.token import create_token_file
from llama_orch.keeping import put, set_aside, where_to_look


def full(_descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_was_kept_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    kept = [put(path, text, mode=0o600, keep=True) for text in ("one", "two", "three")]
    assert kept == [None, tmp_path / "config.yaml.old", tmp_path / "config.yaml.old.2"]
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        "config.yaml": "three",
        "config.yaml.old": "one",
        "config.yaml.old.2": "two",
    }
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_link_that_points_nowhere_is_something_to_keep(tmp_path: Path) -> None:
    (tmp_path / "a.service.old").symlink_to("/nowhere")
    (tmp_path / "a.service").symlink_to("/dev/null")
    assert set_aside(tmp_path / "a.service") == tmp_path / "a.service.old.2"
    assert (tmp_path / "a.service.old.2").is_symlink()


@pytest.mark.parametrize("keep", [True, False])
def test_a_full_disk_leaves_the_old_file_in_its_place_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, keep: bool
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("mine")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        put(path, "new", mode=0o600, keep=keep)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"config.yaml": "mine"}


def test_a_new_file_that_cannot_take_the_place_gives_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = tmp_path / "config.yaml", Path.replace
    path.write_text("mine")

    def replace(self: Path, target: Path) -> Path:
        if self.suffix == ".tmp":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(PermissionError):
        put(path, "new", mode=0o600, keep=True)
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {"config.yaml": "mine"}


def test_a_full_disk_leaves_no_empty_token(tmp_path: Path) -> None:
    path = tmp_path / "api-token"
    real = os.fdopen

    class Full:
        def __init__(self, descriptor: int) -> None:
            self._file = real(descriptor, "w")

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, _text: str) -> None:
            full(0)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fdopen", lambda descriptor, *_, **__: Full(descriptor))
        with pytest.raises(OSError, match="No space left"):
            create_token_file(path)
    assert not path.exists()


def test_the_hint_is_about_what_is_wrong(tmp_path: Path) -> None:
    assert where_to_look(tmp_path, OSError(errno.ENOSPC, "full")).startswith("df -h")
    assert where_to_look(tmp_path, OSError(errno.EACCES, "denied")).startswith("ls -ld")
