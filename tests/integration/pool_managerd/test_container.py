"""What becomes of a runtime's answers that no real runtime gives on demand; tests/lab has the real ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from container_runtime.errors import ContainerError, RuntimeCause
from contracts.pools import Cause
from daemon_core.redaction import Redactor
from pool_managerd.container import MachineContainers, step_error
from pool_managerd.errors import StepError
from pool_managerd.leftovers import end_containers


def machine(path: Path, *programs: str) -> MachineContainers:
    """A machine with these programs, which cannot do anything."""
    for name in programs:
        (path / name).write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
        (path / name).chmod(0o755)
    return MachineContainers({**os.environ, "PATH": str(path)}, Redactor())


@pytest.mark.req("CR-05", "PM-07")
async def test_a_container_that_cannot_be_listed_is_not_taken_for_gone(tmp_path: Path) -> None:
    with pytest.raises(StepError):
        await end_containers(machine(tmp_path, "docker"), "/h/gpu0.json", "docker", 1)


async def test_a_runtime_that_was_never_used_may_be_broken(tmp_path: Path) -> None:
    assert await machine(tmp_path, "docker", "podman").find("/h/gpu0.json", None) == ()


async def test_what_was_uninstalled_runs_nothing(tmp_path: Path) -> None:
    await end_containers(machine(tmp_path), "/h/gpu0.json", "docker", 1)


def test_every_cause_of_a_runtime_has_one_of_a_pool() -> None:
    for cause in RuntimeCause:
        assert isinstance(step_error(ContainerError(cause, "it is so", "mend it")).cause, Cause)
