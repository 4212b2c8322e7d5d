"""Tries what a sandbox forbids and says what happened: attempt -> "allowed", an error's name or a signal's, as JSON.

Runs as the main process of a unit, with the standard library only. Each attempt has a process of its own.
"""

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from errno import errorcode
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
ADDR_NO_RANDOMIZE = 0x0040000
CLONE_NEWUSER = 0x10000000
PTRACE_TRACEME = 0
X32_GETPID = 0x40000000 | 39  # without a filter: ENOSYS, where the kernel has no x32 calls


def call(function: str, *arguments: int) -> None:
    """Calls the C library; a failure is an OSError."""
    if getattr(LIBC, function)(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def scratch_file() -> Path:
    """A new file with the mode that the umask gives."""
    path = Path(tempfile.mkdtemp(), "file")
    path.touch()
    return path


def write_sqlite() -> None:
    with sqlite3.connect(scratch_file()) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE t (x)")
        database.execute("INSERT INTO t VALUES (1)")


ATTEMPTS: dict[str, Callable[[], object]] = {
    "tcp": lambda: socket.create_server(("127.0.0.1", 0)),
    "tcp6": lambda: socket.create_server(("::1", 0), family=socket.AF_INET6),
    "unix_socket": lambda: socket.socketpair(socket.AF_UNIX),
    "resolve": lambda: socket.getaddrinfo("localhost", 80),
    "child": lambda: subprocess.run(["/bin/sh", "-c", "true"], check=True),
    "sqlite": write_sqlite,
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "ptrace": lambda: call("ptrace", PTRACE_TRACEME, 0, 0, 0),
    "personality": lambda: call("personality", ADDR_NO_RANDOMIZE),
    "writable_code": lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    "user_namespace": lambda: call("unshare", CLONE_NEWUSER),
    "setuid_file": lambda: scratch_file().chmod(stat.S_ISUID | stat.S_IRWXU),
    "chown": lambda: os.chown(scratch_file(), os.getuid(), os.getgid()),  # which changes nothing, and any user may
    "priority": lambda: os.nice(1),
    "x32_call": lambda: call("syscall", X32_GETPID),
    # What rootless podman does first: a user namespace with many ids, mapped by the setuid program newuidmap.
    "rootless": lambda: subprocess.run(["unshare", "--user", "--map-auto", "--map-root-user", "true"], check=True),
}


def attempt(action: Callable[[], object]) -> str:
    """Runs the action in a child and says how it went."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        try:
            action()
            verdict = "allowed"
        except OSError as error:
            verdict = errorcode[error.errno or 0]
        except subprocess.CalledProcessError:
            verdict = "failed"
        os.write(writer, verdict.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        verdict = answer.read()
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else verdict


def facts() -> dict[str, str]:
    """What can be read without trying."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    runtime = os.environ.get("RUNTIME_DIRECTORY")
    return {
        "no_new_privs": status["NoNewPrivs"],
        "file_mode": oct(stat.S_IMODE(scratch_file().stat().st_mode)),
        "core_limit": str(resource.getrlimit(resource.RLIMIT_CORE)[1]),
        "open_files": str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "oom_score_adj": Path("/proc/self/oom_score_adj").read_text().strip(),
        "runtime_directory": oct(stat.S_IMODE(Path(runtime).stat().st_mode)) if runtime else "none",
    }


if __name__ == "__main__":
    json.dump({name: attempt(action) for name, action in ATTEMPTS.items()} | facts(), sys.stdout)
