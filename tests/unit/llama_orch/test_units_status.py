"""What `llama-orch units status` says beside its table."""

import pytest

from llama_orch.commands.units import StatusReport, UnitReport, remarks
from llama_orch.units.files import Standing

pytestmark = pytest.mark.req("OP-01")


def report(file: Standing = Standing.CURRENT) -> StatusReport:
    unit = UnitReport(name="orchestratord.service", loaded="loaded", active="active", sub="running", file=file)
    return StatusReport(version="1.0", folder="/u", units=(unit,), engines=(), at_login=True, at_boot=False)


def test_a_daemon_that_runs_on_after_an_upgrade_is_told_with_its_mend() -> None:
    told = remarks(report(), "ada", ["orchestratord.service"])
    name = "orchestratord.service"
    assert told[1:] == [f"{name} runs since before this version was installed: systemctl --user restart {name}"]
    assert len(remarks(report(), "ada", [])) == 1


def test_a_unit_of_another_version_is_told_too() -> None:
    told = remarks(report(Standing.OLDER), "ada", [])
    assert told == [
        "starts when you log in: yes; at boot: no (loginctl enable-linger ada)",
        "orchestratord.service is of another version: llama-orch units install",
    ]
