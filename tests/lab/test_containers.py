"""Rootless podman and docker, as the product drives them: real programs, real registries, real containers.

One host for each runtime plays all scenes of container_scenes.py; the tests read what each of them answered. The GPUs
are device nodes with a CDI specification (podman), or the hook of a container toolkit that is a stand-in (docker).
"""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.lab.host import DOCKER, REGISTRY, Lab, Outcome

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

SCENES = ("images", "twins", "failures", "run", "ends", "logs", "crash", "gpus")
PLAY = r"""
. "$CHECKOUT/tests/lab/containers.sh"
use_podman
export IMAGE=$registry/lab/engine DIGEST PATH=$PATH:/run/toolkit
push_image lab/engine:1
DIGEST=$digest
[ $RUNTIME = podman ] || use_docker
for scene in $SCENES; do
  printf '%s\t' $scene
  "$PYTHON" -X dev -W error "$CHECKOUT/tests/lab/container_scenes.py" $RUNTIME $scene
  echo
done
"""
UUID = "GPU-00000000-0000-0000-0000-00000000000"
Answers = dict[str, Any]


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> Iterator[dict[str, Future[Outcome]]]:
    """Both hosts, by the runtime's name. They wait most of the time, so they play at the same time."""
    with ThreadPoolExecutor() as pool:
        playing = {}
        for runtime, hooks in (("podman", (REGISTRY,)), ("docker", (REGISTRY, DOCKER))):
            script = f"RUNTIME={runtime}; SCENES='{' '.join(SCENES)}'\n{PLAY}"
            playing[runtime] = pool.submit(lab.check, script, gpus=2, hook=hooks, limit_s=600)
        yield playing


@pytest.fixture(scope="module", params=["podman", "docker"])
def scenes(hosts: dict[str, Future[Outcome]], request: pytest.FixtureRequest) -> Answers:
    """What each scene answered, by its name; and the runtime's name."""
    outcome = hosts[request.param].result()
    played = (line.partition("\t") for line in outcome.stdout.splitlines())
    return {"runtime": request.param} | {name: json.loads(text) for name, _, text in played}


@pytest.mark.req("CR-02", "ORCH-3802")
def test_an_image_is_pulled_by_its_digest_which_is_then_what_is_here(scenes: Answers) -> None:
    images = scenes["images"]
    assert images["before"] is None
    assert images["pulled"] is True
    assert images["present"] is True
    assert images["other digest"] is None
    assert images["by digest"]
    assert not any("warning" in line for line in images["by digest"])


@pytest.mark.req("ORCH-3802")
def test_a_tag_is_resolved_to_its_digest_with_a_warning(scenes: Answers) -> None:
    images = scenes["images"]
    assert images["by tag"] is True
    tag = "127.0.0.1:5000/lab/engine:1"
    assert images["warning"] == f"warning: {tag} is a tag, which can change: it is DIGEST now; pin that digest"


@pytest.mark.req("ORCH-3802")
def test_a_digest_that_a_tag_is_resolved_to_is_one_that_the_registry_has(scenes: Answers) -> None:
    assert scenes["twins"] == dict.fromkeys(("differ", "known", "other", "tag", "by either"), True)


@pytest.mark.req("CR-02")
def test_each_way_in_which_an_image_does_not_come_is_an_error_of_its_own(scenes: Answers) -> None:
    images = scenes["images"]
    assert images["no such digest"] == images["no such tag"] == images["no such image"] == "image_missing"
    assert images["no registry"] == "registry_unreachable"
    assert images["no login"] == "unauthorized"
    assert images["tampered layer"] == images["cut layer"] == "tampered_content"
    assert images["tampered manifest"] == "digest_mismatch"
    assert images["after failures"] is None


@pytest.mark.req("CR-02")
def test_the_users_own_login_is_what_a_registry_sees(scenes: Answers) -> None:
    assert scenes["images"]["logged in"] is True


@pytest.mark.req("CR-03", "ORCH-3801")
def test_a_port_is_reached_from_this_machine_and_from_nowhere_else(scenes: Answers) -> None:
    assert scenes["run"]["body"] == "served\n"
    assert scenes["run"]["listens on"] == ["0100007F"]  # 127.0.0.1, as the kernel writes it


@pytest.mark.req("CR-03", "ORCH-3801")
def test_inside_there_is_no_capability_and_nothing_to_write_but_what_was_given(scenes: Answers) -> None:
    log = set(scenes["run"]["log"])
    none = "0000000000000000"
    assert {f"CapEff:\t{none}", f"CapBnd:\t{none}", "NoNewPrivs:\t1"} <= log
    assert {"weights", "cache can be written", "tmp can be written"} <= log
    assert {f"touch: {path}: Read-only file system" for path in ("/models/x", "/x")} <= log
    assert any(line.startswith("touch: /run/x: ") for line in log)
    assert any("size=3072k" in line for line in log)  # /dev/shm
    # Who it is inside differs, and is the same person outside: models are readable for nobody else.
    assert scenes["run"]["cache"] == ["x"]
    assert scenes["run"]["owner"] is True


