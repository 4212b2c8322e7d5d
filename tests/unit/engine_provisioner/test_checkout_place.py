"""A checkout gets its place when it is whole on the disk: what has its name there is built, also after a power cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from catalog_core import atomic
from engine_provisioner.providers import source


@pytest.mark.req("EP-03")
def test_a_checkout_has_its_name_only_when_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    incoming, target = tmp_path / ".incoming", tmp_path / "commit"
    (incoming / "src").mkdir(parents=True)
    (incoming / "src" / "llama.cpp").write_text("int main() {}\n")
    done: list[str] = []

    def flush(directory: Path) -> None:
        assert directory == incoming
        assert not target.exists()
        atomic.sync_file_system(directory)  # the real one, too
        done.append("flushed")

    def name(directory: Path) -> None:
        assert directory == tmp_path
        assert target.is_dir()
        done.append("named")

    monkeypatch.setattr(source, "sync_file_system", flush)
    monkeypatch.setattr(source, "sync_directory", name)
    source._move(incoming, target)  # noqa: SLF001 - its step on its own
    assert done == ["flushed", "named"]
    assert (target / "src" / "llama.cpp").read_text() == "int main() {}\n"
    (incoming / "src").mkdir(parents=True)
    source._move(incoming, target)  # noqa: SLF001
    assert not incoming.exists()


def test_what_is_no_directory_of_a_file_system_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        atomic.sync_file_system(tmp_path / "missing")
