"""How long the end of an engine waits for its VRAM, with a driver that a test scripts, and how long a stop may take."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from contracts.config import Config, Engine, Pool, Profile, Timeouts
from pool_managerd import gpu_proof
from pool_managerd.app import patience_s
from pool_managerd.devices import DeviceProcess
from pool_managerd.gpu_proof import VRAM_BACK_S, vram_back
from pool_managerd.process import KILL_WAIT_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from pool_managerd.host import Host

pytestmark = pytest.mark.req("PM-02", "PM-07")

HELD = (DeviceProcess(uuid="GPU-a", pid=7, used_bytes=1),)


def seen_by(processes: Callable[[], tuple[DeviceProcess, ...]]) -> Host:
    return cast("Host", SimpleNamespace(gpus=SimpleNamespace(processes=processes)))


async def test_it_waits_until_the_driver_shows_the_process_no_more(caplog: pytest.LogCaptureFixture) -> None:
    answers = [HELD, HELD, ()]
    await vram_back("a", frozenset({7}), seen_by(lambda: answers.pop(0)))
    assert answers == []
    assert caplog.records == []


async def test_a_driver_that_never_gives_it_back_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu_proof, "VRAM_BACK_S", 2.0)  # in which a busy machine looks once, too
    await vram_back("a", frozenset({7}), seen_by(lambda: HELD))
    (record,) = caplog.records
    assert record.getMessage() == "pool a: NVML still shows ended processes with VRAM: pid 7"


async def test_nor_is_one_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu_proof, "VRAM_BACK_S", 0.05)
    over = threading.Event()

    def hanging() -> tuple[DeviceProcess, ...]:
        over.wait()
        return ()

    try:
        await vram_back("a", frozenset({7}), seen_by(hanging))
    finally:
        over.set()
    (record,) = caplog.records
    text = "pool a: the driver does not tell whether the VRAM of ended processes is back: pid 7"
    assert record.getMessage() == text


def test_a_stop_is_patient_with_the_slowest_engine_and_with_the_driver_where_there_is_one() -> None:
    slow = Pool(id="a", engine=Engine.LLAMACPP, model="x", timeouts=Timeouts(stop_ms=7_000))
    quick = Pool(id="b", engine=Engine.LLAMACPP, model="x", timeouts=Timeouts(stop_ms=1_000))
    trial = Config(profile=Profile.TRIAL, pools=(slow, quick))
    assert patience_s(trial) == 7 + KILL_WAIT_S
    assert patience_s(Config(pools=(slow, quick))) == patience_s(trial) + VRAM_BACK_S