@pytest.mark.req("CR-03")
def test_limits_labels_and_the_log_are_what_the_runtime_was_asked_for(scenes: Answers) -> None:
    run = scenes["run"]
    assert run["findings"] == []
    inspected = run["inspected"]
    assert inspected["ShmSize"] == 3 << 20
    assert (inspected["ReadonlyRootfs"], inspected["AutoRemove"]) == (True, False)
    assert inspected["log"] == {"podman": "k8s-file", "docker": "json-file"}[scenes["runtime"]]
    if scenes["runtime"] == "podman":  # docker drops what the kernel of this host cannot do
        assert (inspected["Memory"], inspected["PidsLimit"]) == (1 << 30, 200)
    assert run["handle"] == [scenes["runtime"], "engine-a", True, 64]


@pytest.mark.req("CR-03")
def test_a_container_sees_the_gpus_of_its_mask_and_no_other(scenes: Answers) -> None:
    gpus = scenes["gpus"]
    assert gpus["first"] == [f"{UUID}0"]
    assert gpus["second by uuid"] == [f"{UUID}1"]
    assert gpus["both"] == [f"{UUID}0", f"{UUID}1"]
    assert gpus["none"] == "no_device"
    assert gpus["left"] == 0
    if scenes["runtime"] == "podman":
        assert {line for line in scenes["run"]["log"] if line.startswith("nvidia")} == {"nvidia1"}


@pytest.mark.req("CR-03", "CR-04")
def test_the_key_is_in_the_environment_and_in_no_argument_and_no_log(scenes: Answers) -> None:
    run = scenes["run"]
    assert run["key in environment"] is True
    assert run["key in an argv"] is False
    # Nor does anything come in that belongs to the manager alone.
    assert "mode=quick home=/tmp/home key=*** token= proxy= notify=" in run["log"]


@pytest.mark.req("CR-01")
def test_the_processes_of_a_container_are_known_by_their_numbers_outside(scenes: Answers) -> None:
    assert scenes["run"]["commands"] == ["httpd -f -p 8000 -h /tmp", "sleep 1000"]
    assert scenes["run"]["running"] == [True, None, True]


@pytest.mark.req("CR-01", "ORCH-3801")
def test_a_stop_is_term_then_kill_and_leaves_nothing(scenes: Answers) -> None:
    ends = scenes["ends"]
    assert ends["stubborn"] is True
    assert ends["processes"] == []
    assert ends["polite"] == ["x"]  # what it wrote when it was asked to end
    assert ends["left"] == 0
    assert scenes["run"]["gone"] == "container_gone"
    assert scenes["run"]["left"] == [0, []]


@pytest.mark.req("CR-01")
def test_a_container_that_has_ended_tells_how(scenes: Answers) -> None:
    running, exit_code, oom_killed, pids, same_again = scenes["ends"]["ended"]
    assert (running, exit_code, oom_killed, pids, same_again) == (False, 3, False, [], True)
    assert scenes["ends"]["found"] == ["over"]


@pytest.mark.req("CR-04")
def test_logs_are_streamed_with_secrets_redacted_and_long_lines_cut(scenes: Answers) -> None:
    logs = scenes["logs"]
    assert sorted(map(str, logs["followed"])) == ["***", "8192", "first Bearer ***", "no end of line"]
    assert logs["kept"] < 14_000
    assert logs["last"] == ["a", "b", "c"]
    assert logs["from the last on"] is True
    assert logs["goes on"] is True  # after the one who followed was killed
    assert logs["to the end"] is True
    assert logs["followers left"] == []
    assert logs["of nobody"] == "container_gone"
    assert logs["left"] == 0


@pytest.mark.req("CR-01", "ORCH-3803")
def test_a_start_that_fails_says_why_and_leaves_nothing(scenes: Answers) -> None:
    failures = scenes["failures"]
    assert failures["no image"] == "image_missing"
    assert failures["no digest"] == "bad_reference"
    assert failures["port taken"] == "port_taken"
    assert failures["no mount"] == "bad_mount"
    assert failures["no program"] == failures["no entrypoint"] == "start_failed"
    assert failures["no device"] == "no_device"
    assert failures["after failures"] == 0
    assert scenes["run"]["taken name"] == "name_taken"
    assert scenes["run"]["still there"] == 1


@pytest.mark.req("CR-05")
def test_a_start_that_is_given_up_half_way_leaves_nothing(scenes: Answers) -> None:
    assert scenes["failures"]["after hurry"] == [True, 0]


@pytest.mark.req("CR-01", "ORCH-3804")
def test_a_preflight_finds_everything_at_once(scenes: Answers) -> None:
    checks = ["container-device", "container-port", "container-mount"]
    assert scenes["failures"]["preflight"] == (checks if scenes["runtime"] == "podman" else checks[1:])


@pytest.mark.req("CR-05")
def test_what_a_killed_manager_left_is_found_by_label_and_can_be_adopted_or_stopped(scenes: Answers) -> None:
    assert scenes["run"]["found"] is True
    assert scenes["run"]["found by others"] == []
    crash = scenes["crash"]
    assert crash["found"] == [["left", True]]
    assert crash["body"] == "served\n"
    assert (crash["running"], crash["processes"], crash["key"]) == (True, 1, True)
    assert crash["left"] == 0
