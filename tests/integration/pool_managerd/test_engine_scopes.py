"""Which engines get a scope, and what is said where they get none; tests/lab has the real service manager."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool_managerd import engine_scopes
from pool_managerd.engine_scopes import EngineScopes
from tests.integration.pool_managerd.scopes import NO_BUS, WORKS, a_service


@pytest.mark.req("OP-01", "PM-07")
async def test_a_service_of_the_users_manager_gives_each_start_of_an_engine_a_scope_of_its_own(tmp_path: Path) -> None:
    scopes = EngineScopes(a_service(tmp_path / "bin"))
    first, second = await scopes.around("gpu0"), await scopes.around("gpu0")
    assert first[0] == "systemd-run"
    assert first != second


async def test_whoever_is_no_service_starts_engines_as_children_like_any_others(tmp_path: Path) -> None:
    environ = a_service(tmp_path / "bin", NO_BUS)
    assert await EngineScopes({**environ, "SYSTEMD_EXEC_PID": "1"}).around("gpu0") == ()


@pytest.mark.req("OP-01")
@pytest.mark.parametrize(
    ("systemd_run", "why"),
    [
        (None, "systemd-run is not installed"),
        (NO_BUS, "Failed to connect to bus: No such file or directory"),
        ("exit 7\n", "systemd-run ended with status 7"),
        ("exec sleep 100\n", "the service manager did not answer within 0.05 s"),
    ],
)
async def test_where_no_scope_is_to_be_had_it_is_said_what_that_costs(
    tmp_path: Path,
    systemd_run: str | None,
    why: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "sleep" in (systemd_run or ""):
        monkeypatch.setattr(engine_scopes, "TRY_S", 0.05)
    environ = {**a_service(tmp_path / "bin", systemd_run)}
    environ["PATH"] += ":/usr/bin:/bin" if systemd_run is not None else ""
    assert await EngineScopes(environ).around("gpu0") == ()
    assert f"gpu0: its engine gets no scope of its own ({why})" in caplog.text
    assert "it ends whenever pool-managerd does" in caplog.text


def test_the_kernel_is_asked_for_both_groups_and_counts_nothing_where_nobody_counts(tmp_path: Path) -> None:
    scopes = EngineScopes(a_service(tmp_path / "bin", WORKS))
    assert min(scopes.inside.count(), scopes.outside.count()) >= 0
