import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon_core.notify import Notifier, watchdog_interval_s


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield listener


def heard(listener: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(listener.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_what_systemd_hears(systemd: socket.socket) -> None:
    notifier = Notifier(os.environ)
    notifier.ready("serving 2 pools")
    notifier.status("1 of 2 pools ready\nREADY=1 ü")
    notifier.watchdog()
    notifier.reloading()
    notifier.stopping("draining")
    notifier.close()
    notifier.ready()
    said = heard(systemd)
    reloading = said.pop(3)
    assert said == [
        "READY=1\nSTATUS=serving 2 pools",
        "STATUS=1 of 2 pools ready READY=1 ?",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=draining",
    ]
    first, _, second = reloading.partition("\n")
    assert (first, second.rstrip("0123456789")) == ("RELOADING=1", "MONOTONIC_USEC=")


def test_without_systemd_nothing_happens(systemd: socket.socket) -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.close()
    assert heard(systemd) == []


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(environ: dict[str, str], interval: float | None) -> None:
    assert watchdog_interval_s(environ) == interval
