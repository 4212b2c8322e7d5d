import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon_core.entry import first_leaf

CONFIG = "pools: [{id: a, engine: llamacpp, model: x, devices: [0]}]\nlogging: {format: json}\n"
Start = Callable[..., "subprocess.Popen[str]"]
LIMIT_S = 50
"""More than any of it takes."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, config: str = CONFIG, **environ: str) -> "subprocess.Popen[str]":
        (tmp_path / "config.yaml").write_text(config)
        argv = [
            sys.executable,
            "-m",
            "tests.unit.daemon_core.daemon",
            "--config",
            str(tmp_path / "config.yaml"),
            *arguments,
        ]
        env = {
            key: value for key, value in os.environ.items() if not key.startswith(("NOTIFY_", "WATCHDOG_"))
        } | environ
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def written(stderr: str) -> str:
    """What it wrote, but for how long the machine stood still meanwhile."""
    return "".join(line for line in stderr.splitlines(keepends=True) if "the event loop was held up" not in line)


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_it_drain(start: Start, number: signal.Signals) -> None:
    process = start()
    assert first_line(process) == "ready"
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert (stdout, process.returncode) == ("drained\n", 0)
    assert json.loads(written(stderr))["message"] == f"{number.name}: stopping"


def test_a_second_signal_hurries_and_a_third_does_not_wait(start: Start) -> None:
    process = start("mode=never-drains")
    assert first_line(process) == "ready"
    process.terminate()
    assert first_line(process) == "draining"
    process.terminate()
    assert first_line(process) == "hurried"
    process.terminate()
    _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "did not finish draining" in stderr


def test_a_hangup_asks_for_a_reload(start: Start) -> None:
    process = start("mode=reload")
    assert first_line(process) == "ready"
    process.send_signal(signal.SIGHUP)
    assert first_line(process) == "reloaded"
    process.terminate()
    process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0


def test_work_that_blocks_for_long_keeps_no_other_from_a_thread_however_few_processors_there_are(start: Start) -> None:
    process = start("mode=busy")
    assert first_line(process) == "ready"
    stdout, _ = process.communicate(timeout=LIMIT_S)
    assert (stdout, process.returncode) == ("asked\n", 0)


@pytest.mark.req("HP-26")
def test_a_wrong_configuration_ends_with_78_and_no_traceback(start: Start, tmp_path: Path) -> None:
    process = start(config="pools:\n  - {id: a, engine: openal, model: x}\n")
    stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert (stdout, process.returncode) == ("", 78)
    assert stderr == (
        f"testd: {tmp_path}/config.yaml:2: pools[0].engine: "
        "'openal' is not one of: llamacpp, vllm, tgi, triton, openai\n"
    )


@pytest.mark.req("HP-26")
def test_a_configuration_can_be_checked_without_a_start(start: Start, tmp_path: Path) -> None:
    good = start("--check-config")
    assert good.communicate(timeout=LIMIT_S) == ("", "")
    bad = start("--check-config", config="profile: holiday\n")
    stdout, stderr = bad.communicate(timeout=LIMIT_S)
    assert (good.returncode, bad.returncode, stdout) == (0, 78, "")
    assert f"{tmp_path}/config.yaml:1: profile: 'holiday' is not one of" in stderr


def test_a_hang_that_the_watchdog_ends_shows_where(start: Start) -> None:
    process = start()
    assert first_line(process) == "ready"
    process.send_signal(signal.SIGABRT)
    _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in stderr
    assert "in run_daemon" in stderr


def test_a_startup_error_is_one_line_a_hint_and_its_status(start: Start) -> None:
    process = start("mode=startup-error")
    _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert written(stderr) == "testd: port 127.0.0.1:8080 is taken, api_key=***\n  hint: choose another\n"


def test_a_bug_is_logged_with_its_traceback_redacted(start: Start) -> None:
    process = start("mode=bug")
    _, stderr = process.communicate(timeout=LIMIT_S)
    record = json.loads(written(stderr))
    assert (process.returncode, record["level"]) == (1, "critical")
    assert "ZeroDivisionError: with Bearer ***" in record["exception"]


def test_systemd_hears_ready_the_watchdog_and_stopping(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "n"))
        listener.settimeout(LIMIT_S)
        process = start(NOTIFY_SOCKET=str(tmp_path / "n"), WATCHDOG_USEC="100000")
        said = {listener.recv(100) for _ in range(5)}
        assert said == {b"READY=1\nSTATUS=ready", b"WATCHDOG=1"}
        process.terminate()
        while b"STOPPING=1" not in said:
            said.add(listener.recv(100))
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0


def test_the_version_is_told(start: Start) -> None:
    process = start("--version")
    stdout, _ = process.communicate(timeout=LIMIT_S)
    assert stdout.startswith("testd ")
    assert process.returncode == 0


def test_the_first_error_of_a_group_of_groups() -> None:
    root = ValueError("x")
    assert first_leaf(ExceptionGroup("a", [ExceptionGroup("b", [root]), KeyError()])) is root
