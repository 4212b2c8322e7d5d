import json
import stat
from pathlib import Path

import pytest
from msgspec.structs import replace

from contracts.config import Engine, Mode
from contracts.engines import Handoff
from pool_managerd.handles import HandleFiles
from pool_managerd.reconcile import Handle

HANDLE = Handle(
    pool_id="gpu0",
    pid=42,
    start_time_ticks=7,
    boot_id="b",
    port=8000,
    launch_hash="h",
    engine_version="1",
    model_digest="d",
)
HANDOFF = Handoff(
    engine=Engine.LLAMACPP,
    engine_version="1",
    provisioning_mode=Mode.PACKAGE,
    url="http://127.0.0.1:8000",
    pool_id="gpu0",
    replica_id="gpu0-0",
    model="file:/m",
    flags=("--port", "8000"),
)


@pytest.fixture
def files(tmp_path: Path) -> HandleFiles:
    for name in ("handles", "run", "run/engines"):
        (tmp_path / name).mkdir()
    return HandleFiles(handles=tmp_path / "handles", runtime=tmp_path / "run", engines=tmp_path / "run/engines")


def names(tmp_path: Path) -> list[str]:
    return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.req("EP-12", "EP-15")
def test_a_running_engine_has_its_files_and_a_stopped_one_none(files: HandleFiles, tmp_path: Path) -> None:
    files.write(HANDLE)
    files.hand_over(HANDOFF)
    assert names(tmp_path) == ["handles/gpu0.json", "run/engines/gpu0.json", "run/gpu0.pid"]
    assert (tmp_path / "run/gpu0.pid").read_text() == "42\n"
    assert json.loads((tmp_path / "run/engines/gpu0.json").read_text()) == {
        "engine": "llamacpp",
        "engine_version": "1",
        "provisioning_mode": "package",
        "url": "http://127.0.0.1:8000",
        "pool_id": "gpu0",
        "replica_id": "gpu0-0",
        "model": "file:/m",
        "flags": ["--port", "8000"],
    }
    for _ in range(2):
        files.withdraw("gpu0")
        files.remove("gpu0")
    assert names(tmp_path) == []


def test_a_handle_is_private_and_comes_back_as_it_was(files: HandleFiles, tmp_path: Path) -> None:
    files.write(HANDLE)
    assert files.load() == (HANDLE,)
    assert stat.S_IMODE((tmp_path / "handles/gpu0.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"pool_id": "other"}'])
def test_a_broken_handle_is_said_and_does_not_hide_the_others(
    files: HandleFiles, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    files.write(HANDLE)
    (tmp_path / "handles/gpu1.json").write_bytes(content)
    assert files.load() == (HANDLE,)
    assert "gpu1.json is of no use" in caplog.text
    assert files.markers(("gpu0",))[files.marker("gpu1")] == "gpu1"


def test_a_handle_under_another_name_is_not_trusted(files: HandleFiles, tmp_path: Path) -> None:
    files.write(HANDLE)
    (tmp_path / "handles/gpu0.json").rename(tmp_path / "handles/gpu9.json")
    assert files.load() == ()


def test_a_successor_has_files_of_its_own(files: HandleFiles, tmp_path: Path) -> None:
    green = replace(HANDLE, side="green", pid=43)
    files.write(HANDLE)
    files.write(green)
    assert names(tmp_path) == ["handles/gpu0.green.json", "handles/gpu0.json", "run/gpu0.green.pid", "run/gpu0.pid"]
    assert (files.read("gpu0"), files.read("gpu0.green")) == (HANDLE, green)
    assert files.markers(("gpu1",)) == {
        files.marker(instance): instance for instance in ("gpu0", "gpu0.green", "gpu1", "gpu1.green")
    }
    files.remove("gpu0.green")
    assert files.load() == (HANDLE,)
