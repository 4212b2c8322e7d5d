"""Which runtime is chosen on a real host, and what is said where neither works."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.host import DOCKER, REGISTRY, Lab

pytestmark = [pytest.mark.req("CR-01", "ORCH-3801"), pytest.mark.timeout(900), pytest.mark.slow]

CHOOSE = r"""
. "$CHECKOUT/tests/lab/containers.sh"
use_podman
[ ! -e /run/wants-docker ] || use_docker
cat > ~/choose.py << 'CODE'
import asyncio, json, os
from container_runtime.choose import choose
from container_runtime.errors import ContainerError

async def main():
    try:
        chosen = await choose(os.environ, str)
    except ContainerError as error:
        return [str(error.cause), error.message, error.hint]
    return [chosen.runtime.name, chosen.reason, [seen.runtime for seen in chosen.detections]]

print(json.dumps(asyncio.run(main())))
CODE
choose() { "$PYTHON" -X dev -W error ~/choose.py; }
"""


def answers(lab: Lab, script: str, *hooks: Path) -> list[list[Any]]:
    return [json.loads(line) for line in lab.check(CHOOSE + script, hook=hooks).stdout.splitlines()]


@pytest.fixture
def no_subids(tmp_path: Path) -> Path:
    """The user has no numbers for what is in a container."""
    hook = tmp_path / "hook"
    hook.write_text("sed -i /^lab:/d /etc/subuid /etc/subgid\n")
    return hook


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """A docker daemon, for which scripts wait."""
    hook = tmp_path / "docker"
    hook.write_text("touch /run/wants-docker\n" + DOCKER.read_text())
    return hook


def test_rootless_podman_comes_first_where_both_work(lab: Lab, docker: Path) -> None:
    ((name, reason, seen),) = answers(lab, "choose", docker)
    assert name == "podman"
    assert reason.startswith("rootless podman ")
    assert reason.endswith(" works; it cannot limit memory, cpu, pids here")
    assert seen == ["podman"]


def test_docker_is_taken_where_podman_is_there_and_does_not_work(lab: Lab, docker: Path, no_subids: Path) -> None:
    ((name, reason, seen),) = answers(lab, "choose", no_subids, docker)
    assert name == "docker"
    assert reason.startswith("docker ")
    assert "rootless podman comes first, but: podman has 1 ids for containers: /etc/subuid gives this user no" in reason
    assert seen == ["podman", "docker"]


def test_where_neither_works_both_reasons_and_both_mends_are_said(lab: Lab, no_subids: Path) -> None:
    script = r"""
choose
mkdir ~/empty
PATH=~/empty choose
ln -s /usr/bin/podman ~/empty/docker
PATH=~/empty choose
"""
    no_ids, nothing, disguised = answers(lab, script, no_subids)
    assert no_ids[0] == nothing[0] == disguised[0] == "no_runtime"
    assert "/etc/subuid gives this user no range" in no_ids[1]
    assert "the docker daemon cannot be used: Cannot connect to the Docker daemon" in no_ids[1]
    assert "usermod --add-subuids" in no_ids[2]
    assert "systemctl enable --now docker" in no_ids[2]
    assert nothing[1] == "no container runtime works here: podman is not installed; docker is not installed"
    assert "apt install podman" in nothing[2]
    assert "docker" in disguised[1]


def test_a_docker_that_this_user_may_not_talk_to_or_on_another_machine_is_none(
    lab: Lab, docker: Path, no_subids: Path
) -> None:
    # The daemon makes its socket with no rights and gives it those that it shall have afterwards: ours come last.
    wait = 'until [ "$(stat -c %a /run/docker.sock 2> /dev/null)" = 660 ]; do sleep 0.05; done\n'
    docker.write_text(DOCKER.read_text() + wait + "chmod 600 /run/docker.sock\n")
    script = "DOCKER_HOST=tcp://127.0.0.1:1 choose; choose"
    remote, forbidden = answers(lab, script, no_subids, docker)
    assert "Cannot connect to the Docker daemon at tcp://127.0.0.1:1" in remote[1]
    assert "permission denied" in forbidden[1]
    assert "usermod --append --groups docker" in forbidden[2]


@pytest.mark.req("ORCH-3803")
def test_docker_without_support_for_gpus_fails_and_never_runs_without_one(lab: Lab, docker: Path) -> None:
    script = r"""
export IMAGE=$registry/lab/engine DIGEST
push_image lab/engine:1
DIGEST=$digest
"$PYTHON" "$CHECKOUT/tests/lab/container_scenes.py" docker without_gpus
"""
    outcome = lab.check(CHOOSE + script, hook=(REGISTRY, docker))
    found = json.loads(outcome.stdout)
    assert found == {"run": "no_device", "gpus": "no_device", "preflight": ["container-device"], "left": 0}
    assert "could not select device driver" in outcome.stderr
