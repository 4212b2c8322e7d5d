"""Every cause from its evidence, and which one wins."""

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.pools import Cause
from pool_managerd.devices import EventKind, GpuEvent
from pool_managerd.diagnosis import Diagnosis, During, Evidence, Exit, diagnose
from pool_managerd.engine_marks import Mark

LOST = GpuEvent(uuid="GPU-1", kind=EventKind.LOST, message="GPU 0 fell off the bus", hint="reboot")
XID = GpuEvent(uuid="GPU-1", kind=EventKind.XID, number=48, message="GPU 0 reported Xid 48", hint="reset it")
BUS = GpuEvent(uuid="GPU-1", kind=EventKind.XID, number=79, message="GPU 0 reported Xid 79", hint="reboot")
ECC = GpuEvent(uuid="GPU-1", kind=EventKind.ECC, number=1, message="GPU 0 has 1 new memory error", hint="replace it")
MILD = GpuEvent(uuid="GPU-1", kind=EventKind.XID, number=13, fatal=False, message="GPU 0 reported Xid 13", hint="-")
KILLED = Exit(signal=9)
FAILED = Exit(status=1)


def of(*marks: Mark, during: During = During.START, **evidence: Any) -> Diagnosis:  # noqa: ANN401 - fields of Evidence
    return diagnose(Evidence(during=during, marks=frozenset(marks), **evidence))


IN_ORDER: list[tuple[Cause, dict[str, Any]]] = [
    (Cause.GPU_LOST, {"gpu_events": (LOST,)}),
    (Cause.GPU_ERROR, {"gpu_events": (XID,)}),
    (Cause.DRIVER, {"marks": {Mark.DRIVER}}),
    (Cause.VRAM_OOM, {"marks": {Mark.VRAM_OOM}}),
    (Cause.HOST_OOM, {"oom_kills_delta": 1}),
    (Cause.START_TIMEOUT, {"health": "no answer"}),
    (Cause.ENGINE_EXIT, {"exit": FAILED}),
]
"""Surest first."""


def merged(*parts: dict[str, Any]) -> Evidence:
    fields: dict[str, Any] = {"marks": frozenset(), "gpu_events": ()}
    for part in parts:
        for name, value in part.items():
            fields[name] = (*value, *fields[name]) if name == "gpu_events" else value
            if name == "marks":
                fields[name] = frozenset(value)
    return Evidence(during=During.START, **fields)


@pytest.mark.req("PM-03", "ORCH-3821")
@pytest.mark.parametrize(("cause", "evidence"), IN_ORDER, ids=[cause for cause, _ in IN_ORDER])
def test_each_cause_is_told_from_its_evidence(cause: Cause, evidence: dict[str, Any]) -> None:
    assert diagnose(merged(evidence)).cause is cause


@pytest.mark.req("PM-03")
@pytest.mark.parametrize(
    ("surer", "other"),
    list(combinations(IN_ORDER, 2)),
    ids=[f"{surer[0]} before {other[0]}" for surer, other in combinations(IN_ORDER, 2)],
)
def test_the_surer_evidence_wins(surer: tuple[Cause, dict[str, Any]], other: tuple[Cause, dict[str, Any]]) -> None:
    both = merged(other[1], surer[1])
    if {"marks"} == surer[1].keys() & other[1].keys():
        both = merged({"marks": surer[1]["marks"] | other[1]["marks"]})
    assert diagnose(both).cause is surer[0]


@pytest.mark.req("PM-03")
@pytest.mark.parametrize(
    ("mark", "cause", "message"),
    [
        (Mark.GPU_LOST, Cause.GPU_LOST, "the engine lost its GPU while it started: it fell off the bus"),
        (Mark.ECC, Cause.GPU_ERROR, "the GPU reported an uncorrectable memory or link error while it started"),
        (Mark.DRIVER, Cause.DRIVER, "the engine cannot use the NVIDIA driver"),
        (Mark.NO_KERNEL, Cause.DRIVER, "the engine was not built for this GPU"),
        (Mark.NO_DEVICE, Cause.NO_GPU, "the engine sees no GPU"),
        (Mark.VRAM_OOM, Cause.VRAM_OOM, "the engine ran out of VRAM while it started"),
        (Mark.VRAM_SHORT, Cause.VRAM_SHORT, "the engine refused to start"),
        (Mark.HOST_OOM, Cause.HOST_OOM, "the engine could not get host memory while it started"),
        (Mark.GPU_FAULT, Cause.ENGINE_EXIT, "the engine did on the GPU what it must not"),
        (Mark.BAD_FLAG, Cause.ENGINE_FLAGS, "the engine does not take one of its arguments"),
        (Mark.LIBRARY, Cause.ENGINE_EXIT, "the engine lacks a shared library"),
        (Mark.BAD_MODEL, Cause.MODEL_INVALID, "the engine cannot load this model"),
        (Mark.MODEL_FAILED, Cause.ENGINE_EXIT, "the engine exited with status 1 while it started"),
        (Mark.PORT_TAKEN, Cause.ENGINE_EXIT, "another program has the port"),
        (Mark.NCCL, Cause.ENGINE_EXIT, "the engine's processes on its GPUs could not talk"),
        (Mark.WORKER_DIED, Cause.ENGINE_EXIT, "nobody asked it to (one of its processes died)"),
    ],
)
def test_every_mark_has_its_cause_and_words(mark: Mark, cause: Cause, message: str) -> None:
    found = of(mark, exit=FAILED)
    assert found.cause is cause
    assert message in found.message
    assert found.hint
    assert of(mark, during=During.SERVING, exit=FAILED).hint


