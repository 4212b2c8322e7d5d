"""Descriptors as systemd passes them: from 3 on, in a process of its own, since no test may take those of pytest."""

import os
import socket
import subprocess
import sys

import pytest

from daemon_core.descriptors import FIRST, MOST_NAME, name_of, passed

pytestmark = pytest.mark.req("OP-01")

CHILD = """
import errno, os, socket
from daemon_core.descriptors import KeptSockets
os.environ["LISTEN_PID"] = str(os.getpid())
kept = KeptSockets(os.environ)
print([os.get_inheritable(fd) for fd in (3, 4, 5)])
taken = kept.take("http-a")
print(taken.getsockname()[1], taken.getblocking(), kept.take("http-a"), kept.take("no-listener"))
print(kept.close_rest(), kept.close_rest())
for fd in (4, 5):
    try:
        os.fstat(fd)
    except OSError as error:
        print(errno.errorcode[error.errno])
taken.accept if taken.fileno() == 3 else None
"""


def test_names_are_what_systemd_takes() -> None:
    assert name_of("http", "127.0.0.1-8080") == "http-127.0.0.1-8080"
    assert name_of("http", "::1 \n-80") == "http-__1__-80"
    assert len(name_of("http", "x" * 1000)) == MOST_NAME


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, ()),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, (("a", FIRST), ("b", FIRST + 1))),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"}, (("a", FIRST), ("", FIRST + 1))),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b"}, (("a", FIRST),)),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a"}, ()),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "many"}, ()),
    ],
)
def test_what_was_passed_is_for_this_process_alone(environ: dict[str, str], found: tuple[tuple[str, int], ...]) -> None:
    assert passed(environ, 7) == found


def test_a_socket_is_taken_by_its_name_and_what_nobody_takes_is_closed_for_everybody() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        port, other = first.getsockname()[1], second.getsockname()[1]
        with socket.socket() as no_listener:
            done = subprocess.run(
                [sys.executable, "-c", CHILD],
                env={**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": "http-a:http-b:no-listener"},
                preexec_fn=lambda: _as_systemd(first, second, no_listener),
                pass_fds=(3, 4, 5),
                capture_output=True,
                text=True,
                check=True,
            )
        assert done.stdout.splitlines() == [
            "[False, False, False]",
            f"{port} False None None",
            "('http-b',) ()",
            "EBADF",
            "EBADF",
        ]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            pass
        # Our copy of the other one is open, and yet its address is free.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", other), timeout=5)
        with socket.create_server(("", other)):
            pass


def _as_systemd(*sockets: socket.socket) -> None:
    high = [os.dup2(each.fileno(), 200 + number) for number, each in enumerate(sockets)]
    for number, descriptor in enumerate(high):
        os.dup2(descriptor, FIRST + number)
