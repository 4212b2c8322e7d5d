import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon_core import notify
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


def test_trouble_stands_behind_every_status_until_it_is_over(systemd: socket.socket) -> None:
    notifier = Notifier(os.environ)
    notifier.trouble("a", "")
    notifier.trouble("a", "a is ill")
    notifier.status("1/1 pools ready")
    notifier.trouble("b", "b is ill")
    notifier.trouble("b", "b is ill")
    notifier.trouble("a", "")
    notifier.trouble("b", "")
    notifier.close()
    assert heard(systemd) == [
        "STATUS=running; a is ill",
        "STATUS=1/1 pools ready; a is ill",
        "STATUS=1/1 pools ready; a is ill; b is ill",
        "STATUS=1/1 pools ready; b is ill",
        "STATUS=1/1 pools ready",
    ]


def test_more_time_and_a_failed_watchdog_are_asked_for(systemd: socket.socket) -> None:
    notifier = Notifier(os.environ)
    notifier.extend(1.5)
    notifier.watchdog_failed()
    notifier.let_go("http-a")
    notifier.close()
    assert heard(systemd) == ["EXTEND_TIMEOUT_USEC=1500000", "WATCHDOG=trigger", "FDSTOREREMOVE=1\nFDNAME=http-a"]


def test_ready_waits_for_a_manager_that_is_behind_and_the_watchdog_does_not(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PATIENCE_S", 50.0)
    notifier = Notifier(os.environ)
    for _ in range(10_000):  # more than any queue takes
        notifier.watchdog()
    systemd.settimeout(50)
    with ThreadPoolExecutor(1) as other:
        telling = other.submit(notifier.ready, "at last")
        while "READY=1" not in systemd.recv(4096).decode():
            pass
        telling.result()
    notifier.close()


def test_a_ready_that_was_not_taken_in_time_is_told_beside_the_watchdog(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify, "PATIENCE_S", 0.01)
    notifier = Notifier(os.environ)
    for _ in range(10_000):  # more than any queue takes
        notifier.watchdog()
    notifier.ready("1/1 pools ready")
    assert set(heard(systemd)) == {"WATCHDOG=1"}
    notifier.watchdog()
    notifier.watchdog()
    assert heard(systemd) == ["READY=1\nSTATUS=1/1 pools ready", "WATCHDOG=1", "WATCHDOG=1"]
    for _ in range(10_000):
        notifier.watchdog()
    notifier.ready()
    heard(systemd)
    notifier.stopping()
    notifier.watchdog()
    assert heard(systemd) == ["STOPPING=1", "WATCHDOG=1"]  # it is too late then
    notifier.close()


def test_a_descriptor_goes_to_systemd_as_a_copy(systemd: socket.socket) -> None:
    notifier = Notifier(os.environ)
    with socket.create_server(("127.0.0.1", 0)) as ours:
        assert notifier.keep("http-a", ours.fileno())
        message, descriptors, _, _ = socket.recv_fds(systemd, 4096, 1)
        with socket.socket(fileno=descriptors[0]) as copy:
            assert message == b"FDSTORE=1\nFDNAME=http-a"
            assert copy.getsockname() == ours.getsockname()
    notifier.close()
    assert not notifier.keep("http-a", 0)


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
