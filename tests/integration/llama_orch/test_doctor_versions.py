"""The doctor tells a daemon that runs on after an upgrade, here and on another machine."""

from pathlib import Path

import pytest

from daemon_core.version import version
from llama_orch.doctor.judge.versions import ELSEWHERE
from llama_orch.doctor.machine import Machine
from tests.integration.llama_orch.test_doctor import found, ids, machine
from tests.unit.llama_orch.fake import TOKEN, FakeDaemon

pytestmark = pytest.mark.req("OP-01")


async def test_orchestratord_of_another_version(fake: FakeDaemon, tmp_path: Path, url: str) -> None:
    examined = machine(tmp_path, url)
    assert ids(await found(examined, "versions")) == ["versions.skipped"]  # it tells none
    fake.version = version()
    assert ids(await found(examined, "versions")) == ["versions.ok"]
    fake.version = "0.0.1"
    (told,) = await found(examined, "versions")
    assert (told.id, told.what) == ("versions.protocol", f"orchestratord is version 0.0.1, and this is {version()}")
    assert "systemctl --user restart" in str(told.mend)


async def test_a_command_line_on_another_machine(fake: FakeDaemon, tmp_path: Path, url: str) -> None:
    fake.version = "0.0.1"
    environ = {"HOME": str(tmp_path), "LLORCH_URL": url, "LLORCH_API_TOKEN": TOKEN, "XDG_RUNTIME_DIR": "/tmp"}
    examined = Machine(config_path=tmp_path / "none.yaml", url=None, environ=environ)
    (told,) = await found(examined, "versions")
    assert told.what == f"orchestratord on {url} is version 0.0.1, and this is {version()}"
    assert told.mend == ELSEWHERE
    environ["LLORCH_API_TOKEN"] = "another-token-0123456789"
    assert ids(await found(Machine(config_path=tmp_path / "none.yaml", url=None, environ=environ), "versions")) == [
        "versions.skipped"
    ]
