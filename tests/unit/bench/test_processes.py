"""What the processes of a measurement are given."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench import processes
from bench.processes import as_installed, process


def test_an_environment_that_lets_python_write_bytecode_is_left_as_it_is() -> None:
    assert as_installed({"HOME": "/h", "PYTHONDONTWRITEBYTECODE": ""}) == {"HOME": "/h", "PYTHONDONTWRITEBYTECODE": ""}


async def test_nothing_is_measured_while_it_compiles_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BYTECODE", tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    await processes.write_bytecode("bench.floor")
    assert list(tmp_path.rglob("floor.*.pyc")), "the product's bytecode is not there"
    shown = "import bench.floor; print(bench.floor.__cached__)"
    async with process(sys.executable, "-c", shown, printing=True) as running:
        printed, _ = await running.communicate()
    assert Path(printed.decode().strip()).is_relative_to(tmp_path)
    assert Path(printed.decode().strip()).exists()
