"""What `llama-orch up` tells of this machine beside the logs of the daemons."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_orch.trial import haiku_model_path
from tests.integration.llama_orch.conftest import started
from tests.integration.llama_orch.test_product import Installed, lines_until
from tests.integration.pool_managerd.support import alive
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a short name: a Unix socket below it has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lo-") as folder:
        yield Path(folder)


@pytest.mark.req("OP-06")
async def test_up_tells_what_is_wrong_and_serves_all_the_same(home: Path, port: int) -> None:
    installed = Installed(home, haiku_model_path(), port)
    config = home / ".config/llama-orch/config.yaml"
    config.chmod(0o666)
    async with started(home, ["up"]) as up:
        await lines_until(up.stdout, f"listening on {installed.url}")
        told = f"doctor        | permissions: {config} can be written by others (mode 0666): chmod go-w {config}"
        await lines_until(up.stderr, "pool trial is ready", told)
        up.terminate()
        await up.communicate()
    assert up.returncode == 0


async def test_up_that_is_ended_while_the_doctor_looks_around_leaves_nothing(
    home: Path, tmp_path: Path, port: int
) -> None:
    """What hangs is asked by the doctor alone, and is gone with it."""
    installed = Installed(home, haiku_model_path(), port)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "systemctl").write_text(
        f"#!/bin/sh\necho $$ >> {tmp_path}/pids\necho asked > /dev/stderr\nexec sleep 1000\n"
    )
    (tools / "systemctl").chmod(0o755)
    units = home / ".config/systemd/user"
    units.mkdir(parents=True)
    (units / "llama-orch.target").write_text("[Unit]\n")
    async with started(home, ["up"], PATH=f"{tools}{os.pathsep}{os.environ['PATH']}") as up:
        await lines_until(up.stdout, f"listening on {installed.url}")
        await lines_until(up.stderr, "pool trial is ready")
        asked = tmp_path / "pids"
        await until(lambda: asked.exists() and asked.read_text() != "", "the doctor's question")
        up.terminate()
        _, said = await up.communicate()
    assert up.returncode == 0
    assert b"killed process" not in said
    assert [pid for pid in asked.read_text().split() if alive(int(pid))] == []
