"""Engines prepared from real images, by real rootless podman or docker, from a real registry, with CDI devices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.host import DOCKER, REGISTRY, Lab

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

UUIDS = [f"GPU-00000000-0000-0000-0000-00000000000{index}" for index in (0, 1)]

ENGINE = r"""
. "$CHECKOUT/tests/lab/containers.sh"
use_podman
mkdir -p ~/image/bin
cat > ~/image/bin/tritonserver << 'SERVER'
#!/bin/sh
echo "args $*"
cat "$2/gpu1/1/model.json" /model/config.json
touch /cache/compiled && echo the cache can be written
touch "$2/x" || echo the repository cannot
touch /x || echo the root cannot
echo "home=$HOME gpus=$(cd /dev; echo nvidia?) visible=$CUDA_VISIBLE_DEVICES"
SERVER
chmod 755 ~/image/bin/tritonserver
push_image engine:1 ~/image
export IMAGE=$registry/engine DIGEST=$digest
echo "$DIGEST" > ~/digest
"""


def scene(
    lab: Lab, name: str, *, gpus: int = 2, hooks: tuple[Path, ...] = (REGISTRY,), before: str = ""
) -> dict[str, Any]:
    script = f'{ENGINE}\n{before}\n"$PYTHON" -m tests.lab.container_engine_scenes {name} > ~/answers\n'
    outcome = lab.check(f'cd "$CHECKOUT"\n{script}\ncat ~/digest ~/answers', limit_s=600, gpus=gpus, hook=hooks)
    digest, _, answers = outcome.stdout.partition("\n")
    found = json.loads(answers.replace(digest, "DIGEST").replace(digest[7:19], "SHORT"))
    assert isinstance(found, dict)
    return found


def a_hook(tmp_path: Path, text: str) -> Path:
    """A hook that changes what CDI says."""
    path = tmp_path / "cdi.hook"
    path.write_text(text)
    return path


@pytest.mark.req("ORCH-3801", "ORCH-3802", "ORCH-3804", "ORCH-3805", "EP-18")
def test_an_engine_is_prepared_by_digest_and_starts_with_what_was_prepared(lab: Lab) -> None:
    found = scene(lab, "by_digest")
    engine = found["engine"]
    assert engine["image_ref"] == "127.0.0.1:5000/engine@DIGEST"
    assert (engine["engine_version"], engine["engine_digest"]) == ("triton 1", "DIGEST")
    assert engine["container"]["runtime"] == "podman"
    assert engine["container"]["runtime_reason"].startswith("rootless podman")
    assert found["same"]
    assert "127.0.0.1:5000/engine@DIGEST is here" in found["again"]
    ((entry_id, version, digest),) = found["entries"]
    assert (entry_id[:17], version, digest) == ("triton-container-", "triton 1", "DIGEST")
    assert found["preflight"] == []
    log = found["log"]
    (args,) = [line for line in log if line.startswith("args ")]
    assert args.startswith("args --model-repository /repository --model-control-mode explicit --load-model gpu1")
    assert "--http-address 0.0.0.0 --http-port 8000" in args
    assert '  "model": "/model",' in log
    assert {"the model", "the cache can be written", "the repository cannot", "the root cannot"} <= set(log)
    assert "home=/cache gpus=nvidia1 visible=" in log


@pytest.mark.req("ORCH-3802")
def test_a_tag_is_resolved_with_the_line_that_pins_it(lab: Lab) -> None:
    found = scene(lab, "by_tag")
    assert found["engine"]["image_ref"] == "127.0.0.1:5000/engine@DIGEST"
    assert (
        "warning: 127.0.0.1:5000/engine:1 is a tag, which can mean another image tomorrow; to keep this one:"
        ' pools[gpu1].provisioning.container: {image: "127.0.0.1:5000/engine", tag: "1", digest: "DIGEST"}'
    ) in found["said"]


def test_trial_prepares_a_named_image_without_a_device(lab: Lab) -> None:
    engine = scene(lab, "trial", gpus=0)["engine"]
    assert engine["container"]["digest"] == "DIGEST"
    assert engine["env"]["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.req("ORCH-3801")
def test_docker_is_used_where_podman_is_not_and_the_record_says_why(lab: Lab) -> None:
    found = scene(lab, "by_docker", hooks=(REGISTRY, DOCKER), before="use_docker")
    assert found["engine"]["image_ref"] == "127.0.0.1:5000/engine@DIGEST"
    container = found["engine"]["container"]
    assert container["runtime"] == "docker"
    assert container["runtime_reason"].endswith("rootless podman comes first, but: podman is not installed")


@pytest.mark.req("ORCH-3803", "ORCH-3804")
def test_a_device_that_brings_another_gpu_is_refused(lab: Lab, tmp_path: Path) -> None:
    hook = a_hook(tmp_path, "sed -i 's|path: /dev/nvidia1|path: /dev/nvidia0|' /run/cdi/nvidia.yaml\n")
    found = scene(lab, "refused", hooks=(REGISTRY, hook))
    assert found["cause"] == "no_gpu"
    assert found["error"] == (
        f"a container of 127.0.0.1:5000/engine@DIGEST is given {UUIDS[1]} and does not see it; it sees {UUIDS[0]}"
    )
    assert "nvidia-ctk cdi generate" in found["hint"]


@pytest.mark.req("ORCH-3804")
def test_a_device_that_brings_every_gpu_is_refused(lab: Lab, tmp_path: Path) -> None:
    both = "{path: /dev/nvidia0}, {path: /dev/nvidia1}"
    hook = a_hook(tmp_path, f"sed -i 's|{{path: /dev/nvidia1}}|{both}|' /run/cdi/nvidia.yaml\n")
    found = scene(lab, "refused", hooks=(REGISTRY, hook))
    assert found["cause"] == "container_runtime"
    assert found["error"] == f"a container of 127.0.0.1:5000/engine@DIGEST sees {UUIDS[0]}, which it is not given"


@pytest.mark.req("ORCH-3804")
def test_without_the_container_toolkit_nothing_is_prepared(lab: Lab) -> None:
    found = scene(lab, "refused", gpus=0)
    assert found["preflight"] == ["there is no CDI file in /etc/cdi or /var/run/cdi"]
    assert found["cause"] == "no_gpu"


@pytest.mark.req("CR-02")
def test_a_missing_image_and_a_missing_registry_are_told_apart(lab: Lab) -> None:
    found = scene(lab, "pulls")
    zeros = "0" * 64
    assert [(each["cause"], each["error"], each["retriable"]) for each in found.values()] == [
        ("engine_fetch", f"the registry has no image 127.0.0.1:5000/engine@sha256:{zeros}", False),
        ("engine_fetch", "the registry 127.0.0.1:5001 cannot be reached", True),
    ]
