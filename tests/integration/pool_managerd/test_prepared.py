"""What was prepared for a pool stays on the disk, without secrets, and never keeps an engine from its start."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from catalog_core.engines import FsEngineCatalog
from contracts.config import Engine, Mode, Package, Pool, Profile, Provisioning
from contracts.engines import PreparedEngine
from engine_provisioner.host import Host
from pool_managerd.wiring import ProvisionedEngines

pytestmark = pytest.mark.req("OP-03")

SECRET = "hush-hush-hush"
POOL = Pool(
    id="trial",
    engine=Engine.LLAMACPP,
    model="/m.gguf",
    provisioning=Provisioning(mode=Mode.PACKAGE, package=Package(name="xllamacpp")),
    env={"HF_TOKEN": SECRET, "OTHER": f"it is {SECRET}"},
)


def engines(root: Path) -> ProvisionedEngines:
    host = Host(environ=dict(os.environ), catalog=FsEngineCatalog(root / "catalog"), cache=root / "cache")
    return ProvisionedEngines(Profile.TRIAL, host, root / "prepared")


async def test_what_was_prepared_last_is_written_without_its_secrets(tmp_path: Path) -> None:
    (tmp_path / "prepared").mkdir()
    engine = await engines(tmp_path).ensure(POOL, lambda _line: None)
    assert engine.env["HF_TOKEN"] == SECRET
    file = tmp_path / "prepared/trial.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    expected = msgspec.structs.replace(engine, env={**engine.env, "HF_TOKEN": "***", "OTHER": "it is ***"})
    assert msgspec.json.decode(file.read_bytes(), type=PreparedEngine) == expected


async def test_an_engine_is_prepared_where_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = await engines(tmp_path).ensure(POOL, lambda _line: None)
    assert engine.engine_digest is not None
    assert "cannot write what was prepared" in caplog.text
