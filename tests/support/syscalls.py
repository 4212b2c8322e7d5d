"""Runs a piece of code in a child and has it die, or find the disk full, at a system call of choice.

The child is traced by ptrace, so nothing of it is simulated: what it did before that call is done, and the rest is not.
Linux on x86-64. A child is forked, so whoever calls this must have one thread only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

SUPPORTED = sys.platform == "linux" and platform.machine() == "x86_64"

DONE, RAISED, DEFECT = 0, 3, 4
_TRACEME, _POKEUSER, _SYSCALL, _SETOPTIONS, _SYSCALL_INFO = 0, 6, 24, 0x4200, 0x420E
_SYSGOOD, _EXITKILL = 1, 0x100000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_RAX, _ORIG_RAX = 10 * 8, 15 * 8
_O_CREAT = 0x40
_OPENAT = 257
_WRITING = {1, 18, 20, 74, 75, 76, 77, 82, 83, 86, 257, 258, 264, 265, 316}
"""write, pwrite64, writev, fsync, fdatasync, truncate, ftruncate, rename, mkdir, link, and their newer forms."""


class _Info(ctypes.Structure):
    _fields_ = (
        ("op", ctypes.c_uint8),
        ("pad", ctypes.c_uint8 * 3),
        ("arch", ctypes.c_uint32),
        ("ip", ctypes.c_uint64),
        ("sp", ctypes.c_uint64),
        ("nr", ctypes.c_uint64),
        ("args", ctypes.c_uint64 * 6),
    )


@dataclass(frozen=True)
class Outcome:
    """How a child ended: ``done``, ``raised``, ``killed``, or ``defect``; and which of its calls were counted."""

    ended: str
    calls: int
    writes: int


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)


def _ptrace(request: int, pid: int, address: int = 0, data: object = 0) -> None:
    if _libc.ptrace(request, pid, address, data) == -1 and (code := ctypes.get_errno()):
        raise OSError(code, os.strerror(code))


def run(
    work: Callable[[], object],
    expected: type[Exception] | tuple[type[Exception], ...],
    *,
    kill_at: int | None = None,
    full_at: int | None = None,
) -> Outcome:
    """Do ``work`` in a child, which dies before its ``kill_at``-th system call, counted from 1.

    Or its ``full_at``-th call that writes fails with ENOSPC instead of being made. ``expected`` is what work may raise.
    """
    pid = os.fork()
    if pid == 0:
        _child(work, expected)
    os.waitpid(pid, 0)
    _ptrace(_SETOPTIONS, pid, 0, _SYSGOOD | _EXITKILL)
    return _trace(pid, kill_at, full_at)


def _child(work: Callable[[], object], expected: type[Exception] | tuple[type[Exception], ...]) -> None:
    status = DEFECT
    try:
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        work()
        status = DONE
    except expected:
        status = RAISED
    except BaseException:  # noqa: BLE001 - a forked child must not go on as its parent
        traceback.print_exc()
    finally:
        os._exit(status)


def _trace(pid: int, kill_at: int | None, full_at: int | None) -> Outcome:
    calls = writes = 0
    entering, failing = True, False
    info = _Info()
    while True:
        _ptrace(_SYSCALL, pid)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return Outcome(_ended(status), calls, writes)
        if os.WSTOPSIG(status) != _SYSCALL_STOP:
            continue
        if entering:
            calls += 1
            if calls == kill_at:
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
                return Outcome(_ended(status), calls, writes)
            _ptrace(_SYSCALL_INFO, pid, ctypes.sizeof(info), ctypes.byref(info))
            if _writes(info):
                writes += 1
                failing = writes == full_at
                if failing:
                    _ptrace(_POKEUSER, pid, _ORIG_RAX, ctypes.c_void_p(-1))
        elif failing:
            _ptrace(_POKEUSER, pid, _RAX, ctypes.c_void_p(-errno.ENOSPC))
            failing = False
        entering = not entering


def _writes(info: _Info) -> bool:
    return info.nr in _WRITING and (info.nr != _OPENAT or bool(info.args[2] & _O_CREAT))


def _ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "killed"
    return {DONE: "done", RAISED: "raised"}.get(os.WEXITSTATUS(status), "defect")
