"""The port that the service manager keeps, with a notification socket in its place; tests/lab has the real one."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon_core.descriptors import FIRST
from daemon_core.entry import DaemonContext
from daemon_core.notify import Notifier
from daemon_core.paths import Paths
from daemon_core.redaction import Redactor
from orchestratord.kept_port import kept_port
from tests.support.ports import free_port
from tests.unit.orchestratord.world import config

pytestmark = pytest.mark.req("OP-01")

NEXT_RUN = """
import os, sys
from tests.integration.orchestratord.test_kept_port import context
from orchestratord.kept_port import kept_port
os.environ["LISTEN_PID"] = str(os.getpid())
port = int(sys.argv[1])
found = kept_port(context(dict(os.environ)), sys.argv[2], port)
print(None if found is None else found.fileno(), None if found is None else found.getsockname()[0])
"""


def context(environ: dict[str, str]) -> DaemonContext:
    settings = config()
    return DaemonContext(
        config=settings,
        config_path=Path("config.yaml"),
        paths=Paths.resolve(settings.paths, {"HOME": "/nonexistent", "XDG_RUNTIME_DIR": "/nonexistent"}),
        redactor=Redactor(),
        notifier=Notifier(environ),
        environ=environ,
        stopping=asyncio.Event(),
        returning=asyncio.Event(),
        reload=asyncio.Event(),
    )


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        yield listener


def test_the_next_run_finds_it_open_or_closes_it(systemd: socket.socket) -> None:
    port = free_port()
    here = context(dict(os.environ))
    ours = kept_port(here, "127.0.0.1", port)
    here.notifier.close()
    assert ours is not None
    message, descriptors, _, _ = socket.recv_fds(systemd, 4096, 1)
    name = f"http-127.0.0.1-{port}"
    assert message.decode() == f"FDSTORE=1\nFDNAME={name}"
    ours.close()
    with socket.socket(fileno=descriptors[0]) as kept:
        with socket.create_connection(("127.0.0.1", port), timeout=5):  # nobody serves, and nobody is refused
            pass
        assert _next_run(kept, name, port, "127.0.0.1") == f"{FIRST} 127.0.0.1"
        # An address with the same port: the former socket must not be in its way.
        assert _next_run(kept, name, port, "::").endswith("::")
        told = systemd.recv(4096).decode()
        assert told == f"FDSTOREREMOVE=1\nFDNAME={name}"


def test_a_name_without_a_manager_or_a_taken_address_is_the_listeners_affair(systemd: socket.socket) -> None:
    here = context(dict(os.environ))
    assert kept_port(here, "localhost", free_port()) is None
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert kept_port(here, "127.0.0.1", other.getsockname()[1]) is None
    here.notifier.close()
    assert kept_port(context({}), "127.0.0.1", free_port()) is None


def _next_run(kept: socket.socket, name: str, port: int, host: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", NEXT_RUN, str(port), host],
        env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": name},
        preexec_fn=lambda: os.dup2(kept.fileno(), FIRST),
        pass_fds=(FIRST,),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
