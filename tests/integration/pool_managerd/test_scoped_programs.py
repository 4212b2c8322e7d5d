"""What stands before a program in a scope, run for real: whatever its path is, the program is what runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from pool_managerd.diagnosis import Exit
from pool_managerd.process import EngineProcess
from tests.integration.pool_managerd.scopes import a_service
from tests.integration.pool_managerd.support import log_at, python


@pytest.mark.req("OP-01", "EP-16")
@pytest.mark.parametrize("folder", ["plain", "with blanks", "v=2", "-n"])
async def test_a_program_runs_in_a_scope_wherever_it_lies(tmp_path: Path, folder: str) -> None:
    daemon = a_service(tmp_path / "bin")
    program = tmp_path / folder / "engine"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    code = "import os; print('me', os.getpid(), os.environ.get('INVOCATION_ID'), os.getpriority(0, 0), flush=True)"
    scope = (str(tmp_path / "bin" / "systemd-run"), "--")
    spec = replace(
        python(code, tmp_path / "gpu0.json"), argv=(str(program), "-c", code), scope=scope, environ=dict(daemon)
    )
    log = log_at(tmp_path / "gpu0.log")
    log.begin("starting")
    process = await EngineProcess.spawn(spec, log)
    assert await process.wait() == Exit(status=0), log.tail()
    await process.end(0)
    assert log.tail() == f"me {process.pid} None {os.getpriority(os.PRIO_PROCESS, 0)}"
