"""The clock is right, as far as that can be seen without asking anybody."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from daemon_core.version import DISTRIBUTION
from llama_orch.doctor.base import Result
from llama_orch.doctor.checks.base import Check
from llama_orch.doctor.judge import clock
from llama_orch.doctor.machine import Look

_TIMEX_BYTES = 512
"""More than any kernel's struct timex."""
_MAXERROR_US = 16_000_000
"""From here on the kernel takes the clock for unsynchronized; systemd's own measure."""


def installed_s() -> float:
    """When this program was installed, in Unix time; 0 where that cannot be seen."""
    with suppress(PackageNotFoundError, OSError):
        files = [file.locate() for file in distribution(DISTRIBUTION).files or () if ".dist-info" in str(file)]
        # METADATA may be as old as a cache; RECORD and INSTALLER are written by whoever installs.
        return max((Path(str(file)).stat().st_mtime for file in files), default=0.0)
    return 0.0


async def _run(look: Look) -> Sequence[Result]:
    now = time.time()  # noqa: TID251 - the clock itself is what is looked at
    facts = clock.Facts(
        now_s=now,
        installed_s=installed_s(),
        synchronized=_synchronized(),
        in_container=look.machine.in_container,
    )
    return clock.judge(facts, datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC"))


def _synchronized() -> bool | None:
    """What the kernel says; asking takes no right."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes, the first field, is 0: nothing is set
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    except (OSError, AttributeError):
        return None
    if answer < 0:
        return None
    maxerror = ctypes.c_long.from_buffer(timex, 3 * ctypes.sizeof(ctypes.c_long)).value
    return maxerror < _MAXERROR_US


CHECK = Check(name="clock", about="the clock is right, and somebody keeps it so", judge=clock, run=_run)