@pytest.mark.req("PM-03")
def test_what_the_driver_reports_is_said_in_its_words() -> None:
    for event, cause in ((LOST, Cause.GPU_LOST), (BUS, Cause.GPU_LOST), (XID, Cause.GPU_ERROR), (ECC, Cause.GPU_ERROR)):
        assert of(gpu_events=(MILD, event)) == Diagnosis(cause=cause, message=event.message, hint=event.hint)
    assert of(gpu_events=(XID, LOST)).cause is Cause.GPU_LOST
    problem = of(driver_problem="NVML says: Unknown Error", exit=FAILED)
    assert problem.cause is Cause.DRIVER
    assert problem.message == "the NVIDIA driver does not answer any more: NVML says: Unknown Error"


@pytest.mark.req("PM-03")
def test_vram_and_host_memory_are_told_apart() -> None:
    assert of(Mark.VRAM_OOM, Mark.HOST_OOM, exit=FAILED).cause is Cause.VRAM_OOM
    assert of(Mark.VRAM_OOM, exit=FAILED, oom_kills_delta=0).cause is Cause.VRAM_OOM
    worker = of(exit=FAILED, oom_kills_delta=2, during=During.SERVING)
    assert worker.cause is Cause.HOST_OOM
    assert (
        worker.message == "the host ran out of memory while it served, and the kernel ended 2 of the engine's processes"
    )
    for killed in (KILLED, Exit(status=137)):
        # A retried allocation left its line behind; what ended the engine is the kernel.
        by_kernel = of(Mark.VRAM_OOM, exit=killed, oom_kills_delta=1)
        assert by_kernel.cause is Cause.HOST_OOM
        assert by_kernel.message.endswith("and the kernel ended the engine")
    by_somebody = of(exit=KILLED, oom_kills_delta=0)
    assert by_somebody.cause is Cause.ENGINE_EXIT
    assert "somebody sent it SIGKILL" in by_somebody.hint


@pytest.mark.req("PM-03", "ORCH-3821")
def test_an_engine_that_hangs_or_never_comes_up() -> None:
    slow = of(health="no answer on /health for 600 s", exit=KILLED)
    assert slow.cause is Cause.START_TIMEOUT
    assert slow.message == "the engine did not come up in time: no answer on /health for 600 s"
    assert "timeouts.start_ms" in slow.hint
    hung = of(Mark.WORKER_DIED, health="503", during=During.SERVING, gpu_events=(MILD,))
    assert hung.cause is Cause.ENGINE_UNHEALTHY
    assert hung.message == "the engine serves no more: 503 (GPU 0 reported Xid 13; one of its processes died)"


@pytest.mark.trap(20, by="pool_managerd")
@pytest.mark.req("PM-03")
def test_an_end_that_nobody_asked_for_is_a_failure_whatever_its_status() -> None:
    found = of(exit=Exit(status=0), during=During.SERVING)
    assert found.cause is Cause.ENGINE_EXIT
    assert found.message == "the engine exited with status 0 while it served, and nobody asked it to"
    assert "status 139, which stands for SIGSEGV" in of(exit=Exit(status=139)).message
    assert "was ended by SIGABRT" in of(exit=Exit(signal=6)).message
    assert "the engine has ended while it started" in of(exit=Exit()).message
    assert "the engine failed without a word" in of().message
    assert (str(Exit.of(-34)), str(Exit.of(3))) == ("was ended by signal 34", "exited with status 3")


def test_what_is_wrong_with_a_start_does_not_explain_the_end_of_an_engine_that_served() -> None:
    for mark in (Mark.BAD_FLAG, Mark.BAD_MODEL, Mark.LIBRARY, Mark.PORT_TAKEN):
        assert of(mark, exit=FAILED, during=During.SERVING).message.startswith("the engine exited with status 1")
    assert "its last lines say why" in of(Mark.MODEL_FAILED, exit=FAILED).hint


@pytest.mark.req("PM-03")
def test_in_the_trial_profile_an_engine_without_a_gpu_is_fine() -> None:
    found = of(Mark.NO_DEVICE, Mark.DRIVER, Mark.BAD_MODEL, exit=FAILED, driver_problem="not there", on_gpu=False)
    assert found.cause is Cause.MODEL_INVALID


EVIDENCE = st.builds(
    Evidence,
    during=st.sampled_from(During),
    exit=st.none() | st.builds(Exit, status=st.none() | st.integers(0, 255), signal=st.none() | st.integers(1, 64)),
    marks=st.frozensets(st.sampled_from(Mark)),
    oom_kills_delta=st.none() | st.integers(0, 3),
    gpu_events=st.lists(st.sampled_from([LOST, XID, BUS, ECC, MILD]), max_size=3).map(tuple),
    driver_problem=st.none() | st.just("NVML says: no"),
    health=st.none() | st.just("no answer"),
)


@pytest.mark.req("PM-03", "ORCH-3821")
@given(EVIDENCE)
def test_whatever_was_seen_there_is_one_cause_with_words_and_a_mend(evidence: Evidence) -> None:
    found = diagnose(evidence)
    assert found.message
    assert found.hint
    assert "{" not in found.message
    if not any(event.fatal for event in evidence.gpu_events) and not evidence.marks:
        assert found.cause not in {Cause.GPU_LOST, Cause.GPU_ERROR, Cause.VRAM_OOM}
    if evidence.during is During.START:
        assert found.cause is not Cause.ENGINE_UNHEALTHY
