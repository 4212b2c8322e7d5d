"""What an entry of systemd's journal looks like: the names of its fields, its priority, its bytes.

Decides which field a name of ours becomes, so that whoever writes and whoever reads agree. Values in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

POOL = "LLAMA_ORCH_POOL"
CORRELATION_ID = "LLAMA_ORCH_CORRELATION_ID"
"""Once for each id: a line of an engine may be about several jobs."""
TASK_ID = "LLAMA_ORCH_TASK_ID"
SOURCE = "LLAMA_ORCH_SOURCE"
"""Of lines that are not the daemon's own words: ``engine``."""
ENGINE_SOURCE = "engine"
TIME_MS = "LLAMA_ORCH_TIME_MS"
"""When it happened, in milliseconds since 1970: the journal's own time is when the line was written, a moment later."""
PREFIX = "LLAMA_ORCH_"
_NAMES = {"pool_id": POOL, "correlation_ids": CORRELATION_ID}
MAX_NAME = 64
"""The journal refuses a longer one."""
_FOREIGN = re.compile(r"[^A-Z0-9_]")

INFO, WARNING, ERROR, CRITICAL = 20, 30, 40, 50
"""As ``logging`` has them."""

Field = tuple[str, str]


@lru_cache(maxsize=256)
def field_name(name: str) -> str:
    """The journal's field for a field of a log line: capital letters, digits and underscores are all that it takes."""
    known = _NAMES.get(name)
    return known or (PREFIX + _FOREIGN.sub("_", name.upper()))[:MAX_NAME]


def priority(level: int) -> int:
    """A level of ``logging`` as syslog counts: 2 critical, 3 error, 4 warning, 6 info, 7 debug."""
    if level < INFO:
        return 7
    if level < WARNING:
        return 6
    if level < ERROR:
        return 4
    return 3 if level < CRITICAL else 2


def encoded(fields: Iterable[Field]) -> bytes:
    """The fields as the journal's native protocol has them: a value of several lines goes with its length before it."""
    plain: list[str] = []
    long: list[bytes] = []
    for name, value in fields:
        if "\n" in value:
            data = value.encode(errors="backslashreplace")
            long += (name.encode(), b"\n", len(data).to_bytes(8, "little"), data, b"\n")
        else:
            plain.append(f"{name}={value}\n")
    short = "".join(plain).encode(errors="backslashreplace")
    return b"".join((short, *long)) if long else short


def prefixed(text: str, level: int) -> str:
    """Text for a standard error that the journal reads line by line: each line says its priority."""
    mark = f"<{priority(level)}>"
    return "".join(f"{mark}{line}\n" for line in text.splitlines() or [""])
