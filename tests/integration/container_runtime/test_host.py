"""What a preflight sees of a real machine."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from container_runtime import host
from container_runtime.spec import Mount, PortMapping

pytestmark = pytest.mark.req("CR-01", "ORCH-3804")

CDI = "cdiVersion: '0.5.0'\nkind: nvidia.com/gpu\ndevices: [{name: '0'}]\n"


def test_cdi_files_are_read_as_yaml_and_as_json_and_say_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CDI)
    (tmp_path / "b.json").write_text(json.dumps({"cdiVersion": "0.3.0", "kind": "x.org/y", "devices": [{"name": "z"}]}))
    (tmp_path / "c.yaml").write_text("a: [")
    (tmp_path / "d.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "e.yaml").mkdir()
    (tmp_path / "f.txt").write_text(CDI)
    good, also_good, broken, bytes_only, directory = host.cdi_files((tmp_path, tmp_path / "nothere"))
    assert good.devices == ("nvidia.com/gpu=0",)
    assert also_good.devices == ("x.org/y=z",)
    assert broken.problem == bytes_only.problem == "it is neither YAML nor JSON"
    assert directory.problem == "it cannot be read: Is a directory"


def test_a_port_is_taken_while_somebody_listens() -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with contextlib.closing(socket.create_server((address, 0), family=family)) as listener:
            port = PortMapping(container=80, host=listener.getsockname()[1], address=address)
            assert host.port_taken(port)
        assert not host.port_taken(port)
    assert not host.port_taken(PortMapping(container=80))


def test_a_mount_that_cannot_be_says_why(tmp_path: Path) -> None:
    target = "/x"
    assert host.mount_problem(Mount(source=str(tmp_path), target=target, writable=True)) is None
    assert host.mount_problem(Mount(source=str(tmp_path / "no"), target=target)) == "does not exist"
    # Which refuses writing even to root.
    assert (
        host.mount_problem(Mount(source="/proc/sys/kernel/ostype", target=target, writable=True)) == "cannot be written"
    )


def test_nvidias_hook_is_looked_for_where_a_daemon_would(tmp_path: Path) -> None:
    hook = tmp_path / "nvidia-container-runtime-hook"
    assert host.nvidia_hook(str(tmp_path)) is None
    hook.write_text("#!/bin/sh\n")
    assert host.nvidia_hook(str(tmp_path)) is None
    hook.chmod(0o755)
    assert host.nvidia_hook(str(tmp_path)) == hook


def test_the_processes_of_a_container_are_all_that_came_from_its_first() -> None:
    script = "sh -c 'sleep 1000 & sleep 1000 & echo ready; wait'; true"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = host.descendants(process.pid)
        assert process.pid in found
        assert len(found) == 4
        os.killpg(process.pid, 9)
        process.wait()
    assert host.descendants(process.pid) == ()
