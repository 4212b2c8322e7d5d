"""What is ended before an engine may start in a pool's place, with real children."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from contracts.config import Engine, Pool, Timeouts
from daemon_core import procfs
from pool_managerd import proc
from pool_managerd.handles import HandleFiles
from pool_managerd.host import Host
from pool_managerd.leftovers import clear
from pool_managerd.process import EngineProcess
from pool_managerd.reconcile import Handle, ProcessSeen
from tests.integration.pool_managerd.support import log_at, python
from tests.support.waiting import until

POOL = Pool(id="gpu0", engine=Engine.LLAMACPP, model="m", timeouts=Timeouts(stop_ms=500))


@pytest.mark.req("PM-07", "EP-17")
async def test_a_child_that_hides_its_environment_is_ended_with_its_engine(tmp_path: Path) -> None:
    for name in ("handles", "run", "run/engines"):
        (tmp_path / name).mkdir()
    files = HandleFiles(handles=tmp_path / "handles", runtime=tmp_path / "run", engines=tmp_path / "run/engines")
    # Programs that rename themselves write over what /proc shows as their environment.
    code = (
        "import subprocess, sys, signal\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()'], env={})\n"
        "print('child', child.pid, flush=True)\n"
        "signal.pause()\n"
    )
    log = log_at(tmp_path / "gpu0.log")
    log.begin("starting")
    engine = await EngineProcess.spawn(python(code, Path(files.marker("gpu0"))), log)
    await until(lambda: "child" in log.tail(), "the child")
    child = int(log.tail().split()[1])
    boot = procfs.boot_id()
    seen = cast("ProcessSeen", proc.process_of(engine.pid))
    handle = Handle(
        pool_id="gpu0",
        boot_id=boot,
        port=1,
        launch_hash="h",
        engine_version="1",
        pid=seen.pid,
        start_time_ticks=seen.start_time_ticks,
    )
    files.write(handle)
    assert cast("ProcessSeen", proc.process_of(child)).marker is None
    await clear(POOL, "blue", cast("Host", SimpleNamespace(files=files, boot_id=boot)))
    assert proc.process_of(child) is None
    assert proc.process_of(engine.pid) is None
    assert files.read("gpu0") is None
    await engine.end(0)
